"""Prioritised replay of whole episodes: N lanes of single frames, on the device, immutable.

Prioritised sampling follows Schaul et al. 2016 (arXiv 1511.05952), without replacement. Windows may
run past the end of an episode, where `targets` masks them, but their frames never cross its
beginning. A position can be drawn once the slots that its targets read are written: nothing is ever
cut at a block's end.

All functions work on the lanes of one device; `N`, `T`, `B`, `L` as in `types`.
"""

import jax
import jax.numpy as jnp

from ez_jax.config import Config
from ez_jax.types import Batch, EnvSpec, Positions, Replay

Array = jax.Array
MIN_PRIORITY = 1e-6
BLOCK = 64
"""Positions that are drawn as one at first."""


def empty(config: Config, spec: EnvSpec, num_lanes: int) -> Replay:
    """Replay with nothing in it, `replay.capacity` slots over all environments."""
    slots = config.replay.capacity // config.env.num_envs
    shape = (num_lanes, slots)
    zeros, ints = jnp.zeros(shape), jnp.zeros(shape, jnp.int32)
    return Replay(
        frame=jnp.zeros((*shape, *spec.frame_shape), spec.frame_dtype),
        action=ints,
        reward=zeros,
        discount=zeros,
        last=jnp.zeros(shape, bool),
        offset=ints,
        born=ints,
        policy=jnp.zeros((*shape, spec.num_actions)),
        root_value=zeros,
        value=zeros,
        refreshed=ints,
        priority=zeros,
        cursor=jnp.zeros((), jnp.int32),
    )


def write(replay: Replay, enabled: Array, **slot: Array) -> Replay:
    """Writes one slot in each lane where `enabled []`; `slot` has every field but `cursor` and
    `priority`, without the time axis.

    With ordinary slots (not `last`) the priority is the largest in replay, 1 while it is empty.
    """
    slots = replay.action.shape[1]
    # The bits of numbers that are not negative have their order, and of integers a maximum is found
    # many at a time.
    highest = jnp.max(replay.priority.view(jnp.int32)).view(jnp.float32)
    slot["priority"] = jnp.where(slot["last"], 0.0, jnp.where(highest > 0, highest, 1.0))
    at = replay.cursor % slots

    def put(lanes: Array, x: Array) -> Array:
        kept = jax.lax.dynamic_index_in_dim(lanes, at, axis=1, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(lanes, jnp.where(enabled, x, kept), at, axis=1)

    return replay.replace(
        **{name: put(getattr(replay, name), x) for name, x in slot.items()},
        cursor=replay.cursor + enabled,
    )


def prioritise_by_model_error(replay: Replay, discount: float, enabled: Array) -> Replay:
    """Gives the last but one slot the priority |r + gamma v' - v|, the Bellman error of the network
    that acted, where `enabled []`.

    EfficientZero-V2's "priority precalculation" (appendix A); one step, since that is known as soon
    as the next slot is written.
    """
    slots = replay.action.shape[1]
    at, newest = (replay.cursor - 2) % slots, (replay.cursor - 1) % slots
    target = replay.reward[:, at] + discount * replay.discount[:, at] * replay.value[:, newest]
    error = jnp.abs(target - replay.value[:, at]) + MIN_PRIORITY
    # A final frame is never drawn, and before the second slot there is none.
    known = ~replay.last[:, at] & (replay.cursor > 1) & enabled
    return replay.replace(
        priority=replay.priority.at[:, at].set(jnp.where(known, error, replay.priority[:, at]))
    )


def slot_times(replay: Replay) -> Array:
    """The absolute slot number that each place of the ring holds, negative where nothing was
    written: `[T]`.
    """
    slots = replay.action.shape[1]
    newest = replay.cursor - 1
    return newest - (newest - jnp.arange(slots)) % slots


def stackable(replay: Replay, stack: int) -> Array:
    """Which places hold a slot whose whole stack is still there, `[T]`: a ring that has turned
    overwrote the first ones.
    """
    slots = replay.action.shape[1]
    lost = jnp.where(replay.cursor > slots, stack - 1, 0)
    return slot_times(replay) >= jnp.maximum(replay.cursor - slots, 0) + lost


def drawable(replay: Replay, config: Config) -> Array:
    """Which places a window may start from, `[N, T]`: everything that it reads is there, and a step
    was taken.
    """
    ahead = config.target.unroll_steps + config.target.td_steps
    ready = stackable(replay, config.env.stack) & (slot_times(replay) < replay.cursor - ahead)
    return ready[None] & (replay.priority > 0)


def gumbel_top_k(key: Array, weight: Array, size: int) -> tuple[Array, Array]:
    """Draws indices one after another without replacement, P(i) ~ weight_i, in one pass.

    The largest of log weight_i + Gumbel noise are such a draw (Vieira 2014). The largest of a block
    is itself log of its total weight + Gumbel noise, and given that, the others follow by
    truncation (Kool et al. 2019, arXiv 1903.06059, section 3): only the blocks that hold a winner
    need noise for each element.

    Args:
      key: typed PRNG key, consumed.
      weight: `[M]`, not negative.
      size: at most so many as have a positive weight.

    Returns:
      indices `[size]`, and the probability of each in a single draw `[size]`.
    """
    weight = jnp.pad(weight, (0, -weight.size % BLOCK)).reshape(
        BLOCK, -1
    )  # a column is a block: sums of columns are fast
    block_key, key = jax.random.split(key)
    total = jnp.sum(weight, axis=0)
    winner, block = jax.lax.top_k(
        jnp.log(total) + jax.random.gumbel(block_key, total.shape), min(size, total.size)
    )
    score = jnp.log(weight[:, block]) + jax.random.gumbel(key, (BLOCK, block.size))
    # -log(exp(-winner) - exp(-max) + exp(-score)): the largest score becomes `winner`, and the
    # others stay below it.
    below = score - jnp.max(score, axis=0)
    v = winner - score + jnp.log1p(-jnp.exp(below))
    score = jnp.where(
        jnp.isfinite(score),
        winner - jnp.maximum(v, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(v))),
        -jnp.inf,
    )
    _, place = jax.lax.top_k(score.ravel(), size)
    row, column = place // block.size, block[place % block.size]
    return row * total.size + column, weight[row, column] / jnp.sum(total)


