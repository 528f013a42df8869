"""Termination, truncation, lost lives and EnvPool's next-step autoreset, on real EnvPool."""

import dataclasses

import numpy as np
import pytest

from ez_jax.config import EnvConfig
from ez_jax.envs import EnvPool, UnknownTask, is_atari, make

SMALL = dict(height=16, width=16, grayscale=True)


def play(env: EnvPool, policy, steps: int):
    """Time steps after the reset, with the number of the step."""
    env.reset()
    return [env.step(policy(i)) for i in range(steps)]


def test_cartpole_terminates_with_zero_discount_then_resets():
    env = EnvPool(
        EnvConfig(id="CartPole-v1", clip_rewards=False, max_episode_steps=500), [3], training=True
    )
    steps = play(env, lambda i: np.array([1]), 40)
    end = next(i for i, s in enumerate(steps) if s.last[0])
    assert end < 15  # pushing one way only drops the pole
    assert steps[end].discount[0] == 0 and steps[end].reward[0] == 1 and steps[end].game_over[0]
    reset = steps[end + 1]
    assert reset.first[0] and not reset.last[0] and reset.reward[0] == 0 and reset.discount[0] == 1
    assert np.abs(reset.frame[0]).max() < 0.06  # CartPole starts within 0.05 of upright
    assert not steps[end + 2].first[0] and steps[end + 2].reward[0] == 1


def test_time_out_ends_the_episode_but_keeps_the_discount():
    config = EnvConfig(id="CartPole-v1", clip_rewards=False, max_episode_steps=5)
    steps = play(EnvPool(config, [0], training=True), lambda i: np.array([i % 2]), 12)
    assert [bool(s.last[0]) for s in steps] == [False] * 4 + [True] + [False] * 5 + [True, False]
    assert [bool(s.first[0]) for s in steps] == [False] * 5 + [True] + [False] * 5 + [True]
    assert all(s.discount[0] == 1 for s in steps)


def test_a_time_limit_that_envpool_does_not_keep():
    """Tours of four cities, while the game beside it ends by a city taken twice: each as alone."""
    config = EnvConfig(id="TSP-v1", clip_rewards=False, max_episode_steps=4)
    visits = [[0, 0], [1, 0], [2, 0], [3, 0], [9, 5], [0, 5], [1, 6], [2, 5], [3, 7], [0, 1]]

    def rollout(seeds, actions):
        env = EnvPool(config, seeds, training=True)
        first = env.reset()
        return first, [env.step(np.array(action)) for action in actions]

    first, steps = rollout([3, 4], visits)
    assert [s.last.tolist() for s in steps] == [
        [i in (3, 8), i in (1, 5)] for i in range(len(visits))
    ]
    assert [s.first.tolist() for s in steps] == [
        [i in (4, 9), i in (2, 6)] for i in range(len(visits))
    ]
    # A time-out bootstraps; a city taken twice does not.
    assert steps[3].discount[0] == 1 and steps[3].game_over[0] and steps[1].discount[1] == 0
    assert steps[4].reward[0] == 0 and np.any(steps[4].frame[0] != first.frame[0])
    for lane, seed in enumerate((3, 4)):
        _, alone = rollout([seed], [[action[lane]] for action in visits])
        for one, both in zip(alone, steps):
            for mine, theirs in zip(one[:-1], both[:-1]):
                np.testing.assert_array_equal(mine[0], theirs[lane])
    # Where the table has no limit at all, and all games are cut together.
    cliff = EnvPool(EnvConfig(id="CliffWalking-v1", max_episode_steps=4), [0, 1], training=True)
    frames = [step.frame.argmax(1).tolist() for step in play(cliff, lambda i: np.zeros(2, int), 6)]
    assert frames == [[24, 24], [12, 12], [0, 0], [0, 0], [36, 36], [24, 24]]


def test_ignored_step_does_not_use_its_action():
    config = EnvConfig(id="CartPole-v1", max_episode_steps=5)
    pools = [EnvPool(config, [7], training=True) for _ in range(2)]
    actions = [0, 1, 0, 1, 0]
    frames = []
    for env, ignored in zip(pools, (0, 1)):
        steps = play(env, lambda i, a=ignored: np.array([[*actions, a, 1, 0][i]]), 8)
        frames.append(np.stack([s.frame for s in steps]))
    np.testing.assert_array_equal(*frames)


