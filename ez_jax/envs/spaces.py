"""What the spaces of environments on the host say of their observations and actions."""

from typing import Any, cast

import numpy as np

from ez_jax.observations import UNIT, check_image, to_frame
from ez_jax.types import EnvSpec, TimeStep


def host_step(*fields: np.ndarray) -> TimeStep:
    """A time step of host arrays: the stages put them on the devices."""
    return TimeStep(*cast(Any, fields))


class Frames:
    """Turns observations of a space, `[N, ...]`, into frames.

    An index becomes one-hot; images of floats are scaled by the space's bounds.
    """

    def __init__(self, space: Any):
        self._count, self._start = getattr(space, "n", None), getattr(space, "start", 0)
        self._shape, self._dtype = space.shape, space.dtype
        low, high = getattr(space, "low", UNIT[0]), getattr(space, "high", UNIT[1])
        self._bounds = float(np.min(low)), float(np.max(high))

    def __call__(self, observation: np.ndarray) -> Any:
        """Frames `[N, ...]`.

        Raises:
          ValueError: an image leaves its bounds.
        """
        if self._count is not None:
            index = observation.reshape(-1, 1) - self._start
            return (index == np.arange(self._count)).astype(np.uint8)
        check_image(observation, self._bounds)
        return np.ascontiguousarray(to_frame(observation, self._bounds))

    def spec(self, actions: Any, stack: int) -> EnvSpec:
        """Describes an environment with these observations."""
        least = 0 if self._count is not None else max(self._bounds[0], -1e30)
        example = np.full((1, *self._shape), self._start or least).astype(self._dtype)
        frame = self(example)
        return EnvSpec(int(actions.n), frame.shape[1:], frame.dtype.type, stack)


def check_spaces(task: str, observations: Any, actions: Any) -> None:
    """Refuses tasks that have other than discrete actions, and vectors, images or indices.

    Raises:
      ValueError: says which it is.
    """
    if not hasattr(actions, "n"):
        kind = "continuous" if hasattr(actions, "high") else type(actions).__name__
        raise ValueError(f"{task} has {kind} actions; only discrete actions are supported")
    if getattr(actions, "start", 0):
        raise ValueError(f"{task} has actions that start at {actions.start}, not at 0")
    shape = getattr(observations, "shape", None)
    if not hasattr(observations, "n") and not shape:
        kind = type(observations).__name__
        raise ValueError(
            f"{task} has observations of the kind {kind}; only vectors, images and indices are "
            "supported"
        )
