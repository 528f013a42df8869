"""Replay and its writer: frames, positions, reanalysis and the bookkeeping of episodes, on scripted
environments.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.scripted import (
    ACTIONS,
    LANES,
    SLOTS,
    STACK,
    STEPS,
    TD,
    UNROLL,
    Script,
    drawable,
    kept,
    make_config,
    play,
    record,
    selection,
    whole,
)

from ez_jax.agent import replay as replay_lib
from ez_jax.observations import push_frame
from ez_jax.types import Drawn, Positions

gather = jax.jit(replay_lib.gather, static_argnums=4)
stacks = jax.jit(replay_lib.stacks, static_argnums=(2, 3))
write = jax.jit(lambda replay, enabled, slot: replay_lib.write(replay, enabled, **slot))


# SLOTS


def test_rows_of_images():
    """84 x 84 bytes fill 55 rows and the eighth of one; colours lie one after another; vectors
    stay."""
    colours = jnp.arange(8 * 16 * 3, dtype=jnp.uint8).reshape(8, 16, 3)
    rows = replay_lib.to_rows(colours)
    np.testing.assert_array_equal(rows, colours.transpose(2, 0, 1).reshape(3, 128))
    np.testing.assert_array_equal(replay_lib.from_rows(rows, (8, 16, 3)), colours)
    frame = np.random.default_rng(0).integers(0, 256, (84, 84, 1)).astype(np.uint8)
    rows = replay_lib.to_rows(jnp.asarray(frame))
    assert rows.shape == (56, 128) and rows.dtype == np.uint8
    assert rows[55, :16].tolist() == frame[83, -16:, 0].tolist() and not rows[55, 16:].any()
    several = jnp.stack([rows, rows + 1])[None]
    back = replay_lib.from_rows(several, frame.shape)
    np.testing.assert_array_equal(back, [[frame, frame + 1]])
    vector = jnp.arange(5.0)
    np.testing.assert_array_equal(replay_lib.to_rows(vector), vector)
    np.testing.assert_array_equal(replay_lib.from_rows(vector[None], (5,)), vector[None])


@pytest.mark.parametrize("steps", STEPS)
def test_slots_hold_the_script(steps):
    script, actor, replay = play(steps)
    assert int(replay.cursor) == int(actor.acts) == steps
    times = np.asarray(replay_lib.slot_times(replay))
    assert sorted(times[times >= 0]) == list(kept(steps))
    assert all(time % SLOTS == place for place, time in enumerate(times))
    replay, steps_taken = jax.device_get(replay), np.cumsum((~script.last).sum(axis=0))
    for lane in range(2):
        for slot in kept(steps):
            at = lane, slot % SLOTS
            frame = replay_lib.from_rows(replay.frame[at], replay.frame_shape)
            np.testing.assert_array_equal(frame, script.frame[lane, slot])
            for name in ("reward", "discount", "last", "offset"):
                assert getattr(replay, name)[at] == getattr(script, name)[lane, slot], (
                    name,
                    lane,
                    slot,
                )
            assert replay.action[at] == (slot + lane) % ACTIONS
            assert replay.born[at] == (steps_taken[slot - 1] if slot else 0)
            assert replay.refreshed[at] == slot
            assert (
                replay.search_value[at] == 1000 * lane + slot
                and replay.network_value[at] == -1000 * lane - slot
            )
            np.testing.assert_array_equal(replay.policy[at], [lane, slot, 0])


@pytest.mark.parametrize("steps", [0, 11, 24])
def test_write_can_be_disabled(steps):
    """Then every leaf keeps its bits, the cursor too; enabled, the same slot changes all of them,
    in its place alone.
    """
    _, _, replay = play(steps)
    replay = replay.replace(legal=jnp.zeros((*replay.action.shape, ACTIONS), bool))
    slot = {
        name: jnp.full_like(getattr(replay, name)[:, 0], 3)
        for name in replay.__dataclass_fields__
        if name not in ("cursor", "priority", "frame", "frame_shape")
    } | {"frame": jnp.full((replay.action.shape[0], *replay.frame_shape), 3, jnp.uint8)}
    slot["last"] = ~replay.last[:, steps % SLOTS]
    same, written = write(replay, False, slot), write(replay, True, slot)
    for name in (*slot, "priority", "cursor"):
        before, off, on = (np.asarray(getattr(r, name)) for r in (replay, same, written))
        assert off.dtype == before.dtype and off.tobytes() == before.tobytes(), name
        if name != "cursor":
            others = np.arange(SLOTS) != steps % SLOTS
            np.testing.assert_array_equal(on[:, others], before[:, others], err_msg=name)
        if name not in ("cursor", "priority"):
            new = on[:, steps % SLOTS]
            if name == "frame":
                new = replay_lib.from_rows(new, replay.frame_shape)
            np.testing.assert_array_equal(new, slot[name], err_msg=name)
    assert int(written.cursor) == steps + 1


def test_the_actor_sees_what_replay_will_show():
    """The running stack is the one that replay cuts out of single frames later."""
    config, script = make_config(), Script(LANES)
    actor, replay = script.start(config)
    for slot in range(26):
        for lane in range(2):
            np.testing.assert_array_equal(
                np.moveaxis(actor.stack[lane], -1, 0)[..., None], script.stack(lane, slot)
            )
        actor, replay = record(
            actor, replay, selection(2, slot), script.timestep(slot), np.int32(0), config
        )


def test_push_frame():
    """Oldest first; a first frame fills the stack."""
    stack = jnp.arange(6, dtype=jnp.float32).reshape(2, 3)
    pushed = push_frame(stack, jnp.array([[7.0], [8.0]]), jnp.array([False, True]))
    np.testing.assert_array_equal(pushed, [[1, 2, 7], [8, 8, 8]])


# WINDOWS


@pytest.mark.parametrize("steps", STEPS)
def test_stacks_never_cross_the_start_of_an_episode(steps):
    """Also where the ring's seam runs through the stack."""
    script, _, replay = play(steps)
    positions = [(lane, slot) for lane in range(2) for slot in whole(steps)]
    lane, time = map(np.array, zip(*positions))
    frames = np.asarray(stacks(replay, Positions(lane, time), 1, STACK))
    assert frames.shape == (len(positions), STACK, 2, 2, 1)
    for found, (lane, slot) in zip(frames, positions):
        np.testing.assert_array_equal(found, script.stack(lane, slot))
        assert len(set(found[:, 1, 0, 0])) == 1  # one episode
    # The first slots of an episode repeat its first frame.
    starts = [i for i, (lane, slot) in enumerate(positions) if script.offset[lane, slot] == 0]
    assert starts and all((frames[i] == frames[i][:1]).all() for i in starts)


