"""Replay of whole episodes: N lanes of single frames, on the device, immutable.

`types.Replay` describes the layout. Windows may run past the end of an episode, where `targets`
masks them, but their frames never cross its beginning. `priorities` decides what is drawn.

All functions work on the lanes of one device; `N`, `T`, `B`, `L` as in `types`.
"""

import math

import jax
import jax.numpy as jnp

from ez_jax.config import Config
from ez_jax.types import Array, Batch, Drawn, EnvSpec, Positions, Replay

ROW = 128
"""Bytes of a row of an image: the lanes of a TPU's vector registers."""


def empty(config: Config, spec: EnvSpec, num_lanes: int) -> Replay:
    """Replay with nothing in it, `replay.capacity` slots over all environments."""
    slots = config.replay.capacity // config.env.num_envs
    shape = (num_lanes, slots)
    zeros, ints = jnp.zeros(shape), jnp.zeros(shape, jnp.int32)
    frame = jax.ShapeDtypeStruct(spec.frame_shape, spec.frame_dtype)
    return Replay(
        frame=jnp.zeros((*shape, *jax.eval_shape(to_rows, frame).shape), frame.dtype),
        action=jnp.zeros((*shape, *spec.actions.shape), spec.actions.dtype),
        reward=zeros,
        discount=zeros,
        last=jnp.zeros(shape, bool),
        offset=ints,
        born=ints,
        policy=jnp.zeros((*shape, spec.actions.target_size(config.search.sampled_actions))),
        search_value=zeros,
        network_value=zeros,
        refreshed=ints,
        priority=zeros,
        legal=jnp.ones((*shape, spec.num_actions), bool) if spec.masked else None,
        cursor=jnp.zeros((), jnp.int32),
        frame_shape=tuple(spec.frame_shape),
    )


def to_rows(frame: Array) -> Array:
    """An image's bytes in rows of `ROW`, channel by channel: `[H, W, C]` to `[R, 128]`.

    A vector stays `[D]`. An accelerator pads the last axes of an array, and would rearrange all of
    replay before each gather of images; rows are taken as they lie.
    """
    if frame.ndim == 1:
        return frame
    flat = jnp.moveaxis(frame, -1, 0).ravel()
    return jnp.pad(flat, (0, -flat.size % ROW)).reshape(-1, ROW)


