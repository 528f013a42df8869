"""Environments as pure functions: a protocol, and N copies in lock-step."""

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ez_jax.actions import Actions, Continuous, Discrete
from ez_jax.config import EnvConfig
from ez_jax.envs.spaces import learned_reward
from ez_jax.observations import UNIT, to_frame
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

    Both functions are pure, work under `jit` and `vmap`, and never reset by themselves. Optional:
    `bounds = (low, high)` of images of floats and of drawn boards that leave [0, 1], `time_limit`,
    the steps after which it truncates by itself, and `legal_actions(state) -> [A] bool`. Where
    actions are vectors it has `action_size`, the number of their entries, in place of
    `num_actions`, and no `legal_actions`.
    """

    num_actions: int

    def reset(self, key: PRNGKey) -> Reset:
        """The start of an episode, drawn with a typed key."""

    def step(self, state: Any, action: Array, key: PRNGKey) -> Step:
        """One step along `action []`, or `[action_size]` in [-1, 1]."""


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
    frame, legal = to_frame(observation, bounds(environment)), legal_actions(environment, inner)
    return state, TimeStep(frame, zeros, jnp.ones(n), no, ~no, zeros, no, legal)


def bounds(environment: Environment) -> tuple[float, float]:
    """Of the environment's images of floats, and of boards."""
    return getattr(environment, "bounds", UNIT)


def legal_actions(environment: Environment, inner: Any) -> Array | None:
    """Legal actions of N environments, `[N, A]` bool; None where all are always legal."""
    if not hasattr(environment, "legal_actions"):
        return None
    legal = jax.vmap(environment.legal_actions)(inner)
    return legal | ~jnp.any(legal, axis=1, keepdims=True)  # a final state may allow nothing


def _repeatable(environment: Environment, step: Step, action: Array) -> Array:
    """Whether one environment can take the action of a step again: `[]` bool.

    Not where the episode is over, nor where the action is legal no more.
    """
    going = ~(step.terminated | step.truncated)
    if not hasattr(environment, "legal_actions"):
        return going
    legal = environment.legal_actions(step.state)
    return going & (legal[action] | ~jnp.any(legal))  # as `legal_actions` has it


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
        self._config = config
        self._repeat = config.action_repeat
        self.num_envs = len(seeds)
        self._start = jax.jit(functools.partial(start, environment))
        self._advance = jax.jit(self.advance)
        self._keys = jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))
        self.state, self._first = self._start(self._keys)

    def spec(self, stack: int) -> EnvSpec:
        return _spec(self._environment, self._first, stack)

    def advance(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """Steps each environment with `action [N]`, or `[N, D]` in [-1, 1].

        Where the last step ended an episode, it resets instead.
        """

        def one(inner, key, last, action):
            key, step_key, reset_key = jax.random.split(key, 3)
            step = self._environment.step(inner, action, step_key)
            for i in range(1, self._repeat):
                more = self._environment.step(step.state, action, jax.random.fold_in(step_key, i))
                more = more._replace(reward=step.reward + more.reward)
                stop = ~_repeatable(self._environment, step, action)
                step = jax.tree.map(functools.partial(jnp.where, stop), step, more)
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
            frame=to_frame(observation, bounds(self._environment)),
            reward=learned_reward(self._config, score, jnp),
            discount=jnp.where(terminated, 0.0, 1.0),
            last=last,
            first=first,
            score=score,
            game_over=last,
            legal=legal_actions(self._environment, inner),
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
    masked, frame = hasattr(environment, "legal_actions"), first.frame.shape[1:]
    actions = actions_of(environment)
    if isinstance(actions, Continuous):
        return EnvSpec(0, frame, dtype, stack, masked, action_size=actions.size)
    return EnvSpec(actions.count, frame, dtype, stack, masked)


def actions_of(environment: Environment) -> Actions:
    """The kind of actions of an environment."""
    size = int(getattr(environment, "action_size", 0))
    return Continuous(size) if size else Discrete(int(environment.num_actions))
