"""Floating-point operations that a run spends, and what the machine could have done.

As the plain lowering counts them: a multiplication and an addition are two operations, and what a
backend does beside them to be faster counts for nothing.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ez_jax import lowering
from ez_jax.agent import learning, reanalysis
from ez_jax.agent import replay as replay_lib
from ez_jax.agent.agent import Agent
from ez_jax.agent.losses import active_losses
from ez_jax.agent.search import budget, make_recurrent_fn, root_of_state
from ez_jax.agent.targets import make_targets
from ez_jax.config import Config, replace
from ez_jax.networks import Network
from ez_jax.observations import observation_shape
from ez_jax.program.stages import abstract_state
from ez_jax.types import EnvSpec, State

ROOTS = 8
"""The cost of one is that of so many, divided."""


class Spending(NamedTuple):
    """FLOP of the two parts of a cycle, for one seed."""

    act: float  # a lock-step: a search from each environment's observation
    update: float  # reanalysis, loss, gradient and optimiser

    def total(self, acts: int, updates: int) -> float:
        """FLOP of so many searched lock-steps and updates."""
        return acts * self.act + updates * self.update


def of_config(config: Config, spec: EnvSpec) -> Spending:
    """What acts and updates of a config cost, without loss terms of one's own."""
    return _of_config(replace(config, seed=0, run=Config().run), spec)


@functools.lru_cache(maxsize=8)
def _of_config(config: Config, spec: EnvSpec) -> Spending:
    agent = Agent(config, Network(config.network, spec), active_losses(config))
    return count(agent, abstract_state(agent))


@functools.cache
def matmul_rate(size: int = 1024, runs: int = 8) -> float:
    """FLOP a second of a product of float32 matrices on one device, the best of a few."""
    x = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(x))
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(product(x))
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def count_flops(fn: Callable, *args: Any) -> float:
    """FLOP of a function of arrays or their shapes; the body of a loop counts once."""
    with lowering.plain():
        counted: Any = jax.jit(lambda *a: fn(*a)).lower(*args).cost_analysis()
    return float(counted.get("flops", 0.0))


def count(agent: Agent, state: State) -> Spending:
    """What an agent's acts and updates cost; nothing is computed.

    Args:
      agent: the algorithm, on one device.
      state: its shapes, `program.stages.abstract_state`.
    """
    config, network, learner = agent.config, agent.network, state.learner
    variables, shape = learner.variables, observation_shape(network.spec)
    observation = jax.ShapeDtypeStruct((ROOTS, *shape), network.spec.frame_dtype)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def apply(method: str) -> Callable:
        return lambda v, x: network.apply(v, x, method=getattr(Network, method))

    latent: Any = jax.eval_shape(apply("encode"), variables, observation)
    root = jax.eval_shape(lambda v, s: root_of_state(network, v, s, jnp.float32), variables, latent)
    step, action = make_recurrent_fn(network, config), jax.ShapeDtypeStruct((ROOTS,), jnp.int32)
    encoding = count_flops(apply("encode"), variables, observation) / ROOTS
    prediction = count_flops(apply("predict"), variables, latent) / ROOTS
    simulations = budget(config.search, network.spec.num_actions).simulations
    expansion = (
        count_flops(lambda v, a, n: step(v, None, a, n), variables, action, root.embedding) / ROOTS
    )
    search = prediction + simulations * expansion

    # REANALYSIS, by positions.
    k, n, size = config.target.unroll_steps, config.target.td_steps, config.cycle.batch_size
    searched = max(1, int(size * config.reanalyse.ratio)) if config.reanalyse.ratio > 0 else 0
    evaluated = size * (k + n + 1)
    reanalysed = {
        "off": 0.0,
        "oldest": config.reanalyse.positions * (encoding + search),
        "sampled": searched * (k + 1) * (encoding + search)
        + (evaluated - searched * (k + 1)) * (encoding + prediction),
        "teacher": evaluated * (encoding + prediction) + searched * (k + 1) * search,
    }[config.reanalyse.mode]

    # LOSS, GRADIENT, OPTIMISER.
    def batch_of(state: State) -> Any:
        _, drawn = agent.draw(state)
        batch = replay_lib.gather(
            state.replay, drawn, state.actor.env_steps, state.learner.updates, config
        )
        if config.reanalyse.mode == "teacher":
            batch = reanalysis.teach(network, config, state.learner.variables, state.key, batch)
        return batch

    def gradient_step(learner: Any, key: Any, batch: Any) -> Any:
        targets = make_targets(batch, config, learner.updates)
        return learning.gradient_step(
            learner, key, batch, targets, network=network, config=config, terms=agent.terms
        )

    gradient = count_flops(gradient_step, learner, key, jax.eval_shape(batch_of, state))
    return Spending(config.env.num_envs * (encoding + search), reanalysed + gradient)
