"""A model of tables, which a search can be tried on."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mctx
import numpy as np

from ez_jax.agent.transforms import scalar_to_probs
from ez_jax.config import NetworkConfig
from ez_jax.networks import Prediction, Step
from ez_jax.types import EnvSpec

SUPPORT = 20

# Nearly all the time of these tests is compilation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Tables(NamedTuple):
    """A deterministic model with S states and A actions."""

    next_state: np.ndarray  # [S, A] i32
    reward: np.ndarray  # [S, A] f32
    logits: np.ndarray  # [S, A] f32
    value: np.ndarray  # [S] f32
    discount: np.ndarray  # [] f32


def random_tables(
    seed: int, states: int, actions: int, *, scale: float = 1.0, peak: float = 1.0
) -> Tables:
    """Irregular numbers, so that no two children ever tie; `scale` of rewards and values, `peak` of
    the priors.
    """
    rng = np.random.default_rng(seed)
    return Tables(
        rng.integers(0, states, (states, actions), dtype=np.int32),
        (scale * rng.normal(size=(states, actions))).astype(np.float32),
        (peak * rng.normal(size=(states, actions))).astype(np.float32),
        (scale * rng.normal(size=states)).astype(np.float32),
        np.float32(0.97),
    )


def table_recurrent(tables, key, action, state):
    """The tables as mctx steps them."""
    del key
    tables = jax.tree.map(jnp.asarray, tables)
    following = tables.next_state[state, action]
    output = mctx.RecurrentFnOutput(
        reward=tables.reward[state, action],
        discount=jnp.full(state.shape, tables.discount),
        prior_logits=tables.logits[following],
        value=tables.value[following],
    )
    return output, following


class TableNetwork:
    """Stands in for a network: the latent state is the index of a state, and the memory sums
    rewards.

    Its prefix depends on all steps since the memory was zero, and not only by their sum if `bend`
    is not 0. Without value prefix it predicts single rewards and has no memory.
    """

    def __init__(self, value_prefix: bool = True, bend: float = 0.0, prefix_scale: float = 1.0):
        self.config = NetworkConfig(
            value_prefix=value_prefix, support=SUPPORT, prefix_scale=prefix_scale
        )
        self.bend = bend
        self.spec = EnvSpec(2, (1,), np.float32, 1)

    def apply(self, variables, *args, method):
        return getattr(self, method)(jax.tree.map(jnp.asarray, variables), *args)

    def initial_memory(self, batch):
        units = 1 if self.config.value_prefix else 0
        return jnp.zeros((batch, units)), jnp.zeros((batch, units))

    def encode(self, tables, observation):
        return observation.astype(jnp.float32)

    def predict(self, tables, state):
        index = state[:, 0].astype(jnp.int32)
        return Prediction(scalar_logits(tables.value[index]), tables.logits[index])

    def step(self, tables, state, memory, action):
        index = state[:, 0].astype(jnp.int32)
        total, steps = memory
        total, steps = (
            total + tables.reward[index, action][:, None],
            0.6 * steps + 1 + 0.1 * index[:, None],
        )
        prefix = (
            (total + self.bend * jnp.sin(steps))[:, 0]
            if self.config.value_prefix
            else tables.reward[index, action]
        )
        following = tables.next_state[index, action].astype(jnp.float32)[:, None]
        logits = scalar_logits(prefix, self.config.prefix_scale)
        return Step(following, (total, steps), logits)


def scalar_logits(x, scale: float = 1.0):
    """Logits that say x exactly."""
    return jnp.log(jnp.maximum(scalar_to_probs(x, NetworkConfig(support=SUPPORT), scale), 1e-30))
