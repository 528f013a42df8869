"""EfficientZero on one game of Atari 100k.

python experiments/atari100k.py --game=Pong
python experiments/atari100k.py --game=Breakout --preset=paper --seed=1
python experiments/atari100k.py --game=Pong --search.num-simulations=16 --loss.consistency=0
"""

import sys
from dataclasses import dataclass
from typing import Literal

from ez_jax.cli import RunArgs, launch, option, with_task
from ez_jax.cli import parse as parse_options
from ez_jax.config import Config
from ez_jax.presets import PRESETS

EXPECTED = {
    "paper": "about 3 hours on an H100, weeks on a CPU",
    "v2": "about 2 hours on an H100, days on a CPU",
    "cpu": "about an hour for 100,000 steps on 2 cores",
    "debug": "about a minute",
}


@dataclass(frozen=True)
class Args(RunArgs):
    game: str = "Pong"
    """One of EnvPool's Atari games, e.g. Breakout, MsPacman."""
    preset: Literal["auto", "paper", "v2", "cpu", "debug"] = "auto"
    """Named settings; auto takes `cpu` without an accelerator and `paper` with one."""


def parse(argv: list[str]) -> Args:
    """Command line to `Args`."""

    def defaults() -> Config:
        preset, _ = choose(option(argv, "preset", Args.preset))
        return PRESETS.get(preset, Config())

    args = parse_options(Args, argv, __doc__, defaults)
    return with_task(args, f"{args.game}-v5")


def choose(preset: str) -> tuple[str, str]:
    """The preset to run and why."""
    if preset != "auto":
        return preset, "as asked"
    import jax  # not for --help, which answers at once

    backend = jax.default_backend()
    if backend == "cpu":
        return "cpu", "no accelerator was found"
    return "paper", f"there is a {backend}"


def main(argv: list[str] | None = None) -> int:
    args = parse(sys.argv[1:] if argv is None else argv)
    preset, why = choose(args.preset)
    return launch(args, args.game, preset, f"{why}; {EXPECTED[preset]}")


if __name__ == "__main__":
    sys.exit(main())
