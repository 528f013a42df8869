"""Options, help and error messages of the training commands.

Nothing heavy is imported before the command line is read: `--help` answers at once.
"""

import argparse
import dataclasses
import importlib
import os
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from ez_jax import reference
from ez_jax.config import Config

OFTEN = (
    "env-steps",
    "seed",
    "env.num-envs",
    "env.action-repeat",
    "env.action-slots",
    "network.channels",
    "network.value-prefix",
    "search.algorithm",
    "search.num-simulations",
    "search.sampled-actions",
    "target.value",
    "target.td-steps",
    "target.off-policy-correction",
    "reanalyse.mode",
    "loss.consistency",
    "loss.entropy",
    "optimizer.learning-rate",
    "cycle.batch-size",
    "cycle.updates-per-act",
)
"""The options that `--help` shows."""


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


Args = TypeVar("Args", bound=RunArgs)


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
      kind: the command's options.
      argv: words of the command line.
      description: of the command.
      defaults: makes the config of the preset, whose values the options default to.
    """
    if {"-h", "--help"} & set(argv):
        print(short_help(kind, description))
        raise SystemExit(0)
    argv = ["--help" if word == "--help-all" else word for word in argv]
    return tyro.cli(kind, args=argv, default=kind(config=defaults()), description=description)


def short_help(kind: type[RunArgs], description: str | None) -> str:
    """The options that people change first, with the paper's defaults."""
    command: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        command = reference.field_docs(base) | command
    lines = [(description or "").strip(), "", "options of the command:"]
    hints = typing.get_type_hints(kind, include_extras=True)
    for name, doc in command.items():
        other = [getattr(mark, "name", None) for mark in getattr(hints[name], "__metadata__", ())]
        lines.append(_help_line(next(filter(None, other), name).replace("_", "-"), doc))
    settings = reference.options(Config())
    lines += ["", "settings, with the paper's value (a preset may have another):"]
    group = ""
    for name in OFTEN:
        value, doc = settings[name]
        if "." in name and (section := name.partition(".")[0]) != group:
            group = section
            lines.append(f" {group}")
        lines.append(_help_line(name, doc, reference.show(value)))
    rest = len(settings) - len(OFTEN)
    lines += ["", f"--help-all lists the other {rest} settings, with the values of the preset."]
    return "\n".join(lines)


def _help_line(name: str, doc: str, default: str | None = None) -> str:
    """One line, of the first clause: a screen holds them all."""
    left = f"  --{name}" + (f"={default}" if default is not None else "")
    clause = re.split(r"; | \(|\. (?=[A-Z])", doc)[0]
    return f"{left:37s} {textwrap.shorten(clause, 100 - 38, placeholder=' ...')}".rstrip()


def launch(args: RunArgs, task: str, preset: str, announcement: str) -> int:
    """Checks, runs and reports; returns the exit status of the command."""
    config, workdir = args.config, default_workdir(args, task, preset)
    from ez_jax import hosts
    from ez_jax.program.mesh import make_mesh
    from ez_jax.runner.boards import check_wandb
    from ez_jax.runner.setup import setup
    from ez_jax.runner.stopping import Stopped
    from ez_jax.runner.train import run_together
    from ez_jax.runner.workdir import SeedRun, seed_runs

    together = f", {args.num_seeds} seeds at once" if args.num_seeds > 1 else ""

    def announce() -> None:
        hosts.say(
            f"{task}, preset {preset} ({announcement}){together}: {config.env_steps:,} steps, "
            f"{config.total_updates:,} updates; {hosts.describe()}writing to {workdir}"
        )

    try:
        setup(local=args.local)
        with hosts.guard(agreed=Stopped):
            import_modules(args.imports)
            for name, value, least in (
                ("num-seeds", args.num_seeds, 1),
                ("num-devices", args.num_devices, 0),
            ):
                if value < least:
                    raise ValueError(f"{name}={value} is out of range: it must be at least {least}")
            if args.wandb:
                check_wandb()
            if args.dry_run:
                from ez_jax.runner.preview import preview

                hosts.say(preview(config, args.num_seeds))
                return hosts.finish(0)
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
    except Stopped as stopped:
        hosts.say(str(stopped))
        return hosts.finish(stopped.status)
    except KeyboardInterrupt:  # not in training, whose state is saved
        print("interrupted; go on with the same command and --resume", file=sys.stderr)
        return 130
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for one, result in zip(runs, results):
        normalized = result.get("human_normalized")
        human = f", human-normalised {normalized:.3f}" if normalized is not None else ""
        hosts.say(
            f"final score of seed {result['seed']}: {result['eval_mean']:.2f} over "
            f"{result['eval_episodes']} episodes ({result['eval_distinct']} distinct returns)"
            f"{human}; see {one.workdir / 'result.json'}"
        )
    return hosts.finish(0)


def default_workdir(args: RunArgs, task: str, preset: str) -> Path:
    """The work directory that was asked for, or one by task, preset and seeds."""
    name, seed = task.replace("/", "-"), args.config.seed
    several = f"seeds{seed}-{seed + args.num_seeds - 1}"
    seeds = f"seed{seed}" if args.num_seeds == 1 else several
    return Path(args.workdir or f"runs/{name}-{preset}-{seeds}")


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