def from_rows(rows: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `to_rows`, behind any leading axes."""
    if len(shape) == 1:
        return rows
    leading, (height, width, channels) = rows.shape[:-2], shape
    # Without the barrier XLA may move the reshape ahead of the gather that made the rows, and
    # rearrange all of replay; on a CPU it may round what reads the images in another order.
    flat = jax.lax.optimization_barrier(rows).reshape(*leading, -1)[..., : math.prod(shape)]
    return jnp.moveaxis(flat.reshape(*leading, channels, height, width), -3, -1)


def write(replay: Replay, enabled: Array, **slot: Array) -> Replay:
    """Writes one slot in each lane if `enabled []`.

    An ordinary slot (not `last`) enters with the largest priority in replay, 1 while it is empty.

    Args:
      replay: to write to.
      enabled: nothing changes where it is false.
      **slot: every field but `cursor` and `priority`, without the time axis.
    """
    slots = replay.action.shape[1]
    # The bits of non-negative floats order as the floats do, and XLA vectorises an integer maximum.
    highest = jnp.max(replay.priority.view(jnp.int32)).view(jnp.float32)
    slot["frame"] = jax.vmap(to_rows)(slot["frame"])
    slot["priority"] = jnp.where(slot["last"], 0.0, jnp.where(highest > 0, highest, 1.0))
    at = replay.cursor % slots

    def set_slot(lanes: Array, x: Array) -> Array:
        kept = jax.lax.dynamic_index_in_dim(lanes, at, axis=1, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(lanes, jnp.where(enabled, x, kept), at, axis=1)

    return replay.replace(
        **{name: set_slot(getattr(replay, name), x) for name, x in slot.items() if x is not None},
        cursor=replay.cursor + enabled,
    )


def slot_times(replay: Replay) -> Array:
    """Absolute slot number in each place of the ring, negative where nothing was written: `[T]`."""
    slots = replay.action.shape[1]
    newest = replay.cursor - 1
    return newest - (newest - jnp.arange(slots)) % slots


def idle(replay: Replay, steps: int) -> Array:
    """Lanes without a reward, of either sign, in their newest `steps` slots: `[N]` bool."""
    recent = slot_times(replay) >= replay.cursor - steps
    return (replay.cursor >= steps) & ~jnp.any((replay.reward != 0) & recent, axis=1)


def stackable(replay: Replay, stack: int) -> Array:
    """Marks the places of the ring whose whole stack is still there: `[T]` bool.

    A ring that has turned has overwritten the frames before its oldest slots.
    """
    slots = replay.action.shape[1]
    lost = jnp.where(replay.cursor > slots, stack - 1, 0)
    return slot_times(replay) >= jnp.maximum(replay.cursor - slots, 0) + lost


def oldest(replay: Replay, size: int, stack: int) -> Positions:
    """The `size` positions whose policy and values were computed longest ago.

    Final frames of time-outs are included: values bootstrap from them.
    """
    slots = replay.action.shape[1]
    # A terminal final frame is worth nothing and needs no search.
    useful = stackable(replay, stack)[None] & (~replay.last | (replay.discount > 0))
    # As floats, exact up to 16 million updates: XLA sorts all integers to find the first few.
    age = jnp.where(useful, -replay.refreshed.astype(jnp.float32), -jnp.inf)
    _, index = jax.lax.top_k(age.ravel(), size)
    return Positions(index // slots, slot_times(replay)[index % slots])


def stacks(replay: Replay, positions: Positions, size: int, stack: int) -> Array:
    """Frames of `size` consecutive slots from each position on, with the `stack - 1` before them.

    Slots before the start of the position's episode repeat its first frame.

    Returns:
      `[B, stack - 1 + size, ...]`.
    """
    slots = replay.action.shape[1]
    start = positions.time - replay.offset[positions.lane, positions.time % slots]
    time = positions.time[:, None] + jnp.arange(1 - stack, size)
    time = jnp.maximum(time, start[:, None])
    rows = replay.frame[positions.lane[:, None], time % slots]
    return from_rows(rows, replay.frame_shape)


def legal(replay: Replay, positions: Positions) -> Array | None:
    """Legal actions at positions, `[B, A]` bool; None where all always are."""
    if replay.legal is None:
        return None
    return replay.legal[positions.lane, positions.time % replay.legal.shape[1]]


def gather(replay: Replay, drawn: Drawn, env_steps: Array, updates: Array, config: Config) -> Batch:
    """Cuts the drawn windows out of replay; `weight` still holds the bare probability."""
    positions = drawn.positions
    slots = replay.action.shape[1]
    k, n, stack = config.target.unroll_steps, config.target.td_steps, config.env.stack
    at = positions.lane[:, None], (positions.time[:, None] + jnp.arange(k + n + 1)) % slots
    shown = k + n + 1 if config.reanalyse.mode == "teacher" else k + 1  # frames
    here = at[0][:, 0], at[1][:, 0]
    return Batch(
        frames=stacks(replay, positions, shown, stack),
        action=replay.action[at],
        reward=replay.reward[at],
        discount=replay.discount[at],
        last=replay.last[at],
        policy=replay.policy[at],
        search_value=replay.search_value[at],
        network_value=replay.network_value[at],
        legal=None if replay.legal is None else replay.legal[at],
        age=env_steps - replay.born[here],
        staleness=updates - replay.refreshed[here],
        weight=drawn.probability,
    )


def refresh(
    replay: Replay,
    positions: Positions,
    updates: Array,
    *,
    network_value: Array,
    policy: Array,
    search_value: Array,
) -> Replay:
    """Writes what a search found back: values `[B]` and policies `[B, P]`."""
    at = _places(replay, positions)
    return replay.replace(
        network_value=replay.network_value.at[at].set(network_value, mode="drop"),
        policy=replay.policy.at[at].set(policy, mode="drop"),
        search_value=replay.search_value.at[at].set(search_value, mode="drop"),
        refreshed=replay.refreshed.at[at].set(updates, mode="drop"),
    )


def write_values(replay: Replay, positions: Positions, network_value: Array) -> Replay:
    """Writes values of the network `[B]` back, which refreshes no position."""
    at = _places(replay, positions)
    return replay.replace(network_value=replay.network_value.at[at].set(network_value, mode="drop"))


def _places(replay: Replay, positions: Positions) -> tuple[Array, Array]:
    """Lanes and places of the ring; a lane out of range, which is dropped, where the time is
    negative: nothing was written there yet.
    """
    num_lanes, slots = replay.reward.shape
    return jnp.where(positions.time >= 0, positions.lane, num_lanes), positions.time % slots
