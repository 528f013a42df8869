"""Environments of gymnax and pgx, stepped as these libraries step them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.steps import play

from ez_jax.config import EnvConfig
from ez_jax.envs import make

RAW = dict(clip_rewards=False, max_episode_steps=0, eval_max_episode_steps=0)


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


@pytest.mark.parametrize("slots", [0, 5])
def test_vectors_of_gymnax_are_scaled_to_the_box(slots):
    """Pendulum: torques of -2 to 2; the reward is -(angle^2 + speed^2 / 10 + torque^2 / 1000)."""
    pytest.importorskip("gymnax")
    config = EnvConfig(id="gymnax/Pendulum-v1", action_slots=slots, **RAW)
    env = make(config, [0, 1, 2], training=True)
    spec, first = env.spec(1), env.reset()
    assert (spec.action_size, spec.num_actions) == ((0, 5) if slots else (1, 0))
    action = np.array([4, 0, 3]) if slots else np.array([[1.0], [-7.0], [0.5]], np.float32)
    angle = np.arctan2(first.frame[:, 1], first.frame[:, 0])
    torque = np.array([2.0, -2.0, 1.0])
    cost = angle**2 + first.frame[:, 2] ** 2 / 10 + torque**2 / 1000
    np.testing.assert_allclose(env.step(action).reward, -cost, rtol=1e-4)


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
