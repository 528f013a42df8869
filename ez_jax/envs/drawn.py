"""Boards drawn as grey images: pixel tasks that are learned in minutes."""

from typing import Any

import jax
import jax.numpy as jnp

from ez_jax.envs.functional import Environment, Reset, Step
from ez_jax.observations import SMALLEST_IMAGE
from ez_jax.types import Array, PRNGKey

CELL = 4
"""Pixels a side of a cell, more where the board would be too small for an image."""


class Drawn:
    """An environment whose observation, a board `[H, W]` or `[H, W, C]` in [0, 1], is drawn.

    A cell becomes a square of one grey level: the brightest of its channels, each of which has a
    level of its own. Frames are `uint8 [H * s, W * s, 1]`.
    """

    num_actions: int  # or `action_size`, as the environment has

    def __init__(self, environment: Environment):
        shape = jax.eval_shape(environment.reset, jax.random.key(0)).observation.shape
        if len(shape) not in (2, 3):
            raise ValueError(f"only boards [H, W] or [H, W, C] can be drawn, not {list(shape)}")
        self._environment = environment
        for part in ("num_actions", "action_size", "legal_actions", "time_limit"):
            if hasattr(environment, part):
                setattr(self, part, getattr(environment, part))

    def reset(self, key: PRNGKey) -> Reset:
        fresh = self._environment.reset(key)
        return Reset(fresh.state, draw(fresh.observation))

    def step(self, state: Any, action: Array, key: PRNGKey) -> Step:
        step = self._environment.step(state, action, key)
        return step._replace(observation=draw(step.observation))


def draw(board: Array) -> Array:
    """A board `[H, W(, C)]` as an image `uint8 [H * s, W * s, 1]`."""
    board = board.astype(jnp.float32)
    board = board[..., None] if board.ndim == 2 else board
    levels = jnp.arange(1, board.shape[-1] + 1) * (255 / board.shape[-1])
    image = jnp.max(board * levels, axis=-1)
    side = max(CELL, -(-SMALLEST_IMAGE // min(image.shape)))
    image = jnp.repeat(jnp.repeat(image, side, axis=0), side, axis=1)
    return image[..., None].round().astype(jnp.uint8)
