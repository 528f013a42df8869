"""How fast each stage is on this machine, and how far from what the machine can do.

    python experiments/benchmark.py --output=benchmark.json
    python experiments/benchmark.py --sizes cpu --compare benchmark.json
    python experiments/benchmark.py --only update encode

Work is counted from the compiled program of the plain networks; the share is of the matmul rate
measured in the same run.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from ez_jax import lowering
from ez_jax.agent import learning, reanalysis
from ez_jax.agent.budget import budget
from ez_jax.agent.losses import active_losses
from ez_jax.agent.search import make_recurrent_fn, make_root, search, search_from_root
from ez_jax.agent.targets import make_targets
from ez_jax.config import replace
from ez_jax.networks import Network, encode
from ez_jax.presets import ATARI_PRESETS
from ez_jax.program.loops import HostLoop, make_training_envs
from ez_jax.program.mesh import make_mesh
from ez_jax.program.stages import Stages, counters
from ez_jax.runner import spending
from ez_jax.runner.provenance import make_folders
from ez_jax.runner.timing import (
    Row,
    Work,
    ceilings,
    count_work,
    measure,
    read,
    roofline,
    seconds,
    table,
    time_calls,
    write,
)
from ez_jax.runner.workloads import Model, make_model, random_batch, random_replay
from ez_jax.types import Positions, Replay


@dataclass(frozen=True)
class Args:
    sizes: tuple[str, ...] = ("cpu", "v2", "paper")
    """Presets to measure."""
    only: tuple[str, ...] = ()
    """Only rows whose name begins with one of these: encode, search, steps, act, reanalyse, update,
    environment, learn, cycle.
    """
    roots: tuple[int, ...] = (1, 8, 64, 256)
    """Roots of a search."""
    simulations: tuple[int, ...] = (16, 50)
    """Simulations of a search."""
    batches: tuple[int, ...] = (32, 64, 256)
    """Batches of an update."""
    seconds: float = 3.0
    """Time to spend on each row, after compilation."""
    plain: bool = False
    """Without what `ez_jax/lowering` does for CPUs."""
    output: Path | None = None
    """JSON file to write."""
    compare: Path | None = None
    """JSON file of an earlier run, to print ratios to."""
    picture: Path | None = None
    """Roofline to draw."""


def encode_rows(model: Model, args: Args) -> Iterator[Row]:
    for roots in args.roots:
        observation = model.observation(roots)
        work = count_work(
            lambda v, x: model.network.apply(v, x, method=Network.encode),
            model.variables,
            observation,
        )
        yield measure(
            model.size,
            f"encode {roots}",
            lambda v, x: encode(model.network, v, x),
            (model.variables, observation),
            work,
            args.seconds,
        )


def searches(model: Model, args: Args) -> Iterator[tuple[Any, int, Work]]:
    """Each root of a search that is asked for (`mctx.RootFnOutput`), its simulations and the work
    of these.
    """
    for roots in args.roots:
        root = jax.jit(lambda v, x: make_root(model.network, v, x, jnp.float32))(
            model.variables, model.observation(roots)
        )
        work = model.step_work(roots)
        for simulations in args.simulations:
            yield root, simulations, work.times(simulations)


def search_rows(model: Model, args: Args) -> Iterator[Row]:
    """The search alone, from a root that is there."""
    step = make_recurrent_fn(model.network, model.config)
    for root, simulations, work in searches(model, args):

        def run(variables, root, simulations=simulations):
            return search_from_root(
                root,
                step,
                model.config.search,
                variables,
                model.key,
                explore=True,
                num_simulations=simulations,
            )

        yield measure(
            model.size,
            f"search {len(root.value)} x {simulations}",
            run,
            (model.variables, root),
            work,
            args.seconds,
        )


def steps_rows(model: Model, args: Args) -> Iterator[Row]:
    """The model's part of a search: as many steps along one path, without a tree."""
    step = make_recurrent_fn(model.network, model.config)
    for root, simulations, work in searches(model, args):

        def run(variables, root, simulations=simulations):
            def one(_, carry):
                node, action, total = carry
                output, node = step(variables, model.key, action, node)
                return (
                    node,
                    jnp.argmax(output.prior_logits, -1),
                    total + output.reward + output.value,
                )

            start = root.embedding, jnp.argmax(root.prior_logits, -1), root.value
            return jax.lax.fori_loop(0, simulations, one, start)[2]

        yield measure(
            model.size,
            f"steps {len(root.value)} x {simulations}",
            run,
            (model.variables, root),
            work,
            args.seconds,
        )


def act_rows(model: Model, args: Args) -> Iterator[Row]:
    """Encoding, prediction and search, as acting does it."""
    for roots in args.roots:
        for simulations in args.simulations:

            def run(variables, observation, simulations=simulations):
                return search(
                    model.network,
                    model.config,
                    variables,
                    model.key,
                    observation,
                    explore=True,
                    num_simulations=simulations,
                )

            yield measure(
                model.size,
                f"act {roots} x {simulations}",
                run,
                (model.variables, model.observation(roots)),
                model.search_work(roots, simulations),
                args.seconds,
            )