@pytest.mark.parametrize("steps", STEPS)
def test_windows_are_contiguous(steps):
    """Every drawable position, field by field, the seam of the ring included."""
    config = make_config()
    script, _, replay = play(steps)
    lane, place = np.nonzero(np.asarray(drawable(replay, config)))
    time = np.asarray(replay_lib.slot_times(replay))[place]
    size, length = len(lane), UNROLL + TD + 1
    batch = jax.device_get(
        gather(
            replay,
            Drawn(Positions(lane, time), np.full(size, 0.5, np.float32)),
            1000,
            500,
            config,
        )
    )
    assert batch.frames.shape == (size, STACK + UNROLL, 2, 2, 1) and batch.policy.shape == (
        size,
        length,
        ACTIONS,
    )
    crossed = 0
    for b in range(size):
        slots = time[b] + np.arange(length)
        for name in ("reward", "discount", "last"):
            np.testing.assert_array_equal(
                getattr(batch, name)[b], getattr(script, name)[lane[b], slots]
            )
        np.testing.assert_array_equal(batch.action[b], (slots + lane[b]) % ACTIONS)
        np.testing.assert_array_equal(batch.search_value[b], 1000 * lane[b] + slots)
        np.testing.assert_array_equal(batch.network_value[b], -1000 * lane[b] - slots)
        np.testing.assert_array_equal(batch.policy[b, :, 1], slots)
        start = time[b] - script.offset[lane[b], time[b]]
        for i, slot in enumerate(range(time[b] - STACK + 1, time[b] + UNROLL + 1)):
            np.testing.assert_array_equal(
                batch.frames[b, i], script.frame[lane[b], max(slot, start)]
            )
        crossed += slots[0] // SLOTS < slots[-1] // SLOTS
        taken = (~script.last[:, : time[b]]).sum()
        assert (
            batch.age[b] == 1000 - taken
            and batch.staleness[b] == 500 - time[b]
            and batch.weight[b] == 0.5
        )
    assert (crossed > 0) == (steps > SLOTS)


