"""Floating-point operations that a run spends, and what the machine could have done.

As the plain lowering counts them: a multiplication and an addition are two operations, and what a
backend does beside them to be faster counts for nothing.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ez_jax import lowering
from ez_jax.agent.budget import budget
from ez_jax.agent.reanalysis import searched_share, taught_slots
from ez_jax.config import Config, replace
from ez_jax.networks import Network, init_variables
from ez_jax.observations import observation_shape
from ez_jax.types import EnvSpec

ROOTS = 8
"""The cost of one is that of so many, divided."""
WIDTHS = (16, 24, 32, 48, 64, 96, 128)
"""Channels of the networks that a time is filled with."""
REACHED = 0.2
"""Share of a CPU's matmul rate that whole runs of `cpu` reached, 16 to 18 % beside other work."""


class Spending(NamedTuple):
    """FLOP of the two parts of a cycle, for one seed."""

    act: float  # a lock-step: a search from each environment's observation
    update: float  # reanalysis, loss, gradient and optimiser
    reanalysis: float = 0.0  # the part of it that searches again

    def total(self, acts: int, updates: int) -> float:
        """FLOP of so many searched lock-steps and updates."""
        return acts * self.act + updates * self.update


@functools.cache
def matmul_rate(size: int = 0, runs: int = 8) -> float:
    """FLOP a second of a product of float32 matrices on one device, the best of a few."""
    # A small product leaves a GPU idle.
    size = size or (1024 if jax.default_backend() == "cpu" else 8192)
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
    """FLOP of a function of arrays or their shapes; the body of a loop counts once.

    Counted from the program as it is for a CPU: GPUs and TPUs count compiled programs alone.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
    with lowering.plain(), jax.default_device(jax.local_devices(backend="cpu")[0]):
        counted: Any = jax.jit(lambda *a: fn(*a)).lower(*shapes).cost_analysis()
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
    action = jax.ShapeDtypeStruct((ROOTS, *spec.actions.shape), spec.actions.dtype)

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
    choices = spec.num_actions or config.search.sampled_actions
    search = prediction + budget(config.search, choices).simulations * expansion

    # REANALYSIS, by positions.
    k, n, size = config.target.unroll_steps, config.target.td_steps, config.cycle.batch_size
    mode = config.reanalyse.mode
    searched = searched_share(config, size)
    evaluated = size * (k + n + 1)
    reanalysed = {
        "off": 0.0,
        "oldest": config.reanalyse.positions * (encoding + search),
        "sampled": searched * (k + 1) * (encoding + search)
        + (evaluated - searched * (k + 1)) * (encoding + prediction),
        "teacher": size * taught_slots(config) * (encoding + prediction)
        + searched * (k + 1) * search,
    }[mode]

    # LOSS AND GRADIENT, by samples: with a gradient, and without.
    learned = encoding + prediction + k * expansion
    plain = 0.0
    if config.loss.consistency:
        learned += k * (projecting + cost("predict_projection", projection))
        # The heads see encoded states for their running averages.
        plain += k * (projecting + prediction) + (0.0 if mode == "teacher" else k * encoding)
    act, update = config.env.num_envs * (encoding + search), size * (3 * learned + plain)
    return Spending(act, reanalysed + update, reanalysed)


def searched_acts(config: Config) -> int:
    """Lock-steps of a run after its warm-up, where no step is ignored."""
    return max(-(-(config.env_steps - config.cycle.warmup_steps) // config.env.num_envs), 0)


def fit(config: Config, spec: EnvSpec, seconds: float, rate: float) -> Config:
    """The channels and the updates that fill a time on a CPU.

    A narrower network than the config's only where that leaves no time for one update in two steps,
    a wider one only where two a step are left: many updates of a small network bring little in the
    end (arXiv 2508.14881), few of a wide one see small things late. As many updates as fit.

    Args:
      config: of the run; its `network.channels` and `cycle.updates_per_act` are replaced.
      spec: of the task.
      seconds: for training.
      rate: FLOP a second of a matrix product, see `matmul_rate`.

    Raises:
      ValueError: the time is too short for the smallest network.
    """
    acts = searched_acts(config)
    available, own = REACHED * rate * seconds, config.network.channels
    least, many = max(1, config.env.num_envs // 2), 2 * config.env.num_envs
    # An update for each lock-step, those of the warm-up included: they are made up for later.
    one = replace(config, cycle__updates_per_act=1).online_updates
    for channels in reversed(WIDTHS) if one else ():
        sized = replace(config, network__channels=channels)
        cost = of_config(sized, spec)
        left = available - cost.total(acts, config.cycle.final_updates)
        updates = int(left // (one * cost.update))
        enough = 1 if channels == WIDTHS[0] else many if channels > own else least
        if updates >= enough:
            return replace(sized, cycle__updates_per_act=updates)
    cost = of_config(replace(config, network__channels=WIDTHS[0]), spec)
    needed = cost.total(acts, one + config.cycle.final_updates) / (REACHED * rate)
    raise ValueError(
        f"hours={seconds / 3600:.3g} is out of range: {config.env_steps:,} steps need at least "
        f"{needed / 3600:.2g} on this machine; --env-steps takes less"
    )
