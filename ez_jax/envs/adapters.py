"""Environments of other JAX libraries behind our protocol (extra `jaxenvs`).

gymnax, and pgx games for one player.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ez_jax.envs.functional import Reset, Step
from ez_jax.envs.spaces import check_spaces, grid_of, is_index
from ez_jax.types import Array, PRNGKey


class Gymnax:
    """A gymnax environment without its own autoreset.

    Args:
      environment: of `gymnax.make`.
      params: of `gymnax.make`.
    """

    def __init__(self, environment: Any, params: Any):
        self._environment, self._params = environment, params
        space = environment.action_space(params)
        self._box = None if is_index(space) else space
        if self._box is None:
            self.num_actions = int(environment.num_actions)
        else:
            check_spaces(environment.name, environment.observation_space(params), space)
            self.action_size = int(np.prod(space.shape))
        space = environment.observation_space(params)
        if hasattr(space, "low"):
            self.bounds = float(np.min(space.low)), float(np.max(space.high))
        self.time_limit = getattr(params, "max_steps_in_episode", None)

    def reset(self, key: PRNGKey) -> Reset:
        observation, state = self._environment.reset_env(key, self._params)
        return Reset(state, observation)

    def step(self, state: Any, action: Array, key: PRNGKey) -> Step:
        if self._box is not None:
            low, high = jnp.asarray(self._box.low), jnp.asarray(self._box.high)
            unit = (jnp.clip(action, -1, 1) + 1) / 2
            action = low + unit.reshape(self._box.shape) * (high - low)
        observation, state, reward, terminated, _ = self._environment.step_env(
            key, state, action, self._params
        )
        return Step(
            state,
            observation,
            reward,
            terminated,
            self._environment.is_truncated(state, self._params),
        )


class Slots:
    """A pure environment of vectors as one of indices: each a point of a grid over [-1, 1]^D."""

    def __init__(self, environment: Any, slots: int):
        self._environment = environment
        self._grid = jnp.asarray(grid_of(environment.action_size, slots))
        self.num_actions = len(self._grid)
        self.reset = environment.reset
        for optional in ("bounds", "time_limit", "check_board"):
            if hasattr(environment, optional):
                setattr(self, optional, getattr(environment, optional))

    def step(self, state: Any, action: Array, key: PRNGKey) -> Step:
        return self._environment.step(state, self._grid[action], key)


class Pgx:
    """A pgx environment for one player, e.g. MinAtar."""

    def __init__(self, environment: Any):
        if environment.num_players != 1:
            raise ValueError(
                f"{environment.id} is a game of {environment.num_players} players; only one is "
                "supported"
            )
        self._environment = environment
        self.num_actions = int(environment.num_actions)
        # An illegal action ends a game of pgx.
        state = jax.eval_shape(environment.init, jax.random.key(0))
        if hasattr(state, "legal_action_mask"):
            self.legal_actions = lambda state: state.legal_action_mask

    def reset(self, key: PRNGKey) -> Reset:
        state = self._environment.init(key)
        return Reset(state, state.observation)

    def step(self, state: Any, action: Array, key: PRNGKey) -> Step:
        state = self._environment.step(state, action, key)
        return Step(
            state, state.observation, jnp.squeeze(state.rewards), state.terminated, state.truncated
        )
