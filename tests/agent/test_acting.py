"""The bookkeeping of acting: steps, scores, lost lives, the log of actions and the cap."""

from unittest import mock

import jax
import numpy as np
import pytest
from helpers.scripted import (
    ACTIONS,
    SLOTS,
    Script,
    make_config,
    play,
    record,
    selection,
)

from ez_jax import config as config_lib
from ez_jax.agent import acting
from ez_jax.presets import PAPER
from ez_jax.types import TimeStep


def test_the_temperature_of_visit_counts():
    """EfficientZero's 1, 0.5, 0.25 in the first half of 100,000 updates and two quarters; then that
    of the last; handed on to the search.
    """
    updates = (0, 49_999, 50_000, 74_999, 75_000, 120_000)
    heat = [float(acting.temperature(number, PAPER)) for number in updates]
    assert heat == [1, 1, 0.5, 0.5, 0.25, 0.25]
    with mock.patch.object(acting, "search") as search:
        acting.select(None, PAPER, None, None, None, 60_000)
    assert float(search.call_args.kwargs["temperature"]) == 0.5
    assert search.call_args.kwargs["explore"] is True


def test_ignored_steps_count_for_nothing():
    """A final frame has a slot, but no step, no reward and no chance to be drawn."""
    script, actor, replay = play(11)
    ignored = script.last[:, :11]
    assert ignored.sum() == 3
    assert int(actor.env_steps) == 22 - 3
    places = np.zeros((2, SLOTS), bool)
    places[:, :11] = ignored
    np.testing.assert_array_equal(np.asarray(replay.priority)[places], 0)
    np.testing.assert_array_equal(np.asarray(replay.reward)[places], 0)
    assert (np.asarray(replay.priority)[:, :11][~ignored] == 1).all()
    # The discount is that of the step before: two ends by time-out, one terminal.
    assert sorted(np.asarray(replay.discount)[places]) == [0, 1, 1]


def test_scores_of_finished_games():
    """10 points a step, in the order of the ends; lane 0 ends after 3, 5 and 1 steps, lane 1 after
    8 and 2.
    """
    _, actor, _ = play(10)
    assert int(actor.games) == 3
    np.testing.assert_array_equal(actor.recent_scores[:4], [30, 80, 50, 0])
    np.testing.assert_array_equal(actor.score, [0, 10])
    np.testing.assert_allclose(acting.recent_score(actor), 160 / 3, rtol=1e-6)
    # The eleventh lock-step ends both games.
    _, actor, _ = play(11)
    assert int(actor.games) == 5
    np.testing.assert_array_equal(actor.recent_scores[:6], [30, 80, 50, 10, 20, 0])
    np.testing.assert_array_equal(actor.score, [0, 0])
    assert np.isnan(acting.recent_score(play(2)[1]))


