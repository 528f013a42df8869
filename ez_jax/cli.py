"""Options, help and error messages of the training commands.

Nothing heavy is imported before the command line is read: `--help` answers at once.
"""

import argparse
import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from ez_jax import reference
from ez_jax.config import Config

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class RunArgs:
    """Options of every training command; a command adds its task and its presets in front."""

    workdir: str = ""
    """Where everything is written; by default runs/<task>-<preset>-seed<seed>."""
    resume: bool = False
    """Go on from the newest checkpoint in the work directory, or begin if there is none."""
    dry_run: bool = False
    """Prints the settings, updates, FLOP and an estimate of the time, and begins nothing."""
    num_seeds: int = 1
    """Trains so many seeds, from --seed on, in one program; each has a folder seed<k> of its own in
    the work directory.
    """
    num_devices: int = 0
    """Devices to use, of this process; 0: all, of all processes."""
    local: bool = False
    """Runs in this process alone, whatever cluster the environment speaks of."""
    wandb: bool = False
    """Shows settings, curves and a video on Weights & Biases too (extra `wandb`; WANDB_PROJECT,
    WANDB_MODE=offline and its other variables are read).
    """
    imports: Annotated[tuple[str, ...], tyro.conf.arg(name="import")] = ()
    """Modules that register environments of one's own, e.g. --import my_envs."""
    # The config's booleans take True or False; a bare flag is for switches of the program.
    config: Annotated[tyro.conf.FlagConversionOff[Config], tyro.conf.arg(name="")] = field(
        default_factory=Config
    )


@dataclass(frozen=True, kw_only=True)
class OfRun:
    """Options of commands that look at a run."""

    workdir: Path
    """Work directory of a run."""
    imports: Annotated[tuple[str, ...], tyro.conf.arg(name="import")] = ()
    """Modules that register environments of one's own."""


Args = TypeVar("Args", bound=RunArgs)
Options = TypeVar("Options", bound="DataclassInstance")


def option(argv: list[str], name: str, default: str) -> str:
    """The last value of an option in a command line that is not parsed yet."""
    value = default
    for i, word in enumerate(argv):
        left, equals, right = word.partition("=")
        if left.replace("_", "-") == f"--{name}":
            value = right if equals else argv[i + 1] if i + 1 < len(argv) else default
    return value


def flag(argv: list[str], name: str) -> bool:
    """Whether a command line that is not parsed yet has a switch of the program on."""
    switches = f"--no-{name}", f"--{name}"
    return [word for word in argv if word in switches][-1:] == [switches[1]]