def sample(replay: Replay, key: Array, size: int, config: Config) -> tuple[Positions, Array]:
    """Draws positions without replacement, P(i) ~ priority_i^alpha.

    Returns:
      positions `[size]`, and the probability of each in a single draw `[size]`.
    """
    slots = replay.action.shape[1]
    # Not `**`, which takes three times as long; what has no priority is not drawable.
    weight = jnp.exp(config.replay.priority_exponent * jnp.log(replay.priority))
    weight = jnp.where(drawable(replay, config), weight, 0.0).ravel()
    index, probability = gumbel_top_k(key, weight, size)
    return Positions(index // slots, slot_times(replay)[index % slots]), probability


def importance_weights(
    probability: Array, num_drawable: Array, beta: Array, least: float = 0.0
) -> Array:
    """(N P(i))^-beta, divided by the largest in the batch and raised to `least`: `[B]`."""
    weight = (num_drawable * probability) ** -beta
    return jnp.maximum(weight / jnp.max(weight), least)


def oldest(replay: Replay, size: int, stack: int) -> Positions:
    """The `size` positions whose policy and values were computed longest ago, final frames of
    time-outs included.
    """
    slots = replay.action.shape[1]
    # A terminal final frame is worth nothing and needs no search.
    useful = stackable(replay, stack)[None] & (~replay.last | (replay.discount > 0))
    # As floats, exact up to 16 million updates: of integers XLA sorts all to find the first few.
    age = jnp.where(useful, -replay.refreshed.astype(jnp.float32), -jnp.inf)
    _, index = jax.lax.top_k(age.ravel(), size)
    return Positions(index // slots, slot_times(replay)[index % slots])


def stacks(replay: Replay, positions: Positions, first: int, size: int, stack: int) -> Array:
    """Frames of `size` consecutive slots, from `first` after each position, with the `stack - 1`
    before them.

    Slots before the start of the position's episode repeat its first frame.

    Returns:
      `[B, stack - 1 + size, ...]`.
    """
    slots = replay.action.shape[1]
    start = positions.time - replay.offset[positions.lane, positions.time % slots]
    time = positions.time[:, None] + jnp.arange(first - stack + 1, first + size)
    time = jnp.maximum(time, start[:, None])
    return replay.frame[positions.lane[:, None], time % slots]


def gather(
    replay: Replay,
    positions: Positions,
    probability: Array,
    env_steps: Array,
    updates: Array,
    config: Config,
) -> Batch:
    """Cuts the windows out of replay; `weight` still holds the bare probability."""
    slots = replay.action.shape[1]
    k, n = config.target.unroll_steps, config.target.td_steps
    at = positions.lane[:, None], (positions.time[:, None] + jnp.arange(k + n + 1)) % slots
    here = at[0][:, 0], at[1][:, 0]
    return Batch(
        positions=positions,
        frames=stacks(replay, positions, 0, k + 1, config.env.stack),
        action=replay.action[at],
        reward=replay.reward[at],
        discount=replay.discount[at],
        last=replay.last[at],
        policy=replay.policy[at],
        root_value=replay.root_value[at],
        value=replay.value[at],
        age=env_steps - replay.born[here],
        staleness=updates - replay.refreshed[here],
        weight=probability,
    )


def set_priority(replay: Replay, positions: Positions, priority: Array) -> Replay:
    """New priorities `[B]` at drawn positions."""
    slots = replay.action.shape[1]
    return replay.replace(
        priority=replay.priority.at[positions.lane, positions.time % slots].set(priority)
    )


def refresh(
    replay: Replay,
    positions: Positions,
    updates: Array,
    *,
    value: Array,
    policy: Array | None = None,
    root_value: Array | None = None,
    valid: Array | None = None,
) -> Replay:
    """Writes reanalysed values (and, after a search, policies) back; positions that are not `valid
    [B]` are left alone.
    """
    num_lanes, slots = replay.action.shape
    lane = (
        positions.lane if valid is None else jnp.where(valid, positions.lane, num_lanes)
    )  # out of range: dropped
    at = lane, positions.time % slots
    replay = replay.replace(value=replay.value.at[at].set(value, mode="drop"))
    if policy is None:
        return replay
    return replay.replace(
        policy=replay.policy.at[at].set(policy, mode="drop"),
        root_value=replay.root_value.at[at].set(root_value, mode="drop"),
        refreshed=replay.refreshed.at[at].set(updates, mode="drop"),
    )