# REANALYSIS


def test_refresh_writes_only_valid_positions():
    """Beyond the seam, too; where no slot was written (a negative time) nothing is."""
    _, _, replay = play(24)
    positions = Positions(np.array([0, 1, 1]), np.array([13, -12, 17]))
    policy = np.full((3, ACTIONS), 1 / 3, np.float32)
    new = replay_lib.refresh(
        replay,
        positions,
        99,
        network_value=jnp.array([5.0, 6.0, 7.0]),
        policy=policy,
        search_value=jnp.array([50.0, 60.0, 70.0]),
    )
    expected = {name: np.array(getattr(replay, name)) for name in replay.__dataclass_fields__}
    for lane, place, value in ((0, 13, 5.0), (1, 1, 7.0)):
        expected["network_value"][lane, place] = value
        expected["search_value"][lane, place] = 10 * value
        expected["policy"][lane, place], expected["refreshed"][lane, place] = 1 / 3, 99
    for name, x in expected.items():
        np.testing.assert_array_equal(getattr(new, name), x, err_msg=name)


def test_refresh_of_values_alone():
    """Policies and the time of the last search stay."""
    _, _, replay = play(24)
    positions = Positions(np.array([0, 1]), np.array([15, 16]))
    new = replay_lib.write_values(replay, positions, jnp.array([5.0, 6.0]))
    value = np.array(replay.network_value)
    value[0, 15], value[1, 0] = 5.0, 6.0
    np.testing.assert_array_equal(new.network_value, value)
    assert all(
        getattr(new, name) is getattr(replay, name)
        for name in ("policy", "search_value", "refreshed", "priority")
    )


def oldest(replay, size):
    """`(lane, time)` of the stalest, in order."""
    positions = replay_lib.oldest(replay, size, STACK)
    return list(zip(positions.lane.tolist(), positions.time.tolist()))


def test_oldest():
    """Terminal final frames are left out, those of time-outs are not."""
    script, _, replay = play(11)
    assert script.last[0, 3] and script.discount[0, 3] == 0  # terminal
    assert script.last[0, 9] and script.discount[0, 9] == 1  # time-out
    refreshed = np.full((2, SLOTS), 1000, np.int32)
    stale = [(1, 5), (0, 3), (0, 9), (1, 10), (0, 0)]
    for rank, at in enumerate(stale):
        refreshed[at] = rank
    replay = replay.replace(refreshed=jnp.array(refreshed))
    assert oldest(replay, 4) == [(1, 5), (0, 9), (1, 10), (0, 0)]


@pytest.mark.parametrize("steps", STEPS)
def test_oldest_covers_everything_useful_first(steps):
    """Neither places never written nor slots with an overwritten stack come before the last useful
    one.
    """
    script, _, replay = play(steps)
    useful = {
        (lane, slot)
        for lane in range(2)
        for slot in whole(steps)
        if not (script.last[lane, slot] and script.discount[lane, slot] == 0)
    }
    found = oldest(replay, len(useful))
    assert set(found) == useful
    # As played, slot s was refreshed at update s.
    assert [slot for _, slot in found] == sorted(slot for _, slot in useful)
