"""Boards drawn as grey images: pixel tasks that are learned in minutes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ez_jax.envs.checks import played
from ez_jax.envs.functional import Environment, Reset, Step, bounds
from ez_jax.observations import SMALLEST_IMAGE, UNIT
from ez_jax.types import Array, PRNGKey

CELL = 4
"""Pixels a side of a cell, more where the board would be too small for an image."""


class Drawn:
    """An environment whose observation, a board `[H, W]` or `[H, W, C]`, is drawn.

    Its values lie in the environment's `bounds`, by default [0, 1]. A cell becomes a square of one
    grey level: the brightest of its channels, each of which has a level of its own. Frames are
    `uint8 [H * s, W * s, 1]`.
    """

    num_actions: int  # or `action_size`, as the environment has

    def __init__(self, environment: Environment):
        board = jax.eval_shape(environment.reset, jax.random.key(0)).observation
        if len(board.shape) not in (2, 3):
            shape = list(board.shape)
            raise ValueError(f"only boards [H, W] or [H, W, C] can be drawn, not {shape}")
        self._environment, self._bits = environment, board.dtype == bool
        declared = bounds(environment)
        self._bounds = declared if np.all(np.isfinite(declared)) and not self._bits else UNIT
        for part in ("num_actions", "action_size", "legal_actions", "time_limit"):
            if hasattr(environment, part):
                setattr(self, part, getattr(environment, part))

    def reset(self, key: PRNGKey) -> Reset:
        fresh = self._environment.reset(key)
        return Reset(fresh.state, draw(fresh.observation, self._bounds))

    def step(self, state: Any, action: Array, key: PRNGKey) -> Step:
        step = self._environment.step(state, action, key)
        return step._replace(observation=draw(step.observation, self._bounds))

    def check_board(self, key: PRNGKey) -> None:
        """Plays a few random steps; raises `ValueError` where a board leaves its bounds."""
        if self._bits:
            return
        boards, (low, high) = played(self._environment, key), self._bounds
        least, most = float(np.min(boards)), float(np.max(boards))
        if not (least >= low and most <= high):  # NaN too
            raise ValueError(
                f"boards to be drawn must lie in [{low:g}, {high:g}], not in [{least:g}, "
                f"{most:g}]: an environment of one's own declares `bounds = (low, high)`"
            )


def draw(board: Array, bounds: tuple[float, float] = UNIT) -> Array:
    """A board `[H, W(, C)]` as an image `uint8 [H * s, W * s, 1]`.

    What leaves the bounds is black or in full light: bytes would wrap.
    """
    low, high = bounds
    board = jnp.clip((board.astype(jnp.float32) - low) / (high - low), 0.0, 1.0)
    board = board[..., None] if board.ndim == 2 else board
    levels = jnp.arange(1, board.shape[-1] + 1) * (255 / board.shape[-1])
    image = jnp.max(board * levels, axis=-1)
    side = max(CELL, -(-SMALLEST_IMAGE // min(image.shape)))
    image = jnp.repeat(jnp.repeat(image, side, axis=0), side, axis=1)
    return image[..., None].round().astype(jnp.uint8)
