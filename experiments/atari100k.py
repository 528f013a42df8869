"""EfficientZero on one game of Atari 100k.

python experiments/atari100k.py --game=Pong
python experiments/atari100k.py --game=Pong --hours=1
python experiments/atari100k.py --game=Breakout --preset=paper --seed=1
python experiments/atari100k.py --game=Pong --search.num-simulations=16 --loss.consistency=0
"""

import dataclasses
import sys
from dataclasses import dataclass
from typing import Literal

from ez_jax.cli import (
    RunArgs,
    by_backend,
    check_counts,
    command,
    default_workdir,
    launch,
    option,
    with_task,
)
from ez_jax.cli import parse as parse_options
from ez_jax.config import Config, differences, replace, validate
from ez_jax.presets import PRESETS

EXPECTED = {
    "paper": "about 3 hours on an H100, weeks on a CPU",
    "v2": "about 2 hours on an H100, days on a CPU",
    "cpu": "about three hours for 100,000 steps on 2 cores",
    "debug": "about a minute",
}

AUTO = {"cpu": "cpu", "other": "paper"}
"""What the preset `auto` is."""


@dataclass(frozen=True)
class Args(RunArgs):
    game: str = "Pong"
    """One of EnvPool's Atari games, e.g. Breakout, MsPacman."""
    preset: Literal["auto", "paper", "v2", "cpu", "debug"] = "auto"
    """Named settings; auto takes `cpu` without an accelerator and `paper` with one."""
    hours: float = 0.0
    """Preset `cpu`: channels of the network and updates that fill so much time on this machine,
    all seeds together; 0: those of the preset.
    """


def parse(argv: list[str]) -> Args:
    """Command line to `Args`."""

    def defaults() -> Config:
        preset, _ = by_backend(option(argv, "preset", Args.preset), **AUTO)
        return PRESETS.get(preset, Config())

    args = parse_options(Args, argv, __doc__, defaults)
    return with_task(args, f"{args.game}-v5")


def main(argv: list[str] | None = None) -> int:
    return command(run, argv)


def run(argv: list[str]) -> int:
    """The command; see `cli.command`."""
    args = parse(argv)
    preset, why = by_backend(args.preset, **AUTO)
    if not args.hours:
        return launch(args, args.game, preset, f"{why}; {EXPECTED[preset]}")
    args = fitted(args, preset)
    sizes = f"{args.config.network.channels} channels"
    return launch(args, args.game, preset, f"{why}; {sizes} for {args.hours:g} hours")


def fitted(args: Args, preset: str) -> Args:
    """The arguments with the sizes that fill `--hours`, or with those that a run has already.

    Raises:
      ValueError: they cannot be filled, or the game is unknown.
    """
    from ez_jax import hosts
    from ez_jax.envs import check_task, describe
    from ez_jax.runner.spending import fit, matmul_rate
    from ez_jax.runner.workdir import sizes_of

    if args.hours < 0:
        raise ValueError(f"hours={args.hours:g} is out of range: it must be above 0")
    if preset != "cpu":
        raise ValueError(f"hours={args.hours:g} with preset {preset}: only `cpu` can be fitted")
    check_counts(args)
    # All processes decide alike, and have the same sizes.
    mine = {"hours": args.hours, "num_seeds": args.num_seeds, "resume": args.resume}
    hosts.same(mine | {"preset": preset}, differences)
    begun = hosts.agree(lambda: sizes_of(default_workdir(args, args.game, preset)))
    config = args.config
    if args.resume and begun is not None:
        config = replace(config, **begun)
    else:
        validate(config)
        check_task(config.env)
        spec = describe(config.env, config.env.stack).spec
        rate = hosts.agree(matmul_rate)
        config = fit(config, spec, 3600 * args.hours / args.num_seeds, rate)
    return dataclasses.replace(args, config=config)


if __name__ == "__main__":
    sys.exit(main())
