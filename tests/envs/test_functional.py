"""Environments in JAX: Catch by hand, the protocol of `TimeStep`, adapters against their libraries,
and what is refused.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ez_jax.config import EnvConfig
from ez_jax.envs import EnvPool, JaxEnvs, UnknownTask, check_task, make, register, registry
from ez_jax.envs.catch import Catch
from ez_jax.envs.functional import Reset, Step, start
from ez_jax.observations import to_frame
from ez_jax.types import TimeStep

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


def play(env, actions) -> TimeStep:
    """The time steps along `actions [T, N]`, stacked; the reset is not among them."""
    env.reset()
    return jax.tree.map(lambda *x: np.stack(x), *[env.step(np.asarray(a)) for a in actions])


def lane(steps: TimeStep, i: int = 0) -> TimeStep:
    return jax.tree.map(lambda x: x[:, i], steps)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


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


def test_no_time_limit_of_the_task_own_is_added():
    assert not play(
        JaxEnvs(Script(), EnvConfig(**RAW), [0], training=False), np.zeros((60, 1), int)
    ).last.any()


@pytest.mark.parametrize(
    "training, clip, reward",
    [(True, True, [1, -1]), (True, False, [3, -0.5]), (False, True, [3, -0.5])],
)
def test_rewards_are_clipped_in_training_only(training, clip, reward):
    config = EnvConfig(clip_rewards=clip, max_episode_steps=0, eval_max_episode_steps=0)
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
        check_task("mine/Picture")
    register("mine/Picture", Picture)
    check_task("mine/Picture")
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
        check_task("mine/Pictur")


# FRAMES


@pytest.mark.parametrize("library", [np, jnp])
def test_boards_become_vectors_and_images_stay_images(library):
    def made(shape, dtype):
        # JAX has no float64 by default.
        return library.ones((2, *shape), "float32" if library is jnp and "64" in dtype else dtype)

    for shape, dtype, new_shape, new_dtype, value in [
        ((10, 5), "float32", (50,), "float32", 1),
        ((10, 10, 4), "bool", (400,), "uint8", 1),
        ((15, 16, 3), "uint8", (720,), "float32", 1),
        ((4,), "float64", (4,), "float32", 1),
        ((3, 2), "int32", (6,), "float32", 1),
        ((16, 16, 3), "uint8", (16, 16, 3), "uint8", 1),
        ((16, 20, 1), "float32", (16, 20, 1), "uint8", 255),
        ((16, 16, 2), "bool", (16, 16, 2), "uint8", 255),
    ]:
        frame = to_frame(made(shape, dtype))
        assert (frame.shape, frame.dtype) == ((2, *new_shape), new_dtype) and np.all(
            np.asarray(frame) == value
        ), (shape, dtype)
    # In the order of the board.
    numbers = library.arange(12).reshape(1, 2, 3, 2)
    assert to_frame(numbers).tolist() == [list(range(12))]
    image = library.linspace(0.0, 1.0, 256).reshape(1, 16, 16, 1)
    assert np.asarray(to_frame(image)).ravel().tolist() == list(range(256))


# OTHER LIBRARIES


def test_gymnax_is_stepped_as_gymnax_itself():
    gymnax = pytest.importorskip("gymnax")
    from ez_jax.envs.adapters import Gymnax

    library, params = gymnax.make("CartPole-v1")
    params = params.replace(max_steps_in_episode=12)
    ours = Gymnax(library, params)
    assert ours.num_actions == 2
    our_step, ends = jax.jit(ours.step), {}
    for name, policy in {"pushed": lambda i: 1, "balanced": lambda i: i % 2}.items():
        key = jax.random.key(1)
        observation, state = library.reset(key, params)
        ours_now = ours.reset(key)
        np.testing.assert_array_equal(observation, ours_now.observation)
        mine = ours_now.state
        for i in range(12):
            key, now = jax.random.split(key)
            step = our_step(mine, jnp.asarray(policy(i)), jax.random.split(now)[0])
            _, state, reward, terminated, truncated, info = library.step(
                now, state, policy(i), params
            )
            np.testing.assert_allclose(
                step.observation, info["final_observation"], rtol=1e-5, atol=1e-7
            )
            assert [float(x) for x in step[2:]] == [
                float(x) for x in (reward, terminated, truncated)
            ]
            mine = step.state
            if terminated or truncated:
                break
        ends[name] = i, bool(terminated), bool(truncated)
    assert ends["balanced"] == (11, False, True)  # time is up
    assert ends["pushed"][0] < 11 and ends["pushed"][1:] == (True, False)  # the pole fell


def test_gymnax_in_lock_step():
    pytest.importorskip("gymnax")
    env = make(
        EnvConfig(id="gymnax/CartPole-v1", **RAW | {"max_episode_steps": 6}), [0, 1], training=True
    )
    spec = env.spec(1)
    assert (env.num_envs, spec.num_actions, spec.frame_shape, spec.frame_dtype) == (
        2,
        2,
        (4,),
        np.float32,
    )
    steps = play(env, [[i % 2, i % 2] for i in range(8)])
    assert steps.last[:, 0].tolist() == [False] * 5 + [True, False, False] and np.all(
        steps.discount == 1
    )
    assert steps.reward[:, 0].tolist() == [1] * 6 + [0, 1]
    assert np.abs(steps.frame[6]).max() <= 0.05  # a fresh start
    whole = play(make(EnvConfig(id="gymnax/CartPole-v1", **RAW), [0], training=True), [[1]] * 20)
    end = whole.last[:, 0].tolist().index(True)
    assert (
        end < 15
        and whole.discount[end, 0] == 0
        and whole.reward[end, 0] == 1
        and whole.first[end + 1, 0]
    )


def test_pgx_is_stepped_as_pgx_itself():
    pgx = pytest.importorskip("pgx")
    pytest.importorskip("pgx_minatar")
    env = make(EnvConfig(id="pgx/minatar-breakout", **RAW), [0], training=True)
    spec = env.spec(1)
    assert (spec.num_actions, spec.frame_shape, spec.frame_dtype) == (3, (400,), np.uint8)

    from ez_jax.envs.adapters import Pgx

    library = pgx.make("minatar-breakout")
    ours, library_step = jax.jit(Pgx(library).step), jax.jit(library.step)
    key = jax.random.key(3)
    state, mine = library.init(key), Pgx(library).reset(key)
    np.testing.assert_array_equal(mine.observation, state.observation)
    rewards, mine = [], mine.state
    for i in range(200):
        key, now = jax.random.split(key)
        # Under the ball for a while, then not any more.
        paddle, ball = np.argmax(np.asarray(state.observation)[..., :2].any(0), axis=0)
        action = jnp.asarray(0 if i >= 60 or ball == paddle else 1 if ball < paddle else 2)
        state, step = library_step(state, action, now), ours(mine, action, now)
        mine = step.state
        np.testing.assert_array_equal(step.observation, state.observation)
        assert step.reward.shape == () and float(step.reward) == float(state.rewards[0])
        assert bool(step.terminated) == bool(state.terminated) and not bool(step.truncated)
        rewards.append(float(step.reward))
        if state.terminated:
            break
    assert bool(state.terminated) and sum(rewards) > 0

    # The same episode's end in lock-step, and the board of the next.
    steps = play(env, [[1]] * 60)
    end = steps.last[:, 0].tolist().index(True)
    assert (
        steps.discount[end, 0] == 0
        and steps.game_over[end, 0]
        and steps.first[end + 1, 0]
        and not steps.last[end + 1, 0]
    )
    assert (
        set(np.unique(steps.frame)) == {0, 1}
        and steps.frame[end + 1].reshape(10, 10, 4)[1:4, :, 3].all()
    )  # a whole wall


# REFUSALS


@pytest.mark.parametrize(
    "task, message",
    [
        ("Pendulum-v1", "Pendulum-v1 has continuous actions; only discrete actions are supported"),
        ("Ant-v4", "Ant-v4 has continuous actions; only discrete actions are supported"),
        (
            "Game2048-v1",
            "Game2048-v1 has observations of the kind Dict; only vectors, images and indices are "
            "supported",
        ),
        ("Brekout-v5", "unknown game 'Brekout'; the nearest are: Breakout"),
        ("CartPol-v1", "unknown game 'CartPol-v1'; the nearest are: CartPole-v1"),
        ("jax/Cath", "unknown game 'jax/Cath'; the nearest are: jax/Catch"),
        (
            "gymnax/CartPol-v1",
            "unknown game 'gymnax/CartPol-v1'; the nearest are: gymnax/CartPole-v1",
        ),
        (
            "pgx/minatar-brekout",
            "unknown game 'pgx/minatar-brekout'; the nearest are: pgx/minatar-breakout",
        ),
        (
            "gymnax/Pendulum-v1",
            "Pendulum-v1 has continuous actions; only discrete actions are supported",
        ),
        ("pgx/tic_tac_toe", "tic_tac_toe is a game of 2 players; only one is supported"),
    ],
)
def test_refusals_are_one_line_before_any_work(monkeypatch, task, message):
    if task.startswith(("gymnax/", "pgx/")):
        pytest.importorskip(task.partition("/")[0])

    def never(*_, **__):
        raise AssertionError("environments were built")

    monkeypatch.setattr(registry, "EnvPool", never)
    monkeypatch.setattr(registry, "JaxEnvs", never)
    for attempt in (lambda: check_task(task), lambda: make(EnvConfig(id=task), [0], training=True)):
        with pytest.raises(ValueError) as caught:
            attempt()
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
        assert isinstance(caught.value, UnknownTask) == message.startswith("unknown")


@pytest.mark.parametrize("task", ["CartPole-v1", "Breakout-v5", "Catch-v0", "jax/Catch"])
def test_what_is_supported_is_not_refused(task):
    check_task(task)


def test_missing_libraries_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)  # an import of it fails
    with pytest.raises(ValueError, match='gymnax/CartPole-v1 needs the extra "jaxenvs"'):
        check_task("gymnax/CartPole-v1")
    check_task("CartPole-v1")  # nothing else needs it
