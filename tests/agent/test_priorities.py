"""Which positions of replay are drawn, how often, and what sets their priorities, on scripted
environments.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.scripted import (
    ACTIONS,
    LANES,
    SLOTS,
    SPEC,
    STEPS,
    TD,
    UNROLL,
    Script,
    drawable,
    make_config,
    play,
    record,
    selection,
    whole,
)

from ez_jax import config as config_lib
from ez_jax.agent import priorities
from ez_jax.agent import replay as replay_lib
from ez_jax.types import Positions

# DRAWING


@pytest.mark.parametrize("steps", [2, 4, 5, *STEPS])
def test_drawable(steps):
    """Not: final frames, the newest slots whose targets are not complete, and slots with an
    overwritten stack.
    """
    script, _, replay = play(steps)
    lanes, places = np.nonzero(np.asarray(drawable(replay, make_config())))
    found = set(zip(lanes, np.asarray(replay_lib.slot_times(replay))[places]))
    expected = {
        (lane, slot)
        for lane in range(2)
        for slot in whole(steps)
        if slot + UNROLL + TD < steps and not script.last[lane, slot]
    }
    assert found == expected
    assert bool(expected) == (steps > UNROLL + TD)


def test_priority_of_new_slots():
    """The largest in replay, 1 while it is empty, 0 for a final frame."""
    config, script = make_config(), Script(LANES)
    actor, replay = script.start(config)
    expected = np.zeros((2, SLOTS), np.float32)
    for slot in range(8):
        if slot == 2:
            replay = priorities.set_priority(
                replay, Positions(np.array([0, 1]), np.array([0, 1])), jnp.array([0.25, 5.0])
            )
            expected[0, 0], expected[1, 1] = 0.25, 5.0
        if slot == 6:
            everywhere = np.nonzero(expected)
            replay = priorities.set_priority(
                replay, Positions(*everywhere), jnp.full(len(everywhere[0]), 0.125)
            )
            expected[everywhere] = 0.125
        actor, replay = record(
            actor, replay, selection(2, slot), script.timestep(slot), np.int32(0), config
        )
        expected[:, slot] = np.where(
            script.last[:, slot], 0, 1.0 if slot < 2 else 5.0 if slot < 6 else 0.125
        )
        np.testing.assert_array_equal(replay.priority, expected)
    assert script.last[:, :8].any()


@functools.cache
def drawer(size, alpha):
    config = make_config(replay__priority_exponent=alpha)
    return jax.jit(
        jax.vmap(lambda replay, key: priorities.sample(replay, key, size, config), (None, 0))
    )


def with_priorities(steps=24):
    """Replay with a different priority at each drawable slot, and the chances that alpha = 0.6
    gives them.
    """
    _, _, replay = play(steps)
    allowed = np.asarray(drawable(replay, make_config()))
    priority = np.where(replay.priority > 0, 100.0, 0.0).astype(np.float32)
    priority[allowed] = np.geomspace(0.01, 4.0, allowed.sum())
    chance = np.where(allowed, priority.astype(np.float64) ** 0.6, 0.0)
    return replay.replace(priority=jnp.array(priority)), allowed, chance / chance.sum()


def test_sampling_follows_the_priorities():
    """P(i) ~ priority^0.6, and the probability that comes with a draw says so."""
    replay, allowed, chance = with_priorities()
    draws = 40_000
    positions, probability = drawer(1, 0.6)(replay, jax.random.split(jax.random.key(0), draws))
    lane, time = np.asarray(positions.lane)[:, 0], np.asarray(positions.time)[:, 0]
    assert set(time) <= set(whole(24))
    place = time % SLOTS
    np.testing.assert_allclose(probability[:, 0], chance[lane, place], rtol=1e-4)
    counts = np.zeros_like(chance)
    np.add.at(counts, (lane, place), 1)
    assert not counts[~allowed].any()
    error = np.sqrt(chance * (1 - chance) / draws)
    assert (np.abs(counts / draws - chance) <= 4 * error).all()
    # Uniform draws would be far out of these bounds.
    assert (np.abs(allowed / allowed.sum() - chance) > 8 * error)[allowed].mean() > 0.8


def test_sampling_without_priorities_is_uniform():
    """alpha = 0."""
    replay, allowed, _ = with_priorities()
    _, probability = drawer(4, 0.0)(replay, jax.random.split(jax.random.key(1), 50))
    np.testing.assert_allclose(probability, 1 / allowed.sum(), rtol=1e-5)


def test_draws_are_without_replacement():
    """Also a batch of everything that is there holds each position once."""
    replay, allowed, _ = with_priorities()
    everything = int(allowed.sum())
    for size, keys in ((8, 300), (everything, 20)):
        positions, _ = drawer(size, 0.6)(replay, jax.random.split(jax.random.key(2), keys))
        place = np.asarray(positions.lane) * SLOTS + np.asarray(positions.time) % SLOTS
        assert all(len(set(row)) == size for row in place)
        assert allowed.ravel()[place].all()


def test_the_second_draw_follows_the_remaining_priorities():
    """P(i, then j) = p_i p_j / (1 - p_i) over the three positions that have any priority."""
    _, _, replay = play(11)
    allowed = np.argwhere(np.asarray(drawable(replay, make_config())))
    priority, chance = np.zeros((2, SLOTS), np.float32), np.array([0.5, 0.3, 0.2])
    index = {}
    for i, at in enumerate(allowed[[0, 3, -1]]):
        priority[tuple(at)], index[tuple(at)] = chance[i], i
    draws = 20_000
    replay = replay.replace(priority=jnp.array(priority))
    positions, _ = drawer(2, 1.0)(replay, jax.random.split(jax.random.key(3), draws))
    counts = np.zeros((3, 3))
    for lanes, times in zip(np.asarray(positions.lane), np.asarray(positions.time)):
        first, second = ((lane, time % SLOTS) for lane, time in zip(lanes, times))
        counts[index[first], index[second]] += 1
    expected = chance[:, None] * chance[None] / (1 - chance[:, None]) * (1 - np.eye(3))
    assert (
        np.abs(counts / draws - expected) <= 4 * np.sqrt(expected * (1 - expected) / draws)
    ).all()


@pytest.mark.parametrize(
    "places", [(0, 1, 2), (0, 4, 8), (1, 3, 200)], ids=["three blocks", "one block", "both"]
)
def test_draws_from_blocks(places):
    """201 weights are four blocks of every fourth: pairs come as P(i, then j) = p_i p_j / (1 - p_i)
    from one and from several.
    """
    assert 3 * priorities.BLOCK < 201
    chance, draws = np.array([0.6, 0.3, 0.1]), 20_000
    weight = jnp.zeros(201).at[jnp.array(places)].set(5 * chance)
    index, probability = jax.jit(jax.vmap(lambda key: priorities.gumbel_top_k(key, weight, 2)))(
        jax.random.split(jax.random.key(4), draws)
    )
    drawn = np.searchsorted(places, index)
    np.testing.assert_array_equal(np.asarray(places)[drawn], index)
    np.testing.assert_allclose(probability, chance[drawn], rtol=1e-5)
    counts = np.zeros((3, 3))
    np.add.at(counts, tuple(drawn.T), 1)
    expected = chance[:, None] * chance[None] / (1 - chance[:, None]) * (1 - np.eye(3))
    assert (
        np.abs(counts / draws - expected) <= 4 * np.sqrt(expected * (1 - expected) / draws)
    ).all()


def test_importance_weights_by_hand():
    """(4 * 1/2)^-1/2 = 0.707 and (4 * 1/16)^-1/2 = 2, divided by 2."""
    probability = jnp.array([1 / 2, 1 / 16])
    np.testing.assert_allclose(
        priorities.importance_weights(probability, 4, 0.5), [0.3535534, 1.0], rtol=1e-6
    )
    np.testing.assert_allclose(priorities.importance_weights(probability, 4, 0.0), [1.0, 1.0])
    np.testing.assert_allclose(
        priorities.importance_weights(probability, 4, 1.0), [0.125, 1.0], rtol=1e-6
    )


@pytest.mark.parametrize(
    "least, expected", [(0.0, [1 / 64, 1 / 8, 1]), (0.1, [0.1, 1 / 8, 1]), (0.5, [0.5, 0.5, 1])]
)
def test_importance_weights_are_raised_to_a_floor(least, expected):
    """After the division by the largest: (8 / 128)^-1 = 16 is the largest, and 1/4 becomes 1/64."""
    probability = jnp.array([1 / 2, 1 / 16, 1 / 128])
    np.testing.assert_allclose(
        priorities.importance_weights(probability, 8, 1.0, least), expected, rtol=1e-6
    )


# THE MODEL'S ERROR

prioritise = jax.jit(priorities.prioritise_by_model_error)

# Reward, discount, final frame and value of each slot, and |r + v'/2 - v| where a step was taken.
MODEL_ERRORS = [
    [
        (1, 1, 0, 2, 4),
        (3, 0, 0, 10, 7),
        (0, 0, 1, 99, 0),
        (-2, 1, 0, 6, 4),
        (5, 1, 0, 8, 1),
        (0, 1, 0, 4, None),
    ],
    [
        (2, 1, 0, 4, 1),
        (-1, 1, 0, 6, 3),
        (0, 1, 1, 8, 0),
        (7, 0, 0, -1, 8),
        (0, 0, 1, 50, 0),
        (1, 1, 0, 1, None),
    ],
]


def by_hand(slots, count, enabled=True):
    """Replay after so many slots of the table, in rings of `slots`, each followed by
    `prioritise_by_model_error`.
    """
    replay = replay_lib.empty(
        config_lib.replace(make_config(), replay__capacity=2 * slots), SPEC, 2
    )
    zeros = np.zeros(2, np.int32)
    for reward, discount, last, value, _ in (
        np.array(rows, dtype=object).T for rows in list(zip(*MODEL_ERRORS))[:count]
    ):
        replay = replay_lib.write(
            replay,
            True,
            frame=np.zeros((2, 2, 2, 1), np.uint8),
            action=zeros,
            reward=reward.astype(np.float32),
            discount=discount.astype(np.float32),
            last=last.astype(bool),
            offset=zeros,
            born=zeros,
            policy=np.zeros((2, ACTIONS), np.float32),
            search_value=value.astype(np.float32) + 1000,
            network_value=value.astype(np.float32),
            refreshed=zeros,
        )
        replay = prioritise(replay, 0.5, enabled)
    return replay


@pytest.mark.parametrize("slots", [8, 6, 4, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_model_error(slots, count):
    """Of the network's values, as soon as the next slot is there: none over the newest slot, the
    first one included, none at a final frame, no bootstrap after a terminal step, and the same
    where the ring's seam lies between the two slots."""
    found = np.asarray(by_hand(slots, count).priority)
    expected = np.zeros((2, slots))
    for slot in range(max(count - slots, 0), count - 1):
        expected[:, slot % slots] = [lane[slot][4] for lane in MODEL_ERRORS]
    newest = (count - 1) % slots
    others = np.arange(slots) != newest
    np.testing.assert_allclose(found[:, others], expected[:, others], rtol=1e-5)
    # Not even a model without any error makes a step that cannot be drawn.
    assert ((found > expected) == (expected > 0))[:, others].all()
    final = np.array([lane[count - 1][2] for lane in MODEL_ERRORS], bool)
    assert (found[final, newest] == 0).all() and (found[~final, newest] > 0).all()


