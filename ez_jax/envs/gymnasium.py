"""Any Python environment of Gymnasium, N copies stepped on the host in lock-step."""

import contextlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from ez_jax.config import EnvConfig
from ez_jax.envs.spaces import Frames, Moves, check_spaces, host_step, learned_reward
from ez_jax.types import EnvSpec, TimeStep


class Gymnasium:
    """N environments of one id, each with its own seed, in this process.

    Gymnasium's "next step" autoreset is what `TimeStep` asks for: the step after an episode's end
    ignores its action and returns the first frame of the next.
    """

    def __init__(self, task: str, config: EnvConfig, seeds: list[int], *, training: bool):
        """Starts the environments; arguments as those of `EnvPool`, `task` without its prefix."""
        limit = config.max_episode_steps if training else config.eval_max_episode_steps
        # A limit of our own takes the place of the task's.
        repeat = config.action_repeat
        options: dict[str, Any] = {"max_episode_steps": limit * repeat} if limit else {}
        self._env: Any = SyncVectorEnv(
            [lambda: Repeated(gymnasium.make(task, **options), repeat)] * len(seeds),
            autoreset_mode=AutoresetMode.NEXT_STEP,
        )
        self._frames = Frames(self._env.single_observation_space)
        self._moves = Moves(self._env.single_action_space, config.action_slots)
        self._seeds = seeds
        self._config = config
        self._ended = np.zeros(len(seeds), bool)
        self.num_envs = len(seeds)

    def spec(self, stack: int) -> EnvSpec:
        return self._frames.spec(self._moves, stack)

    def reset(self) -> TimeStep:
        """The first frames."""
        observation, _ = self._env.reset(seed=self._seeds)
        n = self.num_envs
        zeros, no = np.zeros(n, np.float32), np.zeros(n, bool)
        self._ended = no
        return host_step(self._frames(observation), zeros, zeros + 1, no, ~no, zeros, no)

    def step(self, action: np.ndarray) -> TimeStep:
        """Steps each environment with `action [N]`, or `[N, D]` in [-1, 1]."""
        observation, score, terminated, truncated, _ = self._env.step(self._moves(action))
        first, last = self._ended, terminated | truncated
        self._ended = last
        score = np.where(first, 0, score).astype(np.float32)
        reward = learned_reward(self._config, score)
        discount = np.where(terminated, 0, 1).astype(np.float32)
        return host_step(self._frames(observation), reward, discount, last, first, score, last)


class Repeated(gymnasium.Wrapper):
    """An environment that takes each action several times, and sums the rewards."""

    def __init__(self, env: gymnasium.Env, times: int):
        super().__init__(env)
        self._times = times

    def step(self, action: Any) -> Any:
        total = 0.0
        for _ in range(self._times):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


def describe(task: str, stack: int, slots: int = 0) -> EnvSpec:
    """The spec of a task; raises as `check` does."""
    env = _make(task)
    with contextlib.closing(env):
        check_spaces(f"gymnasium/{task}", env.observation_space, env.action_space, slots)
        return Frames(env.observation_space).spec(Moves(env.action_space, slots), stack)


def check(task: str, slots: int = 0) -> None:
    """Refuses what cannot be made, or has spaces that are none of `check_spaces`.

    Raises:
      ValueError: says which it is.
    """
    describe(task, 1, slots)


def time_limit(task: str) -> int | None:
    """Steps after which the registered task ends, None where none is registered.

    `gymnasium.spec` knows less than `gymnasium.make`: no id without a version or with a module.
    """
    with contextlib.closing(_make(task)) as env:
        return env.spec.max_episode_steps if env.spec is not None else None


def _make(task: str) -> gymnasium.Env:
    try:
        return gymnasium.make(task)
    except Exception as error:  # of Gymnasium, or of the environment's own library
        raise ValueError(f"Gymnasium cannot make {task}: {error}") from error