def test_a_lost_life_ends_an_episode_but_no_game():
    """The score counts the forced no-op; a game lost in that no-op ends there, and its frame has a
    slot but no step.
    """
    config = make_config(num_envs=1)
    actor, replay = Script([[(40, "terminal")]]).start(config)
    frame = np.zeros((1, 2, 2, 1), np.uint8)
    # score, discount, last, first, game over: play on, lose a life, no-op, lose a life, no-op that
    # loses the game, reset.
    for score, discount, last, first, game_over in [
        (3, 1, 0, 0, 0),
        (4, 0, 1, 0, 0),
        (5, 1, 0, 1, 0),
        (6, 0, 1, 0, 0),
        (7, 1, 1, 1, 1),
        (0, 1, 0, 1, 0),
        (9, 1, 0, 0, 0),
    ]:
        timestep = TimeStep(
            frame,
            np.full(1, 1.0, np.float32),
            np.full(1, discount, np.float32),
            np.array([last], bool),
            np.array([first], bool),
            np.full(1, score, np.float32),
            np.array([game_over], bool),
        )
        actor, replay = record(actor, replay, selection(1, 0), timestep, np.int32(0), config)
    np.testing.assert_array_equal(replay.last[0, :7], [0, 0, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(replay.offset[0, :7], [0, 1, 2, 0, 1, 0, 0])
    np.testing.assert_array_equal(replay.reward[0, :7], [1, 1, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(replay.priority[0, :7], [1, 1, 0, 1, 0, 0, 1])
    assert int(actor.games) == 1 and int(actor.env_steps) == 4
    assert actor.recent_scores[0] == 3 + 4 + 5 + 6 + 7 and actor.score[0] == 9


def test_action_log():
    """Every action that was sent, the ignored ones included."""
    _, actor, _ = play(11)
    np.testing.assert_array_equal(
        actor.action_log[:11], (np.arange(11)[:, None] + np.arange(2)) % ACTIONS
    )
    assert not actor.action_log[11:].any()


def record_on(script, actor, replay, slots, config):
    """The lock-steps `slots` of three lanes, lock-step s as if s updates were made."""
    for slot in slots:
        actor, replay = record(
            actor, replay, selection(3, slot), script.timestep(slot), np.int32(slot), config
        )
    return script, actor, replay


def cap_at(cap, lanes, steps):
    config = config_lib.replace(make_config(num_envs=3), env_steps=cap)
    script = Script(lanes)
    return record_on(script, *script.start(config), range(steps), config)


def test_the_cap_on_steps_cuts_a_lock_step():
    """Three lanes and seven steps: of the third lock-step the first lane counts alone."""
    lanes = [[(30, "terminal")], [(4, "terminal")], [(4, "timeout")]]
    script, actor, replay = cap_at(7, lanes, 3)
    assert int(actor.env_steps) == 7
    np.testing.assert_array_equal(replay.last[:, :3], [[0, 0, 0], [0, 0, 1], [0, 0, 1]])
    # The outcome (a reward, and for lane 1 a terminal end) is not stored; the step before went on.
    assert script.reward[1, 2] > 0 and script.discount[1, 2] == 0
    np.testing.assert_array_equal(replay.reward[:, 2], [script.reward[0, 2], 0, 0])
    np.testing.assert_array_equal(replay.discount[:, 2], [1, 1, 1])
    np.testing.assert_array_equal(replay.priority[:, :3], [[1, 1, 1], [1, 1, 0], [1, 1, 0]])
    # Nor is the end of a game that it brought.
    assert int(actor.games) == 0
    np.testing.assert_array_equal(actor.score, [30, 20, 20])


def test_the_cap_counts_lanes_that_are_ready():
    """Lane 0 stands at its final frame when two steps are left: lanes 1 and 2 take them."""
    lanes = [[(3, "terminal"), (30, "terminal")], [(30, "terminal")], [(30, "terminal")]]
    script, actor, replay = cap_at(8, lanes, 3)
    assert int(actor.env_steps) == 8
    np.testing.assert_array_equal(replay.last[:, :3], [[0, 0, 1], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(
        replay.reward[:, 2], [0, script.reward[1, 2], script.reward[2, 2]]
    )
    np.testing.assert_array_equal(replay.discount[:, 2], [0, 1, 1])


@pytest.mark.parametrize("initial", ["max", "model_error"])
def test_nothing_happens_beyond_the_cap(initial):
    """A seed that waits for others: whatever its environments do, actor and replay stay as they
    are, to the bit.
    """
    lanes = [[(30, "terminal")], [(3, "terminal"), (30, "timeout")], [(30, "timeout")]]
    config = config_lib.replace(
        make_config(num_envs=3), env_steps=6, replay__initial_priority=initial
    )
    script = Script(lanes)
    _, actor, replay = record_on(script, *script.start(config), range(2), config)
    # The seed goes on learning, and its priorities are the learner's.
    replay = replay.replace(priority=replay.priority * 3 + 1)
    _, *waited = record_on(script, actor, replay, range(2, 5), config)
    jax.tree.map(np.testing.assert_array_equal, [actor, replay], waited)
    assert int(actor.env_steps) == 6 and int(actor.acts) == int(replay.cursor) == 2
    # With one step more the third lock-step is recorded.
    _, running, _ = record_on(
        script, actor, replay, range(2, 3), config_lib.replace(config, env_steps=7)
    )
    assert int(running.acts) == 3
