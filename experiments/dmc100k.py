"""EfficientZero-V2 on a task of DeepMind Control, from its state or from pixels.

    python experiments/dmc100k.py --task=walker-walk
    python experiments/dmc100k.py --task=cartpole-swingup --preset=dmc --seed=1
    python experiments/dmc100k.py --task=reacher-easy --env.action-slots=5
    python experiments/dmc100k.py --task=cartpole-swingup --pixels --env-steps=20000

An agent step is a decision, which takes two steps of the task; an episode has 500. Budgets are the
paper's, 50,000 or 100,000 decisions by task, twice as many from pixels, which MuJoCo draws with
EGL. The score is the mean return of 32 episodes.
"""

import sys
from dataclasses import dataclass
from typing import Literal

from ez_jax.cli import RunArgs, by_backend, command, env_steps, flag, launch, option, with_task
from ez_jax.cli import parse as parse_options
from ez_jax.config import Config
from ez_jax.presets import dmc

EXPECTED = {
    "dmc": "hours on a GPU, days on a CPU",
    "dmc-cpu": "25 to 60 minutes on a core for 50,000 decisions",
    "debug": "about a minute",
}

AUTO = {"cpu": "dmc-cpu", "other": "dmc"}
"""What the preset `auto` is."""


@dataclass(frozen=True)
class Args(RunArgs):
    task: str = "walker-walk"
    """Domain and task, e.g. ball_in_cup-catch: EnvPool's but lqr; its actions are unbounded."""
    preset: Literal["auto", "dmc", "dmc-cpu", "debug"] = "auto"
    """Named settings; auto takes `dmc-cpu` without an accelerator and `dmc` with one."""
    pixels: bool = False
    """Frames in place of the state; needs EGL. Slow without a GPU, which draws them."""


def parse(argv: list[str]) -> Args:
    """Command line to `Args`.

    Raises:
      UnknownTask: no such task.
      ValueError: frames are asked for and refused at once.
    """

    def defaults() -> Config:
        preset, _ = by_backend(option(argv, "preset", Args.preset), **AUTO)
        pixels = flag(argv, "pixels") or option(argv, "env.pixels", "False") == "True"
        task = task_of(option(argv, "task", Args.task))
        return dmc(task, preset, env_steps(argv), pixels=pixels)

    args = parse_options(Args, argv, __doc__, defaults)
    if args.pixels and not args.config.env.pixels:
        raise ValueError("env.pixels=False beside --pixels: it is one or the other")
    return with_task(args, task_of(args.task))


def task_of(name: str) -> str:
    """EnvPool's id of a task."""
    from ez_jax.envs import dmc_task  # not for --help, which answers at once

    return dmc_task(name)


def main(argv: list[str] | None = None) -> int:
    return command(run, argv)


def run(argv: list[str]) -> int:
    """The command; see `cli.command`."""
    args = parse(argv)
    preset, why = by_backend(args.preset, **AUTO)
    pixels = args.config.env.pixels
    task = args.config.env.id.removesuffix("-v1") + ("-pixels" if pixels else "")
    longer = ", from states; drawing frames takes longer" if pixels else ""
    return launch(args, task, preset, f"{why}; {EXPECTED[preset]}{longer}")


if __name__ == "__main__":
    sys.exit(main())