def reanalyse_rows(model: Model, args: Args) -> Iterator[Row]:
    """Both modes, at the preset's sizes."""
    config, batch = model.config, model.config.cycle.batch_size
    choices = model.spec.num_actions or config.search.sampled_actions
    simulations = budget(config.search, choices).simulations
    held = random_replay(config, model.spec, 600)
    time = jnp.arange(batch) % 500 + config.env.stack
    drawn = Positions(jnp.arange(batch) % config.env.num_envs, time)

    def refreshed(held: Replay) -> tuple[jax.Array, jax.Array, jax.Array]:
        # Of the frames, which a run donates, no copy must be made here.
        return held.policy, held.network_value, held.search_value

    def sampled(variables, held):
        return refreshed(
            reanalysis.reanalyse_sampled(
                model.network, config, variables, model.key, held, drawn, jnp.asarray(1)
            )
        )

    def oldest(variables, held):
        return refreshed(
            reanalysis.reanalyse_oldest(
                model.network,
                config,
                variables,
                model.key,
                held,
                config.reanalyse.positions,
                jnp.asarray(1),
            )
        )

    k, n = config.target.unroll_steps, config.target.td_steps
    searched = int(batch * config.reanalyse.ratio)
    # Work is proportional to positions: that of 64, scaled.
    position, evaluation = (
        model.search_work(64, simulations).times(1 / 64),
        model.root_work(64).times(1 / 64),
    )
    yield measure(
        model.size,
        f"reanalyse oldest {config.reanalyse.positions}",
        oldest,
        (model.variables, held),
        position.times(config.reanalyse.positions),
        args.seconds,
        little_memory=True,
    )
    yield measure(
        model.size,
        f"reanalyse sampled {batch}",
        sampled,
        (model.variables, held),
        position.times(searched * (k + 1))
        + evaluation.times(searched * n + (batch - searched) * (k + n + 1)),
        args.seconds,
        little_memory=True,
    )


def update_rows(model: Model, args: Args) -> Iterator[Row]:
    """Targets, loss, gradient and optimiser of a batch that is there."""
    learner = learning.init(model.config, model.variables)
    for size in args.batches:
        config = replace(model.config, cycle__batch_size=size)

        def run(learner, batch, config=config):
            return learning.gradient_step(
                learner,
                model.key,
                batch,
                make_targets(batch, config, learner.updates),
                network=model.network,
                config=config,
                terms=active_losses(config),
            )

        yield measure(
            model.size,
            f"update {size}",
            run,
            (learner, random_batch(model, size)),
            budget_s=args.seconds,
            little_memory=True,
        )


def cycle_rows(model: Model, args: Args) -> Iterator[Row]:
    """The real thing on Pong: environments, one update with its share of reanalysis in each mode,
    a whole cycle.
    """
    wanted = set(args.only or ("environment", "learn", "cycle"))
    for mode in ("oldest", "sampled", "teacher"):
        config = replace(
            model.config, replay__capacity=4000, cycle__warmup_steps=1000, reanalyse__mode=mode
        )
        if config.env_steps < 2000:
            config = replace(config, env_steps=2000)
        env = make_training_envs(config)
        spec = env.spec(config.env.stack)
        loop = HostLoop(Stages(config, spec, make_mesh(1)), env)
        cost = spending.of_config(config, spec)
        state = loop.start(0)
        while counters(state)[0] < config.cycle.warmup_steps:
            state = loop.act(state, random=True)
        if mode == "oldest" and "environment" in wanted:
            action = np.zeros(config.env.num_envs, np.int32)
            minimum, median, runs = time_calls(env.step, (action,), args.seconds / 3, most=1000)
            yield Row(model.size, f"environment {config.env.num_envs}", median, minimum, runs)
        held = [state]

        def learn() -> jax.Array:
            held[0], metrics = loop.stages.update(held[0])
            return metrics["loss/total"]

        def whole() -> jax.Array:
            held[0] = loop.act(held[0], random=False)
            for _ in range(config.cycle.updates_per_act):
                learn()
            return held[0].learner.updates

        work = cost.update, cost.total(1, config.cycle.updates_per_act)
        for name, fn, flops in (("learn", learn, work[0]), ("cycle", whole, work[1])):
            if name not in wanted or (mode != model.config.reanalyse.mode and name == "cycle"):
                continue
            start = time.perf_counter()
            jax.block_until_ready(fn())
            first = time.perf_counter() - start
            minimum, median, runs = time_calls(fn, (), args.seconds, least=2)
            compile_s = max(0.0, first - median)
            yield Row(
                model.size, f"{name} {mode}", median, minimum, runs, flops, compile_s=compile_s
            )


KINDS = {
    "encode": encode_rows,
    "search": search_rows,
    "steps": steps_rows,
    "act": act_rows,
    "reanalyse": reanalyse_rows,
    "update": update_rows,
    "environment": cycle_rows,
    "learn": cycle_rows,
    "cycle": cycle_rows,
}


def measured(args: Args) -> Iterator[Row]:
    """All rows that are asked for."""
    for size in args.sizes:
        model = make_model(size)
        for kind in dict.fromkeys(
            fn for name, fn in KINDS.items() if not args.only or name in args.only
        ):
            yield from (
                row
                for row in kind(model, args)
                if not args.only or row.name.split()[0] in args.only
            )


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv, description=__doc__)
    known = ", ".join(ATARI_PRESETS)
    wrong = [f"size {s!r}: there are {known}" for s in args.sizes if s not in ATARI_PRESETS]
    wrong += [f"row {o!r}: there are {', '.join(KINDS)}" for o in args.only if o not in KINDS]
    wrong += [f"no file {args.compare}"] if args.compare and not args.compare.exists() else []
    if wrong:
        print(f"error: {wrong[0]}", file=sys.stderr)
        return 2
    try:
        make_folders(args.output, args.picture)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    jax.config.update("jax_enable_compilation_cache", False)
    console = Console(width=None if sys.stdout.isatty() else 110)
    old = read(args.compare) if args.compare else None
    found, rows = ceilings(), []
    with lowering.plain() if args.plain else contextlib.nullcontext():
        for row in measured(args):
            rows.append(row)
            console.print(f"{row.size} {row.name}: {seconds(row.minimum_s)}", highlight=False)
            write(args.output, found, rows)
    console.print(table(rows, found, old))
    if args.picture:
        roofline(args.picture, rows, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
