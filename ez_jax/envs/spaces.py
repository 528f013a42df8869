"""What the spaces of environments on the host say of their observations and actions."""

from typing import Any, cast

import numpy as np

from ez_jax.config import EnvConfig
from ez_jax.observations import UNIT, check_image, is_image, to_frame
from ez_jax.types import EnvSpec, TimeStep

LARGEST_BOUND = 1e6
"""Actions with larger bounds are unbounded: no scale follows from them."""
MOST_SLOTS = 1000
"""Actions that discretised ones may come to."""
GOALS = {"achieved_goal", "desired_goal", "privileged_state"}
"""Entries of observations that do not belong side by side with the others."""


def host_step(*fields: np.ndarray) -> TimeStep:
    """A time step of host arrays: the stages put them on the devices."""
    return TimeStep(*cast(Any, fields))


def learned_reward(config: EnvConfig, score: Any, xp: Any = np) -> Any:
    """What training sees of scores: them, or their sign.

    Args:
      config: of the task.
      score: of steps, `[N]`.
      xp: the arrays' module, `numpy` or `jax.numpy`.
    """
    return xp.sign(score) if config.clip_rewards else score


class Frames:
    """Turns observations of a space, `[N, ...]`, into frames.

    An index becomes one-hot; images of floats are scaled by the space's bounds; the entries of a
    dict are flattened (an index becomes one-hot there too) and put side by side by name, in
    alphabetical order.
    """

    def __init__(self, space: Any):
        self._entries: dict[str, Frames] = {}
        self._count, self._start = None, 0
        self._shape, self._dtype = space.shape, space.dtype
        if is_dict(space):
            self._entries = {name: Frames(space[name]) for name in sorted(space.spaces)}
            sizes = [int(entry._example()[0].size) for entry in self._entries.values()]
            self._shape, self._dtype = (sum(sizes),), np.float32
        elif is_index(space):
            self._count, self._start = int(space.n), int(getattr(space, "start", 0))
        low, high = getattr(space, "low", UNIT[0]), getattr(space, "high", UNIT[1])
        self._bounds = float(np.min(low)), float(np.max(high))

    def __call__(self, observation: Any) -> Any:
        """Frames `[N, ...]`.

        Raises:
          ValueError: an image leaves its bounds.
        """
        if self._count is not None:
            index = observation.reshape(-1, 1) - self._start
            return (index == np.arange(self._count)).astype(np.uint8)
        if self._entries and not isinstance(observation, np.ndarray):
            parts = [entry(np.asarray(observation[k])) for k, entry in self._entries.items()]
            observation = np.concatenate(parts, axis=1, dtype=np.float32)
        check_image(observation, self._bounds)
        return np.ascontiguousarray(to_frame(observation, self._bounds))

    def spec(self, actions: "Moves", stack: int) -> EnvSpec:
        """Describes an environment with these observations."""
        frame = self._example()
        return EnvSpec(
            actions.count, frame.shape[1:], frame.dtype.type, stack, action_size=actions.size
        )

    def _example(self) -> Any:
        """The frame `[1, ...]` of an observation that is allowed."""
        least = 0 if self._count is not None else max(self._bounds[0], -1e30)
        return self(np.full((1, *self._shape), self._start or least).astype(self._dtype))


class Moves:
    """Turns the agent's actions into those of a space.

    Vectors in [-1, 1] are clipped and scaled to the bounds of a box. With `slots` an index stands
    for a point of a grid over the box, the first entry changing slowest (EfficientZero, appendix).
    """

    def __init__(self, space: Any, slots: int = 0):
        self._box = not is_index(space)
        self.count, self.size, self._grid = 0, 0, None
        if not self._box:
            self.count = int(space.n)
            return
        self._low, self._high = np.asarray(space.low), np.asarray(space.high)
        self._dtype, self.size = space.dtype, int(np.prod(space.shape))
        if slots:
            self._grid = grid_of(self.size, slots)
            self.count, self.size = len(self._grid), 0

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """Actions `[N]` or `[N, D]` as the environment takes them.

        Raises:
          ValueError: an entry is no number, which simulators of physics do not survive.
        """
        if not self._box:
            return action.astype(np.int32)
        if not np.all(np.isfinite(action)):
            raise ValueError(f"actions that are not finite: {action.tolist()}")
        unit = action if self._grid is None else self._grid[action]
        unit = np.clip(unit, -1, 1).reshape(-1, *self._low.shape).astype(np.float64)
        scaled = self._low + (unit + 1) / 2 * (self._high - self._low)
        return scaled.astype(self._dtype)