def test_lost_life_is_terminal_in_training_only():
    noop = lambda i: np.array([1 if i % 10 == 0 else 0])
    config = EnvConfig(id="Breakout-v5", **SMALL)
    training = play(EnvPool(config, [0], training=True), noop, 400)
    ends = [i for i, s in enumerate(training) if s.last[0]]
    games = [i for i, s in enumerate(training) if s.game_over[0]]
    assert len(games) >= 1 and len(ends) >= 5  # five lives a game
    first_game = [i for i in ends if i <= games[0]]
    assert len(first_game) == 5 and first_game[-1] == games[0]
    assert all(training[i].discount[0] == 0 for i in ends)
    # The step after a lost life is one no-op in the same game: the bricks that were hit stay away.
    assert all(
        training[i + 1].first[0] and not training[i + 1].last[0]
        for i in ends
        if i + 1 < len(training)
    )
    whole = play(EnvPool(config, [0], training=False), noop, 400)
    assert all(s.last[0] == s.game_over[0] for s in whole)


def test_forced_noop_after_a_lost_life_ignores_the_agent():
    config = EnvConfig(id="Breakout-v5", **SMALL)

    def rollout(after_life: int):
        env, frames = EnvPool(config, [0], training=True), []
        last = env.reset().last[0]
        for i in range(120):
            step = env.step(np.array([after_life if last else int(i % 10 == 0)]))
            last = step.last[0]
            frames.append(step.frame)
        return np.stack(frames)

    np.testing.assert_array_equal(rollout(0), rollout(3))


def test_rewards_are_clipped_and_scores_are_raw():
    config = EnvConfig(id="MsPacman-v5", **SMALL)
    rng = np.random.default_rng(0)
    steps = play(EnvPool(config, [0, 1], training=True), lambda i: rng.integers(0, 9, 2), 150)
    rewards, scores = np.stack([s.reward for s in steps]), np.stack([s.score for s in steps])
    assert set(np.unique(rewards)) <= {-1.0, 0.0, 1.0} and scores.max() >= 10
    np.testing.assert_array_equal(rewards, np.sign(scores))  # no life is lost so early


def test_frames_are_single_and_channels_last():
    spec = EnvPool(EnvConfig(id="Pong-v5", height=20, width=24), [0], training=True).spec(4)
    assert spec.num_actions == 6 and spec.frame_shape == (20, 24, 3) and spec.stack == 4
    spec = EnvPool(EnvConfig(id="Breakout-v5", **SMALL), [0], training=True).spec(4)
    assert spec.num_actions == 4 and spec.frame_shape == (16, 16, 1)


def test_seeds_decide_everything_and_lanes_are_independent():
    config = EnvConfig(id="Pong-v5", **SMALL)
    actions = np.random.default_rng(1).integers(0, 6, (60, 2))
    pair = EnvPool(config, [5, 9], training=True)
    pair_frames = np.stack([s.frame for s in play(pair, lambda i: actions[i], 60)])
    for lane, seed in enumerate((5, 9)):
        alone = EnvPool(config, [seed], training=True)
        frames = np.stack(
            [s.frame for s in play(alone, lambda i, k=lane: actions[i, k : k + 1], 60)]
        )
        np.testing.assert_array_equal(frames[:, 0], pair_frames[:, lane])


def test_unknown_game_names_the_nearest():
    with pytest.raises(UnknownTask, match="unknown game 'Brekout'; the nearest are: Breakout"):
        make(EnvConfig(id="Brekout-v5"), [0], training=True)


