"""EnvPool tasks, stepped on the host in lock-step.

EnvPool's XLA interface bakes the address of one pool into the compiled program, so such a program
can be neither cached on disk nor restored; a plain step costs the same and runs beside any
accelerator.
"""

from typing import Any

import envpool
import jax
import numpy as np

from ez_jax.config import EnvConfig
from ez_jax.envs import drawing
from ez_jax.envs.spaces import Frames, Moves, check_spaces, host_step, learned_reward
from ez_jax.types import EnvSpec, TimeStep

NEVER = 2**31 - 1
"""EnvPool's time limit of tasks without one."""


class EnvPool:
    """N environments of one task, each with its own seed.

    Differs from a bare EnvPool in four ways: (1) a lost life can end the episode, and the step
    that follows it is one forced no-op in the running game, as in EfficientZero's wrapper; (2)
    frames are single, channels last; (3) a step after `last` is flagged `first` and carries no
    reward; (4) a time limit counts for the tasks that take no notice of EnvPool's too (tables,
    highway, jumanji).
    """

    def __init__(self, config: EnvConfig, seeds: list[int], *, training: bool, **frame_options):
        """Starts the environments.

        Args:
          config: the task and its options.
          seeds: one for each environment.
          training: with lost lives as ends, clipped rewards and the training time limit, or the
            whole game.
          **frame_options: overrides of EnvPool's options, e.g. larger frames for a video.
        """
        self.is_atari = is_atari(config.id)
        limit = config.max_episode_steps if training else config.eval_max_episode_steps
        self._repeat = 1 if self.is_atari else config.action_repeat
        options = {"max_episode_steps": limit * self._repeat} if limit else {}
        options |= task_options(config)
        self._pool = envpool.make(
            config.id,
            env_type="gymnasium",
            num_envs=len(seeds),
            seed=[int(s) for s in seeds],
            **(options | frame_options),
        )
        self._frames = Frames(self._pool.observation_space)
        self._moves = Moves(self._pool.action_space, config.action_slots)
        self._lives_end = training and config.episodic_life and self.is_atari
        self._config = config
        self._limit = limit
        self._ended = np.zeros(len(seeds), bool)
        self._over = np.zeros(len(seeds), bool)  # games, not episodes
        self._cut = np.zeros(len(seeds), bool)  # games that are over here and go on in EnvPool
        self._length = np.zeros(len(seeds), int)  # of games
        self._lives = np.zeros(len(seeds), np.int32)
        self.num_envs = len(seeds)

    def spec(self, stack: int) -> EnvSpec:
        return self._frames.spec(self._moves, stack)

    def reset(self) -> TimeStep:
        """The first frames; call it once."""
        frame, info = self._pool.reset()
        n = self.num_envs
        self._lives = np.array(info["lives"]) if self.is_atari else self._lives
        return host_step(
            self._frames(frame),
            np.zeros(n, np.float32),
            np.ones(n, np.float32),
            np.zeros(n, bool),
            np.ones(n, bool),
            np.zeros(n, np.float32),
            np.zeros(n, bool),
        )

    def step(self, action: np.ndarray) -> TimeStep:
        """Steps each environment with `action [N]`, or `[N, D]` in [-1, 1].

        Where the last step ended an episode the action is not used.
        """
        ignored = self._ended
        unused = ignored.reshape(-1, *(1,) * (action.ndim - 1))
        action = self._moves(np.where(unused, 0, action))
        frame, score, terminated, truncated, info = self._forward(action)
        for _ in range(self._repeat - 1):
            going = np.flatnonzero(~(ignored | terminated | truncated))
            if going.size == 0:
                break
            later, more, ended, cut, seen = self._pool.step(action[going], going.astype(np.int32))
            going = seen["env_id"]  # in the order of the answers
            frame = _replaced(frame, going, later)
            score, terminated, truncated = score.copy(), terminated.copy(), truncated.copy()
            score[going] += more
            terminated[going], truncated[going] = ended, cut
        self._length = np.where(self._over, 0, self._length + 1)
        self._cut = np.zeros_like(truncated)
        if self._limit:
            self._cut = (self._length >= self._limit) & ~(terminated | truncated)
        truncated = truncated | self._cut
        self._over = game_over = terminated | truncated
        if self._lives_end:
            lives = np.array(info["lives"])
            terminated = terminated | ((lives < self._lives) & (lives > 0))
            self._lives = lives
        # The forced no-op after a lost life can itself lose the game: then this frame starts
        # nothing and ends again.
        self._ended = np.where(ignored, game_over, terminated | truncated)
        reward = np.where(ignored, 0, learned_reward(self._config, score)).astype(np.float32)
        discount = np.where(terminated & ~ignored, 0, 1).astype(np.float32)
        return host_step(
            self._frames(frame),
            reward,
            discount,
            self._ended,
            ignored,
            score.astype(np.float32),
            game_over,
        )

    def _forward(self, action: np.ndarray) -> tuple[Any, ...]:
        """One step in EnvPool; a game that only we have cut begins anew, as the others do there."""
        if not self._cut.any():
            return self._pool.step(action)
        cut, going = (np.flatnonzero(which).astype(np.int32) for which in (self._cut, ~self._cut))
        frame, info = self._pool.reset(cut)
        no = np.zeros(len(cut), bool)
        answers: list[Any] = [(frame, no.astype(np.float32), no, no, info)]
        if going.size:
            answers.append(self._pool.step(action[going], going))
        order = np.argsort(np.concatenate([info["env_id"] for *_, info in answers]))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[order], *answers)


