"""Environments in JAX: Catch by hand, and the protocol of `TimeStep`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.steps import assert_same, lane, play

from ez_jax.config import EnvConfig
from ez_jax.envs import EnvPool, JaxEnvs, UnknownTask, check_task, make, register, registry
from ez_jax.envs.catch import Catch
from ez_jax.envs.functional import Reset, Step, start

RAW = dict(clip_rewards=False, max_episode_steps=0, eval_max_episode_steps=0)
CATCH = EnvConfig(id="jax/Catch", **RAW)


class Script:
    """Action 1 terminates, action 2 truncates; the reward is 3, -0.5, 3, ... in turn.

    An observation says which episode it is, how far, along which action, and what the key of the
    step gave.
    """

    num_actions = 3

    def reset(self, key):
        start = jax.random.uniform(key)
        return Reset((start, jnp.zeros((), jnp.int32)), jnp.stack([start, 0.0, -1.0, -1.0]))

    def step(self, state, action, key):
        start, length = state[0], state[1] + 1
        observation = jnp.stack(
            [start, length.astype(float), action.astype(float), jax.random.uniform(key)]
        )
        return Step(
            (start, length),
            observation,
            jnp.where(length % 2 == 1, 3.0, -0.5),
            action == 1,
            action == 2,
        )


class Picture:
    """One frame of floats in [0, 1], after its seed."""

    num_actions = 2

    def reset(self, key):
        return Reset(key, jax.random.uniform(key, (16, 20, 2)))

    def step(self, state, action, key):
        return Step(
            state,
            jax.random.uniform(state, (16, 20, 2)),
            jnp.zeros(()),
            jnp.zeros((), bool),
            jnp.zeros((), bool),
        )


# CATCH


def board(row: int, column: int, paddle: int) -> np.ndarray:
    picture = np.zeros((10, 5), np.float32)
    picture[row, column] = picture[9, paddle] = 1
    return picture


@pytest.mark.parametrize(
    "actions, column, paddles, reward",
    [
        ([1] * 9, 2, [2] * 9, 1),  # it falls straight down on the paddle
        ([1] * 9, 3, [2] * 9, -1),
        ([0] * 9, 0, [1] + [0] * 8, 1),  # the walls stop the paddle
        ([2] * 9, 4, [3] + [4] * 8, 1),
        (
            [2] * 8 + [0],
            4,
            [3] + [4] * 7 + [3],
            -1,
        ),  # off in the last moment: what counts is where the paddle went
        ([0, 0, 0, 2, 2, 1, 1, 2, 1], 3, [1, 0, 0, 1, 2, 2, 2, 3, 3], 1),
    ],
)
def test_catch_by_hand(actions, column, paddles, reward):
    catch, key = Catch(), jax.random.key(0)
    state = catch.reset(key).state._replace(column=jnp.asarray(column))
    for i, (action, paddle) in enumerate(zip(actions, paddles)):
        step = catch.step(state, jnp.asarray(action), key)
        state = step.state
        np.testing.assert_array_equal(step.observation, board(i + 1, column, paddle))
        assert [float(x) for x in step[2:]] == (
            [reward, True, False] if i == 8 else [0, False, False]
        )


def test_catch_starts_in_each_column_with_the_paddle_in_the_middle():
    first = jax.vmap(Catch().reset)(jax.random.split(jax.random.key(0), 500)).observation
    columns = np.argmax(first[:, 0], axis=-1)
    for observation, column in zip(np.asarray(first), columns):
        np.testing.assert_array_equal(observation, board(0, column, 2))
    # 100 of each are expected, with a standard deviation of 9.
    assert np.all(np.abs(np.bincount(columns, minlength=5) - 100) < 45)


def test_catch_is_envpools_catch():
    """From the same column both show the same boards, rewards and ends, whatever the actions."""
    ours = make(CATCH, list(range(100)), training=True)
    theirs = make(EnvConfig(id="Catch-v0", **RAW), list(range(20)), training=True)
    assert (
        isinstance(ours, JaxEnvs) and isinstance(theirs, EnvPool) and ours.spec(1) == theirs.spec(1)
    )
    column = lambda frame: np.argmax(frame.reshape(-1, 10, 5)[:, 0], axis=-1).tolist()
    mine, pair = column(ours.reset().frame), []
    for wanted in column(
        theirs.reset().frame
    ):  # each of theirs has one of ours that starts as it does
        pair.append(next(i for i, c in enumerate(mine) if c == wanted and i not in pair))
    actions = np.random.default_rng(0).integers(0, 3, (9, 100))
    for action in actions:
        a, b = ours.step(action), theirs.step(action[pair])
        assert_same(jax.tree.map(lambda x: x[pair], a), b)
    assert b.last.all() and set(b.score) == set(a.score) == {-1.0, 1.0}


# THE PROTOCOL


def test_protocol_of_next_step_autoreset():
    env = JaxEnvs(Script(), EnvConfig(**RAW), [0, 1], training=True)
    first = env.reset()
    assert first.first.all() and not (
        first.last.any() or first.game_over.any() or first.reward.any() or first.score.any()
    )
    assert np.all(first.discount == 1) and np.all(first.frame[:, 1:] == [0, -1, -1])

    #          ends in step 2, the action after it would end it again; step 4 is truncated
    actions = [0, 0, 1, 1, 2, 2, 0, 1, 0]
    steps = play(env, [[a, 0] for a in actions])
    ended = lane(steps)
    assert ended.last.tolist() == [0, 0, 1, 0, 1, 0, 0, 1, 0] and ended.first.tolist() == [
        0,
        0,
        0,
        1,
        0,
        1,
        0,
        0,
        1,
    ]
    np.testing.assert_array_equal(ended.game_over, ended.last)
    assert ended.discount.tolist() == [1, 1, 0, 1, 1, 1, 1, 0, 1]  # the truncated one bootstraps
    assert ended.reward.tolist() == [3, -0.5, 3, 0, 3, 0, 3, -0.5, 0] == ended.score.tolist()
    assert ended.frame[:, 1].tolist() == [1, 2, 3, 0, 1, 0, 1, 2, 0]
    assert ended.frame[:, 2].tolist() == [0, 0, 1, -1, 2, -1, 0, 1, -1]
    # The lane beside it goes on undisturbed.
    running = lane(steps, 1)
    assert (
        not running.last.any()
        and not running.first.any()
        and running.frame[:, 1].tolist() == list(range(1, 10))
    )
    assert running.reward.tolist() == [3, -0.5] * 4 + [3]
    for x, dtype in zip(steps, (np.float32, np.float32, np.float32, bool, bool, np.float32, bool)):
        assert x.dtype == dtype

    # Each episode, and each step, has randomness of its own.
    starts = [*np.unique(ended.frame[:, 0]), *np.unique(running.frame[:, 0])]
    assert len(starts) == len(set(starts)) == 5
    draws = steps.frame[..., 3].ravel().tolist() + starts
    assert len(set(draws) - {-1.0}) == 2 * 9 - 3 + 5


def test_ignored_action_is_not_used():
    config = EnvConfig(**RAW)
    a, b = (
        play(JaxEnvs(Script(), config, [3], training=True), [[1], [ignored], [0]])
        for ignored in (0, 2)
    )
    assert_same(a, b)


@pytest.mark.parametrize("training, limit", [(True, 3), (False, 5)])
def test_time_limit(training, limit):
    config = EnvConfig(clip_rewards=False, max_episode_steps=3, eval_max_episode_steps=5)
    env = JaxEnvs(Script(), config, [0, 1], training=training)
    actions = np.zeros((15, 2), int)
    actions[limit - 1, 1] = 1  # one lane terminates in the very step in which its time is up
    steps = play(env, actions)
    cycle = ([False] * (limit - 1) + [True, False]) * 5
    for i in range(2):
        assert lane(steps, i).last.tolist() == cycle[:15] == lane(steps, i).game_over.tolist()
        assert lane(steps, i).first.tolist() == [False, *cycle[:14]]
    assert np.all(lane(steps, 0).discount == 1)
    assert lane(steps, 1).discount.tolist() == [float(i != limit - 1) for i in range(15)]


class Corridor:
    """Step k allows all actions but k % 3; an illegal one ends the episode with -1."""

    num_actions = 3

    def legal_actions(self, state):
        return jnp.arange(3) != state % 3

    def reset(self, key):
        return Reset(jnp.zeros((), jnp.int32), jnp.zeros(2))

    def step(self, state, action, key):
        wrong = action == state % 3
        seen = jnp.full(2, state + 1.0)
        return Step(state + 1, seen, jnp.where(wrong, -1.0, 1.0), wrong, jnp.zeros((), bool))


def test_an_action_is_repeated_while_it_is_legal():
    """Four steps at most: action 1 is legal once, action 2 twice."""
    env = JaxEnvs(Corridor(), EnvConfig(action_repeat=4, **RAW), [0, 1], training=True)
    env.reset()
    step = env.step(np.array([1, 2]))
    assert step.frame[:, 0].tolist() == [1, 2] and step.score.tolist() == [1, 2]
    assert not step.last.any()


def test_no_time_limit_of_the_task_own_is_added():
    assert not play(
        JaxEnvs(Script(), EnvConfig(**RAW), [0], training=False), np.zeros((60, 1), int)
    ).last.any()


@pytest.mark.parametrize(
    "options, reward",
    [
        (dict(clip_rewards=True), [1, -1]),
        (dict(clip_rewards=False), [3, -0.5]),
    ],
)
def test_rewards_are_clipped_and_scores_are_raw(options, reward):
    config = EnvConfig(**RAW | options)
    for training in (True, False):
        steps = play(JaxEnvs(Script(), config, [0], training=training), [[0], [0]])
        assert lane(steps).reward.tolist() == reward and lane(steps).score.tolist() == [3, -0.5]


@pytest.mark.parametrize("task", ["script", "catch"])
def test_host_and_compiled_program_see_the_same(task):
    config = EnvConfig(clip_rewards=False, max_episode_steps=7)
    environment = {"script": Script, "catch": Catch}[task]()
    env = JaxEnvs(environment, config, [4, 5, 6], training=True)
    actions = np.random.default_rng(2).integers(0, 3, (30, 3))
    keys = jax.vmap(jax.random.key)(jnp.array([4, 5, 6], jnp.uint32))
    state, first = jax.jit(functools.partial(start, environment))(keys)
    # What the stages take as the state of fresh environments.
    unwrap = lambda s: s._replace(key=jax.random.key_data(s.key))
    assert_same(unwrap(env.state), unwrap(state))
    assert_same(env.reset(), first)
    last, compiled = jax.jit(lambda s, a: jax.lax.scan(env.advance, s, a))(
        state, jnp.asarray(actions)
    )
    assert_same(play(env, actions), compiled)
    assert_same(unwrap(env.state), unwrap(last))
    assert_same(env.reset(), first)  # a reset begins again


def test_seeds_decide():
    actions = np.random.default_rng(0).integers(0, 3, (25, 3))
    config = EnvConfig(**RAW)
    together = play(JaxEnvs(Script(), config, [7, 8, 9], training=True), actions)
    for i, seed in enumerate((7, 8, 9)):
        alone = play(JaxEnvs(Script(), config, [seed], training=True), actions[:, i : i + 1])
        assert_same(lane(alone), lane(together, i))
    assert len(set(together.frame[0, :, 0].tolist())) == 3  # three different episodes


def test_an_environment_of_ones_own(monkeypatch):
    monkeypatch.setattr(registry, "FUNCTIONAL", dict(registry.FUNCTIONAL))
    with pytest.raises(UnknownTask):
        check_task(EnvConfig(id="mine/Picture"))
    register("mine/Picture", Picture)
    check_task(EnvConfig(id="mine/Picture"))
    env = make(EnvConfig(id="mine/Picture", **RAW), [0, 1], training=True)
    spec = env.spec(4)
    assert (spec.num_actions, spec.frame_shape, spec.frame_dtype, spec.stack) == (
        2,
        (16, 20, 2),
        np.uint8,
        4,
    )
    a, b = env.reset().frame, env.step(np.zeros(2, int)).frame
    np.testing.assert_array_equal(a, b)
    assert a.max() > 240 and a.min() < 15 and np.any(a[0] != a[1])
    with pytest.raises(UnknownTask, match="the nearest are: mine/Picture"):
        check_task(EnvConfig(id="mine/Pictur"))
