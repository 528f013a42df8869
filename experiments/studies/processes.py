"""What a cycle costs on two devices of one process, and of two.

    XLA_FLAGS=--xla_force_host_platform_device_count=2 \\
        python experiments/studies/processes.py --output=one.json
    python -m ez_jax.launch --processes=2 experiments/studies/processes.py --output=two.json

Preset `cpu` on Pong: a search and a step of all environments, one update with its reanalysis, and
both; and how long the way of a time step to the devices and the question whether to stop take.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro

from ez_jax import hosts, setup
from ez_jax.config import replace
from ez_jax.presets import PRESETS
from ez_jax.program.loops import HostLoop, make_loop
from ez_jax.program.mesh import make_mesh
from ez_jax.program.stages import counters
from ez_jax.runner.provenance import make_folders, write_result
from ez_jax.runner.timing import time_calls


@dataclass(frozen=True)
class Args:
    preset: str = "cpu"
    """Settings of atari100k.py."""
    norm_groups: int = 1
    """Groups of the batch with moments of their own: two leave one sum over devices."""
    repeats: int = 20
    """Calls of each program; all processes make as many."""
    output: Path | None = None
    """JSON file to write."""


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv, description=__doc__)
    setup()
    try:
        make_folders(args.output)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    config = replace(
        PRESETS[args.preset],
        env__id="Pong-v5",
        network__norm_groups=args.norm_groups,
        replay__capacity=4000,
        cycle__warmup_steps=1000,
    )
    loop = make_loop(config, make_mesh())
    assert isinstance(loop, HostLoop)
    held = [loop.start(0)]
    while counters(held[0])[0] < config.cycle.warmup_steps:
        held[0] = loop.act(held[0], random=True)
    timestep = loop.env.reset()

    def act() -> jax.Array:
        held[0] = loop.act(held[0], random=False)
        return held[0].actor.env_steps

    def learn() -> jax.Array:
        held[0], metrics = loop.stages.update(held[0])
        return metrics["loss/total"]

    def cycle() -> jax.Array:
        act()
        for _ in range(config.cycle.updates_per_act):
            learn()
        return held[0].learner.updates

    rows = {}
    with hosts.meeting(0.0) as meeting:
        todo = {
            "act": act,
            "update": learn,
            "cycle": cycle,
            "time step to the devices": lambda: loop.stages.to_lanes(timestep),
            "stop?": meeting.end_of_cycle,
        }
        for name, fn in todo.items():
            jax.block_until_ready(fn())  # compiles
            # As many calls in each process: they meet in every one.
            minimum, median, _ = time_calls(fn, (), 0.0, least=args.repeats, most=args.repeats)
            rows[name] = {"minimum_s": minimum, "median_s": median}
            hosts.say(f"{name}: {1e3 * minimum:.3g} ms, median {1e3 * median:.3g}")
    if hosts.first():
        found = {
            "processes": hosts.number_of_processes(),
            "devices": jax.device_count(),
            "norm_groups": args.norm_groups,
        }
        write_result(args.output, found | {"rows": rows})
    return hosts.finish(0)


if __name__ == "__main__":
    sys.exit(main())
