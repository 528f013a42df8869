"""How time and memory grow with batch, simulations, channels, replay, environments and devices.

    python experiments/studies/scaling.py --output=scaling.json --picture=scaling.png
    python experiments/studies/scaling.py --sweeps replay
    python experiments/studies/scaling.py --sweeps devices

Everything is of the preset `cpu` but for what a sweep changes. The exponent says how time grows
from end to end: 1 is as the work.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from ez_jax.agent import learning, priorities
from ez_jax.agent import replay as replay_lib
from ez_jax.agent.losses import active_losses
from ez_jax.agent.search import search
from ez_jax.agent.targets import make_targets
from ez_jax.config import Config, replace
from ez_jax.lowering import jit
from ez_jax.networks import Network, encode, init_variables
from ez_jax.presets import CPU
from ez_jax.program.loops import HostLoop, make_training_envs
from ez_jax.program.mesh import make_mesh
from ez_jax.program.stages import Stages, counters
from ez_jax.runner.provenance import make_folders, write_result
from ez_jax.runner.timing import peak_memory, seconds, time_calls
from ez_jax.runner.workloads import make_model, random_batch, random_replay
from ez_jax.types import State

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SMALL = replace(CPU, replay__capacity=4000)


@dataclass(frozen=True)
class Args:
    sweeps: tuple[str, ...] = ("batch", "simulations", "channels", "replay", "environments")
    """What to vary. Also devices, alone: on a CPU it simulates four, which changes how all else
    runs.
    """
    seconds: float = 2.0
    """Time to spend on each point, after compilation."""
    output: Path | None = None
    """JSON file to write."""
    picture: Path | None = None
    """Picture to draw."""


class Point(NamedTuple):
    """One program at one size."""

    sweep: str
    stage: str
    x: int
    minimum_s: float
    median_s: float
    memory_bytes: int  # arguments, results and temporaries, on one device


def point(
    sweep: str,
    stage: str,
    x: int,
    budget_s: float,
    fn: Callable,
    *args,
    donated: bool = False,
    little_memory: bool = False,
) -> Point:
    """Compiles and times `fn(*args)`; with `donated` the first argument is replaced by each
    result.
    """
    compiled = (
        jit(fn, donate_argnums=0 if donated else (), little_memory=little_memory)
        .lower(*args)
        .compile()
    )
    memory = compiled.memory_analysis()
    used = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    # A copy, since several fields may share one buffer.
    held = [jax.tree.map(jnp.copy, args[0])] if donated else [args[0]]

    def call(*rest):
        result = compiled(held[0], *rest)
        if donated:
            held[0] = result
        return result

    minimum, median, _ = time_calls(call, args[1:], budget_s)
    return Point(sweep, stage, x, minimum, median, used)


def of_batch(args: Args) -> Iterator[Point]:
    model = make_model("cpu")
    learner = learning.init(model.config, model.variables)
    for size in (16, 32, 64, 128, 256):
        config = replace(model.config, cycle__batch_size=size)
        yield point(
            "batch",
            "update",
            size,
            args.seconds,
            lambda learner, batch, config=config: learning.gradient_step(
                learner,
                model.key,
                batch,
                make_targets(batch, config, learner.updates),
                network=model.network,
                config=config,
                terms=active_losses(config),
            ),
            learner,
            random_batch(model, size),
            little_memory=True,
        )


def of_simulations(args: Args) -> Iterator[Point]:
    model = make_model("cpu")
    for count in (8, 16, 32, 64, 128):
        yield point(
            "simulations",
            "search of 64 roots",
            count,
            args.seconds,
            lambda v, x, count=count: search(
                model.network, model.config, v, model.key, x, explore=True, num_simulations=count
            ),
            model.variables,
            model.observation(64),
        )


def of_channels(args: Args) -> Iterator[Point]:
    model = make_model("cpu")
    for channels in (16, 32, 64, 128):
        network = Network(replace(model.config, network__channels=channels).network, model.spec)
        variables = init_variables(network, model.key)
        yield point(
            "channels",
            "encode 64",
            channels,
            args.seconds,
            lambda v, x, network=network: encode(network, v, x),
            variables,
            model.observation(64),
        )


def of_replay(args: Args) -> Iterator[Point]:
    model = make_model("cpu")
    lanes, config = CPU.env.num_envs, CPU
    for frames in (10_000, 100_000, 1_000_000):
        held = random_replay(config, model.spec, frames // lanes)
        slot = {
            name: getattr(held, name)[:, 0]
            for name in held.__dataclass_fields__
            if name not in ("cursor", "priority")
        }
        positions, probability = jit(
            lambda r: priorities.sample(r, model.key, config.cycle.batch_size, config)
        )(held)
        sweep = "replay", frames, args.seconds
        yield point(
            sweep[0],
            "insert",
            *sweep[1:],
            lambda r, slot: replay_lib.write(r, jnp.asarray(True), **slot),
            held,
            slot,
            donated=True,
        )
        yield point(
            sweep[0],
            "sample",
            *sweep[1:],
            lambda r: replay_lib.gather(
                r,
                priorities.sample(r, model.key, config.cycle.batch_size, config),
                jnp.asarray(0),
                jnp.asarray(0),
                config,
            ),
            held,
        )
        yield point(
            sweep[0],
            "find the stalest",
            *sweep[1:],
            lambda r: replay_lib.oldest(r, config.reanalyse.positions, config.env.stack),
            held,
        )
        yield point(
            sweep[0],
            "set priorities",
            *sweep[1:],
            lambda r, p, x: priorities.set_priority(r, p, x),
            held,
            positions,
            probability,
            donated=True,
        )
        del held
        loop, state = running(replace(config, replay__capacity=frames))
        yield timed_state(
            sweep[0],
            "learn",
            frames,
            args,
            lambda s, loop=loop: loop.stages.update(s)[0],
            state,
        )


def running(config: Config, devices: int = 1) -> tuple[HostLoop, State]:
    """A loop and its state after warm-up, on Pong."""
    config = replace(config, cycle__warmup_steps=2000)
    env = make_training_envs(config)
    loop = HostLoop(Stages(config, env.spec(config.env.stack), make_mesh(devices)), env)
    state = loop.start(0)
    while counters(state)[0] < config.cycle.warmup_steps:
        state = loop.act(state, random=True)
    return loop, state


def timed_state(sweep: str, stage: str, x: int, args: Args, fn: Callable, state) -> Point:
    held = [state]

    def call():
        held[0] = fn(held[0])
        return held[0].learner.updates

    minimum, median, _ = time_calls(call, (), args.seconds)
    return Point(sweep, stage, x, minimum, median, 0)


def of_environments(args: Args) -> Iterator[Point]:
    for count in (1, 4, 16, 64):
        loop, state = running(replace(SMALL, env__num_envs=count))
        yield timed_state(
            "environments",
            "act and step",
            count,
            args,
            lambda s, loop=loop: loop.act(s, random=False),
            state,
        )


def of_devices(args: Args) -> Iterator[Point]:
    for count in (1, 2, 4):
        if count <= jax.device_count():
            loop, state = running(SMALL, count)
            yield timed_state(
                "devices",
                "learn",
                count,
                args,
                lambda s, loop=loop: loop.stages.update(s)[0],
                state,
            )


SWEEPS = {
    "batch": of_batch,
    "simulations": of_simulations,
    "channels": of_channels,
    "replay": of_replay,
    "environments": of_environments,
    "devices": of_devices,
}


def curves(points: list[Point]) -> dict[tuple[str, str], list[Point]]:
    """Points by sweep and stage, sizes rising."""
    out: dict[tuple[str, str], list[Point]] = {}
    for p in points:
        out.setdefault((p.sweep, p.stage), []).append(p)
    return out


def exponent(line: list[Point]) -> float:
    """b of time ~ size^b from the first point to the last."""
    return (
        float(np.log(line[-1].minimum_s / line[0].minimum_s) / np.log(line[-1].x / line[0].x))
        if len(line) > 1
        else float("nan")
    )


def table(points: list[Point]) -> Table:
    out = Table()
    for name in ("varied", "stage", "minimum time", "program memory", "exponent"):
        out.add_column(name)
    for (sweep, stage), line in curves(points).items():
        out.add_row(
            sweep,
            stage,
            ", ".join(f"{p.x:,}: {seconds(p.minimum_s)}" for p in line),
            ", ".join(f"{p.memory_bytes / 1e6:,.0f}" for p in line) + " MB"
            if line[0].memory_bytes
            else "",
            f"{exponent(line):.2f}",
        )
    return out


def picture(path: Path, points: list[Point]) -> None:
    sweeps = list(dict.fromkeys(p.sweep for p in points))
    figure, axes = plt.subplots(1, len(sweeps), figsize=(2.6 * len(sweeps), 3), squeeze=False)
    for ax, sweep in zip(axes[0], sweeps):
        for (name, stage), line in curves(points).items():
            if name == sweep:
                ax.plot(
                    [p.x for p in line],
                    [1e3 * p.minimum_s for p in line],
                    "o-",
                    markersize=3,
                    label=stage,
                )
        ax.set(xscale="log", yscale="log", xlabel=sweep)
        sizes = sorted({p.x for p in points if p.sweep == sweep})
        ax.set_xticks(sizes, [f"{x:,}" for x in sizes], fontsize=7)
        ax.tick_params(which="minor", labelbottom=False)
        ax.legend(fontsize=6)
    axes[0][0].set_ylabel("ms")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv, description=__doc__)
    unknown = [s for s in args.sweeps if s not in SWEEPS]
    if unknown:
        print(f"error: sweep {unknown[0]!r}: there are {', '.join(SWEEPS)}", file=sys.stderr)
        return 2
    if "devices" in args.sweeps and len(args.sweeps) > 1:
        print("error: the sweep devices must run alone", file=sys.stderr)
        return 2
    try:
        make_folders(args.output, args.picture)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    jax.config.update("jax_enable_compilation_cache", False)
    if "devices" in args.sweeps:
        jax.config.update("jax_num_cpu_devices", 4)  # no effect on accelerators
    points, console = [], Console(width=None if sys.stdout.isatty() else 160)
    for sweep in args.sweeps:
        for p in SWEEPS[sweep](args):
            points.append(p)
            console.print(f"{p.sweep} {p.x:,} {p.stage}: {seconds(p.minimum_s)}", highlight=False)
            rows = [p._asdict() for p in points]
            write_result(args.output, {"peak_memory": peak_memory(), "points": rows})
    console.print(table(points))
    if args.picture:
        picture(args.picture, points)
    return 0


if __name__ == "__main__":
    sys.exit(main())
