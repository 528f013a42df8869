"""Reanalyse: search again at replay positions and write policy and values back.

MuZero Reanalyse (Schrittwieser et al. 2020, appendix H), EfficientZero section 2. Two choices of
positions serve one function: the batch just drawn, searched with the target network (`sampled`, the
paper), or the least recently refreshed positions, searched with the current parameters (`oldest`,
whose age is all its staleness).
"""

from typing import Any

import jax.numpy as jnp

from ez_jax import lowering
from ez_jax.agent import replay as replay_lib
from ez_jax.agent.search import search
from ez_jax.agent.transforms import logits_to_scalar
from ez_jax.config import Config
from ez_jax.networks import Network, Prediction, encode, infer
from ez_jax.observations import frames_to_channels
from ez_jax.types import Array, Positions, Replay, SearchOutput

ROOTS_AT_ONCE = 256
"""On a CPU: at the paper's sizes the tree of `sampled` reanalysis would take a gigabyte."""


def search_positions(
    network: Network,
    config: Config,
    variables: Any,
    key: Array,
    replay: Replay,
    positions: Positions,
    updates: Array,
) -> Replay:
    """Searches at `positions [B]` with exploration noise, as the paper does, and refreshes them."""

    def searched(key: Array, positions: Positions) -> SearchOutput:
        frames = replay_lib.stacks(replay, positions, 1, config.env.stack)
        observation = frames_to_channels(frames)
        return search(network, config, variables, key, observation, explore=True)

    found = lowering.map_in_pieces(searched, key, positions, ROOTS_AT_ONCE)
    return replay_lib.refresh(
        replay,
        positions,
        updates,
        network_value=found.network_value,
        policy=found.policy,
        search_value=found.search_value,
    )


def evaluate_positions(
    network: Network,
    config: Config,
    variables: Any,
    replay: Replay,
    positions: Positions,
    updates: Array,
) -> Replay:
    """Refreshes the network's values alone at `positions [B]`."""
    frames = replay_lib.stacks(replay, positions, 1, config.env.stack)
    state = encode(network, variables, frames_to_channels(frames))
    prediction: Prediction = infer(network, variables, "predict", state)
    network_value = logits_to_scalar(prediction.value_logits)
    return replay_lib.refresh(replay, positions, updates, network_value=network_value)


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
    return search_positions(network, config, variables, key, replay, positions, updates)


def reanalyse_sampled(
    network: Network,
    config: Config,
    variables: Any,
    key: Array,
    replay: Replay,
    drawn: Positions,
    updates: Array,
) -> Replay:
    """Refreshes what a drawn batch will read.

    That is the policies of its unroll positions and the values of its whole windows. Slots beyond
    the end of an episode belong to another one: their stack starts there, and refreshing them is
    harmless.
    """
    k, n, size = config.target.unroll_steps, config.target.td_steps, drawn.time.shape[0]
    ratio = config.reanalyse.ratio
    searched = max(1, int(size * ratio)) if ratio > 0 else 0

    def window(part: slice, first: int, stop: int) -> Positions:
        times = drawn.time[part, None] + jnp.arange(first, stop)
        return Positions(jnp.repeat(drawn.lane[part], stop - first), times.ravel())

    # A search brings the network's value with it; the slots behind the unroll and the rest of the
    # batch need the value head alone.
    model = network, config, variables
    if searched:
        part = slice(0, searched)
        replay = search_positions(*model, key, replay, window(part, 0, k + 1), updates)
        replay = evaluate_positions(*model, replay, window(part, k + 1, k + n + 1), updates)
    if searched < size:
        part = slice(searched, None)
        replay = evaluate_positions(*model, replay, window(part, 0, k + n + 1), updates)
    return replay