def grid_of(size: int, slots: int) -> np.ndarray:
    """Points of a grid over [-1, 1]^D, the first entry changing slowest: `[slots^D, D]` f32.

    Raises:
      ValueError: they are too many, or one alone.
    """
    if slots < 2 or slots**size > MOST_SLOTS:
        raise ValueError(
            f"env.action-slots={slots} is out of range: {size} entries of an action make "
            f"{slots}^{size} = {slots**size:,} actions, not 2 to {MOST_SLOTS:,}; 0 searches "
            "sampled vectors"
        )
    axes = [np.linspace(-1, 1, slots, dtype=np.float32)] * size
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, size)


def is_dict(space: Any) -> bool:
    """Whether observations are dicts."""
    return hasattr(space, "spaces") and hasattr(space.spaces, "keys")


def is_index(space: Any) -> bool:
    """Whether elements of a space are single indices; spaces of several have an `n` too."""
    return hasattr(space, "n") and np.ndim(space.n) == 0 and space.shape == ()


def check_spaces(task: str, observations: Any, actions: Any, slots: int = 0) -> None:
    """Refuses tasks whose actions are neither indices nor bounded vectors, or whose observations
    are not vectors, dicts of them, images or indices.

    Args:
      task: its id.
      observations: space of them.
      actions: space of them.
      slots: `env.action_slots`.

    Raises:
      ValueError: says which it is.
    """
    _check_actions(task, actions, slots)
    if is_dict(observations):
        goals = sorted(GOALS & set(observations.spaces))
        if goals:
            raise ValueError(
                f"{task} has observations with {', '.join(goals)}; tasks with goals or privileged "
                "states are not supported"
            )
        for name, space in observations.spaces.items():
            shape = getattr(space, "shape", None)
            if shape is None or hasattr(space, "nvec") or is_dict(space) or is_image(shape):
                kind = type(space).__name__ + (f" {list(shape)}" if shape else "")
                raise ValueError(
                    f"{task} has observations whose entry {name!r} is of the kind {kind}; only "
                    "vectors, boards and indices can stand side by side"
                )
        return
    shape = getattr(observations, "shape", None)
    if hasattr(observations, "nvec") or not (shape or is_index(observations)):
        kind = type(observations).__name__
        raise ValueError(
            f"{task} has observations of the kind {kind}; only vectors, images and indices are "
            "supported"
        )


def _check_actions(task: str, actions: Any, slots: int) -> None:
    if is_index(actions):
        if getattr(actions, "start", 0):
            raise ValueError(f"{task} has actions that start at {actions.start}, not at 0")
        if slots:
            raise ValueError(f"env.action-slots={slots}, but {task} has discrete actions")
        return
    if not hasattr(actions, "high") or np.dtype(actions.dtype).kind != "f":
        raise ValueError(
            f"{task} has actions of the kind {type(actions).__name__}; only discrete actions and "
            "boxes of real numbers are supported"
        )
    size = int(np.prod(actions.shape))
    if not size:
        raise ValueError(f"{task} has actions without an entry: nothing is left to choose")
    largest = max(np.abs(actions.low).max(), np.abs(actions.high).max())
    if np.isnan(largest):
        raise ValueError(f"{task} has actions whose bounds are no numbers")
    if not largest <= LARGEST_BOUND:
        raise ValueError(
            f"{task} has unbounded actions (up to {largest:g}): no scale follows from them"
        )
    if slots:
        grid_of(size, slots)