@pytest.mark.parametrize("task", ["Pendulum-v1", "gymnasium/Pendulum-v1"])
def test_vectors_are_scaled_to_the_box(task):
    """Full torque for 1: -2 to 2. The reward is -(angle^2 + speed^2 / 10 + torque^2 / 1000)."""
    config = EnvConfig(id=task, clip_rewards=False, max_episode_steps=0)
    env = make(config, [0, 1], training=True)
    spec, first = env.spec(1), env.reset()
    assert spec.action_size == 1 and spec.num_actions == 0 and spec.frame_shape == (3,)
    step = env.step(np.array([[1.0], [-7.0]], np.float32))
    angle = np.arctan2(first.frame[:, 1], first.frame[:, 0])
    cost = angle**2 + first.frame[:, 2] ** 2 / 10 + 4 / 1000
    np.testing.assert_allclose(step.reward, -cost, rtol=1e-4)
    with pytest.raises(ValueError, match=r"actions that are not finite: .*nan"):
        env.step(np.array([[0.0], [np.nan]], np.float32))


def test_slots_are_points_of_a_grid():
    config = EnvConfig(id="Pendulum-v1", clip_rewards=False, action_slots=5, max_episode_steps=0)
    found = []
    for action in (np.array([1]), np.array([[-0.5]], np.float32)):
        slots = 5 if action.ndim == 1 else 0
        env = make(dataclasses.replace(config, action_slots=slots), [0], training=True)
        assert env.spec(1).num_actions == slots
        env.reset()
        found.append(env.step(action))
    np.testing.assert_array_equal(found[0].frame, found[1].frame)
    with pytest.raises(ValueError, match=r"6 entries of an action make 5\^6 = 15,625 actions"):
        make(EnvConfig(id="WalkerWalk-v1", action_slots=5), [0], training=True)
    with pytest.raises(ValueError, match="CartPole-v1 has discrete actions"):
        make(EnvConfig(id="CartPole-v1", action_slots=5), [0], training=True)


def test_dicts_are_flattened_by_name_and_actions_repeat():
    """WalkerWalk: height, orientations, velocity; two steps of the environment in one, summed."""
    config = EnvConfig(id="WalkerWalk-v1", clip_rewards=False, max_episode_steps=0)
    one = make(config, [0], training=True)
    two = make(dataclasses.replace(config, action_repeat=2), [0], training=True)
    start, same = one.reset(), two.reset()
    assert start.frame.shape == (1, 24) and start.frame.dtype == np.float32
    assert start.frame[0, 0] > 1 and np.all(np.abs(start.frame[0, 1:15]) <= 1)
    np.testing.assert_array_equal(start.frame, same.frame)
    action = np.full((1, 6), 0.5, np.float32)
    first, second, both = one.step(action), one.step(action), two.step(action)
    np.testing.assert_allclose(both.reward, first.reward + second.reward, rtol=1e-6)
    np.testing.assert_array_equal(both.frame, second.frame)


@pytest.mark.parametrize("task", ["CartPole-v1", "gymnasium/CartPole-v1"])
def test_repeated_actions_stop_at_the_end_of_an_episode(task):
    """The pole falls after ten steps or so, in the middle of three: no later step counts."""
    config = EnvConfig(id=task, clip_rewards=False, max_episode_steps=0)
    seeds, push = [3, 4, 5], np.ones(3, int)
    single = make(config, seeds, training=True)
    lengths, over = np.zeros(3), np.zeros(3, bool)
    single.reset()
    while not over.all():
        step = single.step(push)
        lengths += ~over
        over |= step.last
    assert np.any(lengths % 3)
    env = make(dataclasses.replace(config, action_repeat=3), seeds, training=True)
    env.reset()
    for decision in range(int(np.ceil(lengths.max() / 3)) + 1):
        step, left = env.step(push), lengths - 3 * decision
        here = left > 0  # not begun anew
        np.testing.assert_array_equal(step.score[here], np.minimum(left, 3)[here])
        np.testing.assert_array_equal(step.last[here], (left <= 3)[here])
        np.testing.assert_array_equal(step.discount[here], (left > 3)[here])
        np.testing.assert_array_equal(step.first[~here & (left > -3)], True)


def test_make_gives_these_environments():
    env = make(EnvConfig(id="CartPole-v1", max_episode_steps=5), [0, 1], training=True)
    assert isinstance(env, EnvPool) and env.num_envs == 2 and not env.is_atari
    assert is_atari("Breakout-v5") and not is_atari("CartPole-v1") and not is_atari("jax/Catch")
