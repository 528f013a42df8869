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
from ez_jax.agent.search import budget
from ez_jax.config import Config
from ez_jax.networks import Network, init_variables
from ez_jax.observations import observation_shape
from ez_jax.types import EnvSpec

ROOTS = 8
"""The cost of one is that of so many, divided."""


class Spending(NamedTuple):
    """FLOP of the two parts of a cycle, for one seed."""

    act: float  # a lock-step: a search from each environment's observation
    update: float  # reanalysis, loss, gradient and optimiser

    def total(self, acts: int, updates: int) -> float:
        """FLOP of so many searched lock-steps and updates."""
        return acts * self.act + updates * self.update


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


@functools.lru_cache(maxsize=8)
def of_config(config: Config, spec: EnvSpec) -> Spending:
    """What acts and updates of a config cost, without loss terms of one's own.

    Nothing is computed: the methods of the network are traced, and a gradient costs two forward
    passes.
    """
    network = Network(config.network, spec)
    shape, dtype = (ROOTS, *observation_shape(spec)), spec.frame_dtype
    variables = jax.eval_shape(lambda: init_variables(network, jax.random.key(0)))
    memory = jax.eval_shape(lambda: network.initial_memory(ROOTS))
    action = jax.ShapeDtypeStruct((ROOTS,), jnp.int32)

    def cost(method: str, *args: Any) -> float:
        def run(v: Any, *args: Any) -> Any:
            return network.apply(v, *args, method=method)

        return count_flops(run, variables, *args) / ROOTS

    def result(method: str, *args: Any) -> Any:
        return jax.eval_shape(lambda v, *a: network.apply(v, *a, method=method), variables, *args)

    observation = jax.ShapeDtypeStruct(shape, dtype)
    state = result("encode", observation)
    projection = result("project", state)
    encoding, prediction = cost("encode", observation), cost("predict", state)
    expansion = cost("step", state, memory, action) + prediction
    projecting = cost("project", state)
    search = prediction + budget(config.search, spec.num_actions).simulations * expansion

    # REANALYSIS, by positions.
    k, n, size = config.target.unroll_steps, config.target.td_steps, config.cycle.batch_size
    mode = config.reanalyse.mode
    searched = max(1, int(size * config.reanalyse.ratio)) if config.reanalyse.ratio > 0 else 0
    evaluated = size * (k + n + 1)
    reanalysed = {
        "off": 0.0,
        "oldest": config.reanalyse.positions * (encoding + search),
        "sampled": searched * (k + 1) * (encoding + search)
        + (evaluated - searched * (k + 1)) * (encoding + prediction),
        "teacher": evaluated * (encoding + prediction) + searched * (k + 1) * search,
    }[mode]

    # LOSS AND GRADIENT, by samples: with a gradient, and without.
    learned = encoding + prediction + k * expansion
    plain = 0.0
    if config.loss.consistency:
        learned += k * (projecting + cost("predict_projection", projection))
        # The heads see encoded states for their running averages.
        plain += k * (projecting + prediction) + (0.0 if mode == "teacher" else k * encoding)
    return Spending(
        config.env.num_envs * (encoding + search), reanalysed + size * (3 * learned + plain)
    )
