"""Environments as pure functions: a protocol, and N copies in lock-step."""

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ez_jax.config import EnvConfig
from ez_jax.observations import to_frame
from ez_jax.types import Array, EnvSpec, PRNGKey, TimeStep


class Reset(NamedTuple):
    state: Any
    observation: Array


class Step(NamedTuple):
    state: Any
    observation: Array
    reward: Array  # []
    terminated: Array  # [] bool
    truncated: Array  # [] bool


class Environment(Protocol):
    """One environment.

    Both functions are pure, work under `jit` and `vmap`, and never reset by themselves.
    """

    num_actions: int

    def reset(self, key: PRNGKey) -> Reset:
        """The start of an episode, drawn with a typed key."""

    def step(self, state: Any, action: Array, key: PRNGKey) -> Step:
        """One step along `action []`."""


class EnvState(NamedTuple):
    """N environments."""

    inner: Any  # [N, ...] of the environment
    key: PRNGKey  # [N]
    last: Array  # [N] bool, the episode ended: the next step resets
    length: Array  # [N] i32, steps since the reset


def start(environment: Environment, keys: PRNGKey) -> tuple[EnvState, TimeStep]:
    """The first frames of copies with `keys [N]`."""
    keys = jax.vmap(jax.random.split)(keys)
    inner, observation = jax.vmap(environment.reset)(keys[:, 0])
    n = keys.shape[0]
    zeros, no = jnp.zeros(n), jnp.zeros(n, bool)
    state = EnvState(inner, keys[:, 1], no, jnp.zeros(n, jnp.int32))
    return state, TimeStep(to_frame(observation), zeros, jnp.ones(n), no, ~no, zeros, no)


class JaxEnvs:
    """N copies of a pure environment, each with its own key.

    Adds the time limit and the autoreset that `TimeStep` asks for.

    `advance` is the pure function that the compiled cycle calls; `reset` and `step` drive the same
    thing from the host, as `EnvPool`'s do, and remember where it stands in `state`.
    """

    def __init__(
        self, environment: Environment, config: EnvConfig, seeds: list[int], *, training: bool
    ):
        self._environment = environment
        self._limit = config.max_episode_steps if training else config.eval_max_episode_steps
        self._clip = training and config.clip_rewards
        self.num_envs = len(seeds)
        self._start = jax.jit(functools.partial(start, environment))
        self._advance = jax.jit(self.advance)
        self._keys = jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))
        self.state, self._first = self._start(self._keys)

    def spec(self, stack: int) -> EnvSpec:
        return _spec(self._environment, self._first, stack)

    def advance(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """Steps each environment with `action [N]`.

        Where the last step ended an episode, it resets instead.
        """

        def one(inner, key, last, action):
            key, step_key, reset_key = jax.random.split(key, 3)
            step = self._environment.step(inner, action, step_key)
            fresh = self._environment.reset(reset_key)
            inner, observation = jax.tree.map(
                lambda a, b: jnp.where(last, a, b), tuple(fresh), (step.state, step.observation)
            )
            return inner, key, observation, step

        inner, key, observation, step = jax.vmap(one)(state.inner, state.key, state.last, action)
        first = state.last
        length = jnp.where(first, 0, state.length + 1)
        terminated = step.terminated & ~first
        last = (terminated | step.truncated) & ~first
        if self._limit:
            last |= length >= self._limit  # never of a first frame: its length is 0
        score = jnp.where(first, 0.0, step.reward).astype(jnp.float32)
        return EnvState(inner, key, last, length), TimeStep(
            frame=to_frame(observation),
            reward=jnp.sign(score) if self._clip else score,
            discount=jnp.where(terminated, 0.0, 1.0),
            last=last,
            first=first,
            score=score,
            game_over=last,
        )

    def reset(self) -> TimeStep:
        """The first frames."""
        self.state, self._first = self._start(self._keys)
        return jax.device_get(self._first)

    def step(self, action: np.ndarray) -> TimeStep:
        """`advance` from the host."""
        self.state, timestep = self._advance(self.state, jnp.asarray(action))
        return jax.device_get(timestep)


def describe(environment: Environment, num_envs: int, stack: int) -> tuple[EnvSpec, EnvState]:
    """The spec, and the shapes of the state of `num_envs` copies; nothing is computed."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), num_envs))
    state, first = jax.eval_shape(functools.partial(start, environment), keys)
    return _spec(environment, first, stack), state


def _spec(environment: Environment, first: TimeStep, stack: int) -> EnvSpec:
    dtype = np.dtype(first.frame.dtype).type
    return EnvSpec(environment.num_actions, first.frame.shape[1:], dtype, stack)
