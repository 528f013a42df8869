"""Catch in JAX: the smallest task with a delayed reward.

After bsuite's (Osband et al. 2020, arXiv 1908.03568).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ez_jax.envs.functional import Reset, Step
from ez_jax.types import Array, PRNGKey


class CatchState(NamedTuple):
    row: Array  # [] i32, of the ball
    column: Array  # [] i32, of the ball
    paddle: Array  # [] i32, column of the paddle, which stands in the last row


class Catch:
    """A ball falls one row a step from a random column onto a paddle.

    Actions move the paddle left, not at all, or right.

    Reward is 1 if the ball lands on the paddle, -1 if not; an episode has `rows - 1` steps.
    """

    num_actions = 3

    def __init__(self, rows: int = 10, columns: int = 5):
        self.rows, self.columns, self.time_limit = rows, columns, rows - 1

    def reset(self, key: PRNGKey) -> Reset:
        column = jax.random.randint(key, (), 0, self.columns)
        state = CatchState(
            jnp.zeros((), jnp.int32), column, jnp.asarray(self.columns // 2, jnp.int32)
        )
        return Reset(state, self._observe(state))

    def step(self, state: CatchState, action: Array, key: PRNGKey) -> Step:
        del key
        paddle = jnp.clip(state.paddle + action - 1, 0, self.columns - 1)
        state = CatchState(state.row + 1, state.column, paddle)
        landed = state.row == self.rows - 1
        reward = jnp.where(landed, jnp.where(state.column == paddle, 1.0, -1.0), 0.0)
        return Step(state, self._observe(state), reward, landed, jnp.zeros((), bool))

    def _observe(self, state: CatchState) -> Array:
        board = jnp.zeros((self.rows, self.columns))
        return board.at[state.row, state.column].set(1.0).at[self.rows - 1, state.paddle].set(1.0)
