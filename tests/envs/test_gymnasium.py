"""Python environments of Gymnasium behind our protocol, against Gymnasium itself."""

import gymnasium
import numpy as np
import pytest

from ez_jax.config import EnvConfig
from ez_jax.envs import check_task, describe, make

RAW = dict(clip_rewards=False, max_episode_steps=0, eval_max_episode_steps=0)


def test_steps_as_gymnasium_does():
    """Two copies; the step after an end is ignored and shows the next episode's first frame."""
    config = EnvConfig(id="gymnasium/CartPole-v1", **RAW)
    env = make(config, [3, 4], training=True)
    assert describe(config, 1).spec == env.spec(1)
    assert env.spec(1).frame_shape == (4,) and env.spec(1).num_actions == 2
    alone = [gymnasium.make("CartPole-v1") for _ in range(2)]
    expected = np.stack([one.reset(seed=seed)[0] for one, seed in zip(alone, (3, 4))])
    np.testing.assert_array_equal(env.reset().frame, expected)
    ended, ends = [False, False], 0
    for i in range(60):
        action = np.array([1, i % 2])
        step = env.step(action)
        for lane, one in enumerate(alone):
            if ended[lane]:
                frame, _ = one.reset()
                reward, last = 0.0, False
                assert step.first[lane]
            else:
                frame, reward, last, _, _ = one.step(int(action[lane]))
            np.testing.assert_allclose(step.frame[lane], frame, rtol=1e-6)
            assert (step.score[lane], step.last[lane]) == (reward, last)
            assert step.discount[lane] == (0 if last else 1)
            ended[lane], ends = last, ends + last
    assert ends >= 3


def test_time_limit_and_clipping():
    config = EnvConfig(id="gymnasium/MountainCar-v0", max_episode_steps=5, clip_rewards=True)
    env = make(config, [0], training=True)
    env.reset()
    steps = [env.step(np.array([0])) for _ in range(7)]
    assert [bool(s.last[0]) for s in steps] == [False] * 4 + [True] + [False] * 2
    assert all(s.discount[0] == 1 for s in steps) and steps[0].reward[0] == -1


@pytest.mark.parametrize(
    "task, message",
    [
        ("gymnasium/CartPol-v1", "Gymnasium cannot make CartPol-v1: "),
    ],
)
def test_refusals(task, message):
    with pytest.raises(ValueError, match=message):
        check_task(EnvConfig(id=task))