def test_new_slots_begin_with_the_largest_error():
    """Lane 1's error of 8 at slot 3 is the largest when slot 5 is written."""
    np.testing.assert_allclose(by_hand(8, 6).priority[:, 5], 8, rtol=1e-5)
    np.testing.assert_allclose(by_hand(8, 1).priority[:, 0], 1)


@pytest.mark.parametrize("count", [1, 4, 6])
def test_model_error_can_be_disabled(count):
    """Priorities are those of plain writing, and nothing else ever changes."""
    replay = by_hand(4, count, enabled=False)
    expected = np.zeros((2, 4))
    for slot in range(count):
        expected[:, slot % 4] = [0 if lane[slot][2] else 1 for lane in MODEL_ERRORS]
    np.testing.assert_array_equal(replay.priority, expected)
    changed = by_hand(4, count)
    jax.tree.map(
        np.testing.assert_array_equal, changed.replace(priority=0), replay.replace(priority=0)
    )


@pytest.mark.parametrize("initial", ["max", "model_error"])
def test_recording_gives_the_initial_priority(initial):
    """In lane 0, v of slot s is -s: |r - gamma d (s + 1) + s|; not before the first update, which
    comes before lock-step 6.
    """
    config = make_config(replay__initial_priority=initial, target__discount=0.5)
    script = Script(LANES)
    actor, replay = script.start(config)
    for slot in range(10):
        actor, replay = record(
            actor, replay, selection(2, slot), script.timestep(slot), np.int32(slot >= 6), config
        )
    found = np.asarray(replay.priority)[0, :10]
    slot, ordinary = np.arange(10), ~script.last[0, :10]
    error = np.abs(script.reward[0, :10] - 0.5 * script.discount[0, :10] * (slot + 1) + slot)
    assert np.array_equal(np.flatnonzero(~ordinary), [3, 9])
    # The act of lock-step 6 is the first to say something, about the slot before its own.
    by_error = ordinary & (slot >= 5) if initial == "model_error" else np.zeros(10, bool)
    np.testing.assert_allclose(found[by_error], error[by_error], rtol=1e-5)
    np.testing.assert_array_equal(found[~by_error], ordinary[~by_error])
