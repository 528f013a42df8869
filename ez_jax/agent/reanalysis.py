"""Reanalyse: search again at replay positions and write policy and values back.

MuZero Reanalyse (Schrittwieser et al. 2020, appendix H), EfficientZero section 2. Two choices of
positions serve one function: the batch just drawn, searched with the target network (`sampled`, the
paper), or the least recently refreshed positions, searched with the current parameters (`oldest`,
whose age is all its staleness). A teacher (`teach`) writes nothing back: its search, its values and
its targets of the consistency loss are of the batch just drawn, and come from one encoding.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ez_jax import lowering
from ez_jax.agent import replay as replay_lib
from ez_jax.agent.search import make_recurrent_fn, root_of_state, search, search_from_root
from ez_jax.agent.targets import bootstrap_slots, horizon
from ez_jax.agent.transforms import logits_to_scalar
from ez_jax.config import Config
from ez_jax.networks import Network, Prediction, encode, infer
from ez_jax.observations import frames_to_channels
from ez_jax.types import Array, Batch, Positions, Replay, SearchOutput, Taught

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
        observation, legal = frames_to_channels(frames), replay_lib.legal(replay, positions)
        return search(network, config, variables, key, observation, explore=True, legal=legal)

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
) -> Replay:
    """Writes the network's values alone at `positions [B]`, which count as stale as before."""
    frames = replay_lib.stacks(replay, positions, 1, config.env.stack)
    state = encode(network, variables, frames_to_channels(frames))
    prediction: Prediction = infer(network, variables, "predict", state)
    network_value = logits_to_scalar(prediction.value_logits, config.network)
    return replay_lib.write_values(replay, positions, network_value)


def searched_share(config: Config, size: int) -> int:
    """Samples of a batch of `size` that are searched anew: none with a ratio of 0 alone."""
    ratio = config.reanalyse.ratio
    return max(1, int(size * ratio)) if ratio > 0 else 0


def taught_slots(config: Config) -> int:
    """Slots of each window that a teacher encodes: all, or those of a far horizon that are read."""
    k, n = config.target.unroll_steps, config.target.td_steps
    return min(k + n + 1, 2 * (k + 1))


def teach(network: Network, config: Config, variables: Any, key: Array, batch: Batch) -> Batch:
    """A batch whose policies, values and encoded states are a teacher's, from one encoding.

    An encoding costs as much as many steps of the model. A slowly moving average of the network is
    the target network of the search (EfficientZero) and the teacher of the consistency loss (BYOL,
    Grill et al. 2020, arXiv 2006.07733; SPR, Schwarzer et al. 2021, arXiv 2007.05929).

    Args:
      network: the model.
      config: of the run.
      variables: of the teacher.
      key: typed PRNG key, consumed.
      batch: windows with the frames of all their slots.
    """
    k, (size, length) = config.target.unroll_steps, batch.reward.shape
    searched = searched_share(config, size)
    everything = jnp.arange(size)[:, None]

    # ENCODE once the slots of the unroll and those from which values bootstrap.
    slot = jnp.broadcast_to(jnp.arange(length), (size, length))
    if length > taught_slots(config):
        steps = horizon(batch.age, config)
        ahead = jax.vmap(bootstrap_slots, (0, 0, None))(batch.last, steps, k + 1)
        slot = jnp.concatenate([slot[:, : k + 1], ahead], axis=1)
    stack = slot[..., None] + jnp.arange(config.env.stack)
    frames = batch.frames[everything[..., None], stack]  # [B, slots, S, ...]
    observation = frames_to_channels(frames.reshape(-1, *frames.shape[2:]))
    state = encode(network, variables, observation)
    states = state.reshape(*slot.shape, *state.shape[1:])

    # EVALUATE them.
    prediction: Prediction = infer(network, variables, "predict", state)
    value = logits_to_scalar(prediction.value_logits, config.network).reshape(slot.shape)
    value = jnp.zeros((size, length)).at[everything, slot].set(value)

    # SEARCH from the positions of the unroll: of all samples, or of some from the likeliest to the
    # least likely of the draw. The policies of the others are old, and count for nothing; where
    # nothing is searched those of acting count.
    found, policy_weight = None, None
    if searched:
        sample = jnp.arange(searched) * size // searched
        part = sample, slice(0, k + 1)
        found = _search_states(network, config, variables, key, batch.legal, states, part)
        if searched < size:
            policy_weight = jnp.zeros(size).at[sample].set(size / searched)

    # PROJECT what the consistency loss predicts.
    following = states[:, 1 : k + 1]
    projection = infer(network, variables, "project", following)
    taught = Taught(state=following, projection=projection, policy_weight=policy_weight)
    lesson = batch.replace(network_value=value, taught=taught)
    if found is None:
        return lesson
    policy, search_value = found
    return lesson.replace(
        policy=batch.policy.at[part].set(policy),
        search_value=batch.search_value.at[part].set(search_value),
        staleness=jnp.zeros_like(batch.staleness),
    )


def _search_states(
    network: Network,
    config: Config,
    variables: Any,
    key: Array,
    legal: Array | None,
    states: Array,
    part: tuple[Array, slice],
) -> tuple[Array, Array]:
    """Searches from some states of windows.

    Args:
      network: the model.
      config: of the run.
      variables: of the teacher.
      key: typed PRNG key, consumed.
      legal: of the windows' slots, `[B, L, A]` bool, None where all actions always are.
      states: of their slots, `[B, slots, ...]`.
      part: samples and slots to search from.

    Returns:
      policies `[samples, slots, P]`, and values of the searches `[samples, slots]`.
    """
    roots = states[part]
    shape, roots = roots.shape[:2], roots.reshape(-1, *states.shape[2:])
    root = root_of_state(network, variables, roots, config.search.embedding_dtype)
    recurrent_fn = make_recurrent_fn(network, config)
    if legal is not None:
        legal = legal[part].reshape(-1, legal.shape[-1])
    found = search_from_root(
        root,
        recurrent_fn,
        config.search,
        variables,
        key,
        explore=True,
        legal=legal,
        actions=network.spec.actions,
    )
    return found.policy.reshape(*shape, -1), found.search_value.reshape(shape)


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
    searched = searched_share(config, size)

    def window(part: slice, first: int, stop: int) -> Positions:
        times = drawn.time[part, None] + jnp.arange(first, stop)
        return Positions(jnp.repeat(drawn.lane[part], stop - first), times.ravel())

    # A search brings the network's value with it; the slots behind the unroll and the rest of the
    # batch need the value head alone.
    model = network, config, variables
    if searched:
        part = slice(0, searched)
        replay = search_positions(*model, key, replay, window(part, 0, k + 1), updates)
        replay = evaluate_positions(*model, replay, window(part, k + 1, k + n + 1))
    if searched < size:
        part = slice(searched, None)
        replay = evaluate_positions(*model, replay, window(part, 0, k + n + 1))
    return replay