def _replaced(frame: Any, rows: np.ndarray, newer: Any) -> Any:
    """Observations, arrays or dicts of them, with newer ones in some rows."""
    if isinstance(frame, dict):
        return {name: _replaced(part, rows, newer[name]) for name, part in frame.items()}
    frame = frame.copy()
    frame[rows] = newer
    return frame


def atari_options(config: EnvConfig) -> dict[str, Any]:
    """EnvPool's options for Atari: EfficientZero's preprocessing, lives handled by us."""
    return dict(
        img_height=config.height,
        img_width=config.width,
        gray_scale=config.grayscale,
        stack_num=1,
        frame_skip=config.frame_skip,
        noop_max=config.noop_max,
        use_fire_reset=False,
        episodic_life=False,
        reward_clip=False,
        repeat_action_probability=0.0,
        full_action_space=False,
    )


def task_options(config: EnvConfig) -> dict[str, Any]:
    """EnvPool's options for the kind of task."""
    if is_atari(config.id):
        return atari_options(config)
    return drawing.options(config) if config.pixels else {}


def describe(config: EnvConfig, stack: int) -> EnvSpec:
    """The spec of a task, without starting an emulator."""
    made = envpool.make_spec(config.id, **task_options(config))
    moves = Moves(made.action_space, config.action_slots)
    return Frames(made.observation_space).spec(moves, stack)


def time_limit(task: str) -> int | None:
    """Steps after which a task says that it ends, without starting an emulator; None for no word.

    Not all keep to it: LaneKeeping-v0 says 200 and goes on, gfootball ends one step later.
    """
    steps = envpool.make_spec(task).config.max_episode_steps
    return steps if 0 < steps < NEVER else None  # 0: drawn with the mission (BabyAI)


def is_atari(task: str) -> bool:
    """Whether the id is one of EnvPool's Atari games."""
    return (
        task in envpool.list_all_envs() and type(envpool.make_spec(task)).__name__ == "AtariEnvSpec"
    )


def check_supported(task: str, slots: int = 0) -> None:
    """Refuses tasks that are not for one player, or whose spaces are none of `check_spaces`.

    Raises:
      ValueError: says which it is.
    """
    try:
        spec = envpool.make_spec(task)
    except Exception as error:  # a library of the system is missing, or an option has no default
        raise ValueError(f"EnvPool cannot make {task} here: {error}") from error
    if spec.config.max_num_players > 1:
        raise ValueError(
            f"{task} is a game of {spec.config.max_num_players} players; only one is supported"
        )
    check_spaces(task, spec.observation_space, spec.action_space, slots)
