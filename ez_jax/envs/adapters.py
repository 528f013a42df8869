"""Environments of other JAX libraries behind our protocol (extra `jaxenvs`).

gymnax, and pgx games for one player.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ez_jax.envs.functional import Reset, Step
from ez_jax.types import Array, PRNGKey


class Gymnax:
    """A gymnax environment without its own autoreset.

    Args:
      environment: of `gymnax.make`.
      params: of `gymnax.make`.
    """

    def __init__(self, environment: Any, params: Any):
        self._environment, self._params = environment, params
        if not hasattr(environment.action_space(params), "n"):
            raise ValueError(
                f"{environment.name} has continuous actions; only discrete actions are supported"
            )
        self.num_actions = int(environment.num_actions)
        space = environment.observation_space(params)
        if hasattr(space, "low"):
            self.bounds = float(np.min(space.low)), float(np.max(space.high))
        self.time_limit = getattr(params, "max_steps_in_episode", None)

    def reset(self, key: PRNGKey) -> Reset:
        observation, state = self._environment.reset_env(key, self._params)
        return Reset(state, observation)

    def step(self, state: Any, action: Array, key: PRNGKey) -> Step:
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
