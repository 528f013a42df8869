"""Reanalyse: search again at replay positions and write policy and values back (MuZero Reanalyse,
EfficientZero section 2).

Two choices of positions serve one function: the batch just drawn with the target network
(`sampled`, the paper), or the least recently refreshed ones with the current parameters (`oldest`,
whose age is all its staleness).
"""

from typing import Any

import jax.numpy as jnp

from ez_jax import lowering
from ez_jax import replay as replay_lib
from ez_jax.config import Config
from ez_jax.networks import Network, encode, observations
from ez_jax.search import SearchOutput, search
from ez_jax.transforms import logits_to_scalar
from ez_jax.types import Array, Positions, Replay

ROOTS_AT_ONCE = 256
"""On a CPU: the tree of `sampled` reanalysis in the paper's sizes would take a gigabyte."""


def search_positions(
    network: Network,
    config: Config,
    variables: Any,
    key: Array,
    replay: Replay,
    positions: Positions,
    updates: Array,
    valid: Array,
) -> Replay:
    """Searches at `positions [B]` with exploration noise, as the paper does, and writes the results
    back.
    """

    def searched(key: Array, positions: Positions) -> SearchOutput:
        frames = replay_lib.stacks(replay, positions, 0, 1, config.env.stack)
        return search(
            network, config, variables, key, observations(frames, config.env.stack, 0), explore=True
        )

    found = lowering.map_in_pieces(searched, key, positions, ROOTS_AT_ONCE)
    return replay_lib.refresh(
        replay,
        positions,
        updates,
        value=found.value,
        policy=found.policy,
        root_value=found.root_value,
        valid=valid,
    )


def evaluate_positions(
    network: Network,
    config: Config,
    variables: Any,
    replay: Replay,
    positions: Positions,
    updates: Array,
    valid: Array,
) -> Replay:
    """Value head alone at `positions [B]`."""
    frames = replay_lib.stacks(replay, positions, 0, 1, config.env.stack)
    state = encode(network, variables, observations(frames, config.env.stack, 0))
    prediction = network.apply(variables, state, method=Network.predict)
    return replay_lib.refresh(
        replay, positions, updates, value=logits_to_scalar(prediction.value_logits), valid=valid
    )


def reanalyse_oldest(
    network: Network,
    config: Config,
    variables: Any,
    key: Array,
    replay: Replay,
    size: int,
    updates: Array,
) -> Replay:
    """Refreshes the `size` stalest positions of replay."""
    positions = replay_lib.oldest(replay, size, config.env.stack)
    return search_positions(
        network, config, variables, key, replay, positions, updates, positions.time >= 0
    )


def reanalyse_sampled(
    network: Network,
    config: Config,
    variables: Any,
    key: Array,
    replay: Replay,
    drawn: Positions,
    updates: Array,
) -> Replay:
    """Refreshes what a drawn batch will read: policies of its unroll positions, values of all its
    windows.

    Slots beyond the end of an episode belong to another one: their stack starts there, and
    refreshing them is harmless.
    """
    k, n = config.target.unroll_steps, config.target.td_steps
    searched = (
        max(1, int(drawn.time.shape[0] * config.reanalyse.ratio))
        if config.reanalyse.ratio > 0
        else 0
    )

    def unrolled(part: slice, first: int, stop: int) -> Positions:
        steps = jnp.arange(first, stop)
        times = drawn.time[part, None] + steps
        return Positions(jnp.repeat(drawn.lane[part], stop - first), times.ravel())

    # Values come with the search where there is one; the slots behind and the unsearched rest need
    # the value head alone.
    if searched:
        positions = unrolled(slice(0, searched), 0, k + 1)
        replay = search_positions(
            network, config, variables, key, replay, positions, updates, positions.time >= 0
        )
        positions = unrolled(slice(0, searched), k + 1, k + n + 1)
        replay = evaluate_positions(
            network, config, variables, replay, positions, updates, positions.time >= 0
        )
    if searched < drawn.time.shape[0]:
        positions = unrolled(slice(searched, None), 0, k + n + 1)
        replay = evaluate_positions(
            network, config, variables, replay, positions, updates, positions.time >= 0
        )
    return replay
