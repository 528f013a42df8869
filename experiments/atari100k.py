"""EfficientZero on one game of Atari 100k.

    python experiments/atari100k.py --game=Pong
    python experiments/atari100k.py --game=Breakout --preset=paper --seed=1
    python experiments/atari100k.py --game=Pong --search.num-simulations=16 --loss.consistency=0
"""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from ez_jax.config import PRESETS, Config, replace
from ez_jax.run import Member, Stopped, check, run, setup

EXPECTED = {
    "paper": "hours on an accelerator, weeks on a CPU: the progress line tells after the first updates",
    "cpu": "about an hour for 100,000 steps on 2 cores",
    "debug": "about a minute",
}


@dataclass(frozen=True)
class Args:
    game: str = "Pong"
    """One of EnvPool's Atari games, e.g. Breakout, MsPacman."""
    preset: Literal["auto", "paper", "cpu", "debug"] = "auto"
    """Named settings; auto takes `cpu` without an accelerator and `paper` with one."""
    workdir: str = ""
    """Where everything is written; by default runs/<game>-<preset>-seed<seed>."""
    resume: bool = False
    """Go on from the newest checkpoint in the work directory, or begin if there is none."""
    # The config's booleans take True or False; a bare flag is for switches of the program.
    config: Annotated[tyro.conf.FlagConversionOff[Config], tyro.conf.arg(name="")] = field(default_factory=Config)


def parse(argv: list[str]) -> Args:
    """Command line to `Args`: the preset first, since it decides the defaults of all other options."""
    preset = Args.preset
    for i, word in enumerate(argv):
        if word.startswith("--preset"):
            preset = word.partition("=")[2] or (argv[i + 1] if i + 1 < len(argv) else preset)
    defaults = Args(config=PRESETS.get(choose(preset)[0], Config()))
    args = tyro.cli(Args, args=argv, default=defaults, description=__doc__)
    return dataclasses.replace(args, config=replace(args.config, env__id=f"{args.game}-v5"))


def choose(preset: str) -> tuple[str, str]:
    """The preset to run and why."""
    if preset != "auto":
        return preset, "as asked"
    backend = jax.default_backend()
    return ("cpu", "no accelerator was found") if backend == "cpu" else ("paper", f"there is a {backend}")


def main(argv: list[str] | None = None) -> int:
    setup()
    args = parse(sys.argv[1:] if argv is None else argv)
    preset, why = choose(args.preset)
    config = args.config
    workdir = Path(args.workdir or f"runs/{args.game}-{preset}-seed{config.seed}")
    try:
        check([Member(config, workdir)], resume=args.resume)
        print(f"{args.game}, preset {preset} ({why}): {config.env_steps:,} steps, {config.total_updates:,} updates, "
              f"{EXPECTED[preset]}; writing to {workdir}", flush=True)
        result = run(config, workdir, resume=args.resume, preset=preset)
    except Stopped as stopped:
        print(stopped)
        return 0
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    normalized = result["human_normalized"]
    print(f"final score {result['eval_mean']:.2f} over {result['eval_episodes']} episodes"
          + (f", human-normalised {normalized:.3f}" if normalized is not None else "") + f"; see {workdir / 'result.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