def imports(argv: list[str]) -> tuple[str, ...]:
    """The modules that a command line which is not parsed yet asks to import."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--import", dest="names", nargs="*", default=[])
    return tuple(parser.parse_known_args(argv)[0].names)


def by_backend(preset: str, *, cpu: str, other: str) -> tuple[str, str]:
    """The preset to run and why.

    Args:
      preset: as asked, or `auto`.
      cpu: what `auto` is without an accelerator.
      other: what it is with one.
    """
    if preset != "auto":
        return preset, "as asked"
    import jax  # not for --help, which answers at once

    backend = jax.default_backend()
    if backend == "cpu":
        return cpu, "no accelerator was found"
    return other, f"there is a {backend}"


def env_steps(argv: list[str]) -> int | None:
    """The budget that a command line asks for, if it is a number: presets have shares of it."""
    try:
        return int(option(argv, "env-steps", ""))
    except ValueError:  # none, or none that the parser will take
        return None


def parse(
    kind: type[Args], argv: list[str], description: str | None, defaults: Callable[[], Config]
) -> Args:
    """Parses a command line; prints help and exits where it is asked for.

    Args:
      kind: the command's options, that of the task first.
      argv: words of the command line.
      description: of the command.
      defaults: makes the config of the preset, whose values the options default to.

    Raises:
      ValueError: the task is asked for by its setting.
    """
    if {"-h", "--help"} & set(argv):
        print(reference.short_help(kind, description))
        raise SystemExit(0)
    if task := option(argv, "env.id", ""):
        name = next(iter(kind.__annotations__))
        raise ValueError(f"env.id={task} is set by --{name}: give the task there")
    argv = ["--help" if word == "--help-all" else word for word in argv]
    return tyro.cli(kind, args=argv, default=kind(config=defaults()), description=description)


def command(run: Callable[[list[str]], int], argv: list[str] | None) -> int:
    """A training command, from its words to the exit status.

    The processes of a run join before anything asks JAX for its devices, as presets and tasks do.

    Args:
      run: parses and launches; its `ValueError` is one line for the user.
      argv: words of the command line, by default those that this program was started with.
    """
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help", "--help-all"} & set(argv):
        try:
            return run(argv)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    from ez_jax import hosts  # not for --help, which answers at once
    from ez_jax.runner.setup import setup
    from ez_jax.runner.stopping import Stopped

    try:
        setup(local=flag(argv, "local"))
        with hosts.guard(Stopped):
            status = run(argv)
    except Stopped as stopped:
        hosts.say(str(stopped))
        status = stopped.status
    except KeyboardInterrupt:  # not in training, whose state is saved
        print("interrupted; go on with the same command and --resume", file=sys.stderr)
        status = 130
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    return hosts.finish(status)


def launch(args: RunArgs, task: str, preset: str, announcement: str) -> int:
    """Checks, runs and reports; returns the exit status of the command."""
    config, workdir = args.config, default_workdir(args, task, preset)
    from ez_jax import hosts
    from ez_jax.program.mesh import make_mesh
    from ez_jax.runner.boards import check_wandb
    from ez_jax.runner.train import run_together
    from ez_jax.runner.workdir import SeedRun, seed_runs

    together = f", {args.num_seeds} seeds at once" if args.num_seeds > 1 else ""

    def announce() -> None:
        hosts.say(
            f"{task}, preset {preset} ({announcement}){together}: {config.env_steps:,} steps, "
            f"{config.total_updates:,} updates; {hosts.describe()}writing to {workdir}"
        )

    import_modules(args.imports)
    check_counts(args)
    if args.wandb:
        check_wandb()
    if args.dry_run:
        from ez_jax.runner.preview import preview

        hosts.say(preview(config, args.num_seeds))
        return 0
    runs = [SeedRun(config, workdir)]
    if args.num_seeds > 1:
        runs = seed_runs(config, workdir, args.num_seeds)
    results = run_together(
        runs,
        resume=args.resume,
        preset=preset,
        announce=announce,
        wandb=args.wandb,
        mesh=make_mesh(args.num_devices) if args.num_devices else None,
    )
    for one, result in zip(runs, results):
        normalized = result.get("human_normalized")
        human = f", human-normalised {normalized:.3f}" if normalized is not None else ""
        hosts.say(
            f"final score of seed {result['seed']}: {result['eval_mean']:.2f} over "
            f"{result['eval_episodes']} episodes ({result['eval_distinct']} distinct returns)"
            f"{human}; see {one.workdir / 'result.json'}"
        )
    return 0


def check_counts(args: RunArgs) -> None:
    """Raises `ValueError` where the number of seeds or devices is out of range."""
    for name, value, least in (
        ("num-seeds", args.num_seeds, 1),
        ("num-devices", args.num_devices, 0),
    ):
        if value < least:
            raise ValueError(f"{name}={value} is out of range: it must be at least {least}")


def default_workdir(args: RunArgs, task: str, preset: str) -> Path:
    """The work directory that was asked for, or one by task, preset and seeds."""
    name, seed = task.replace("/", "-"), args.config.seed
    several = f"seeds{seed}-{seed + args.num_seeds - 1}"
    seeds = f"seed{seed}" if args.num_seeds == 1 else several
    return Path(args.workdir or f"runs/{name}-{preset}-{seeds}").expanduser()


def expanded(args: Options) -> Options:
    """Options with the `~` of their paths written out; shells leave that of `--workdir=~/run`."""

    def whole(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(whole(item) for item in value)
        return value.expanduser() if isinstance(value, Path) else value

    values = {each.name: whole(getattr(args, each.name)) for each in dataclasses.fields(args)}
    return dataclasses.replace(args, **values)


def import_modules(names: Sequence[str]) -> None:
    """Imports modules that register environments, also from the current folder.

    Raises:
      ValueError: there is no such module.
    """
    if names:
        sys.path.insert(0, os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ValueError(f"cannot import {name}: {error}") from error


def with_task(args: Args, task: str) -> Args:
    """`args` with the id of the task in the config."""
    env = dataclasses.replace(args.config.env, id=task)
    return dataclasses.replace(args, config=dataclasses.replace(args.config, env=env))
