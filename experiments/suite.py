"""Many runs from one command: tasks x presets x switches x seeds.

    python experiments/suite.py --tasks atari100k --preset=paper --num-seeds=3 --workdir=runs/atari
    python experiments/suite.py --tasks walker-walk reacher-easy --num-seeds=3 --jobs=2
    python experiments/suite.py --tasks jax/Catch CartPole-v1 --num-seeds=2 \\
        --switch loss.consistency=0 --switch network.value-prefix=False
    python experiments/suite.py --tasks drawn/jax/Catch --study=paper --dry-run

Each run lies in <workdir>/<preset and switch>/<task>/seed<k>. The same command again makes what is
missing: finished runs stay as they are, broken ones go on. Several machines with a common folder
share the list, and take over what one that died was at. Settings as --search.num-simulations=8 go
for every run, before what a switch changes. `report.py` makes a page of the results.
"""

import dataclasses
import functools
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Annotated

import tyro

from ez_jax.cli import expanded, import_modules, imports
from ez_jax.config import Config, EnvConfig, replace, validate, validate_new
from ez_jax.suite.jobs import Job, agree, finished, work
from ez_jax.suite.published import ATARI

STUDIES: dict[str, tuple[str, ...]] = {
    # EfficientZero, section 5.3, and reanalysis.
    "paper": (
        "loss.consistency=0",
        "network.value-prefix=False",
        "target.off-policy-correction=False",
        "reanalyse.mode=off",
    ),
    # The mixed target has the search in place of the off-policy correction: that is left out of
    # the TD target.
    "parts": (
        "loss.consistency=0",
        "network.value-prefix=False",
        "reanalyse.mode=off",
        "search.algorithm=muzero",
        "target.value=td",
        "target.value=td target.off-policy-correction=False",
    ),
    # What makes a run faster or slower and may change what it learns.
    "speed": (
        "search.num-simulations=8",
        "search.num-simulations=50",
        "reanalyse.positions=32",
        "reanalyse.positions=16",
        "reanalyse.mode=sampled",
        "search.embedding-dtype=bfloat16",
        "network.joint-norm=False",
    ),
}
"""Switches by the name of a study."""
HOURS = (
    "--hours sizes each run by the speed of the moment, so that seeds would differ: give "
    "--network.channels and --cycle.updates-per-act, which `python experiments/atari100k.py "
    "--hours=1 --dry-run` prints"
)
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Args:
    tasks: tuple[str, ...] = ("jax/Catch",)
    """Games of Atari, tasks of DeepMind Control as `walker-walk`, or what classic.py takes;
    `atari100k` stands for the benchmark's 26 games."""
    preset: tuple[str, ...] = ("auto",)
    """Presets of the tasks' own commands; `auto` is resolved by the devices here, once for all."""
    switch: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg()] = ()
    """A variant beside the whole: `name=value`, several in one word with spaces between; the items
    of a value have commas. Once for each variant."""
    study: str = ""
    """A list of switches with a name: paper, parts or speed."""
    num_seeds: int = 1
    """Seeds of each, from --seed on."""
    seed: int = 0
    """The first seed."""
    workdir: Path = Path("runs/suite")
    """The common folder."""
    jobs: int = 1
    """Runs beside each other on this machine."""
    dry_run: bool = False
    """Lists the runs, and makes none."""


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The suite's own words of a command line, and those for every run."""
    own = {f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(Args)} | {"-h", "--help"}
    mine: list[str] = []
    others: list[str] = []
    into = mine
    for word in argv:
        if word.startswith("-") and not re.match(r"-[\d.]", word):
            into = mine if word.partition("=")[0].replace("_", "-") in own else others
        into.append(word)
    return mine, others


def switched(switch: str) -> list[str]:
    """The words of a command line that a switch stands for.

    Raises:
      ValueError: it is not of the form `name=value`.
    """
    words = []
    for setting in switch.split():
        name, equals, value = setting.partition("=")
        if not (name and equals and value):
            raise ValueError(f"switch {setting!r} must be of the form name=value")
        words += [f"--{name.removeprefix('--')}", *value.split(",")]
    return words


def folder_name(name: str) -> str:
    """A name that a file system and a checkpoint take."""
    return re.sub(r"[^\w.=-]+", "_", name)


def load(script: str) -> ModuleType:
    """A command beside this one as a module."""
    name = script.removesuffix(".py")
    spec = spec_from_file_location(name, HERE / script)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def backend() -> str:
    """The kind of devices that runs will have here, e.g. `cpu`.

    Another process tells, which ends at once: one that has opened a TPU keeps it from all others.

    Raises:
      ValueError: it cannot; has its last line.
    """
    code = "import jax; print(jax.default_backend())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if asked.returncode:
        said = asked.stderr.strip().splitlines() or [f"exit status {asked.returncode}"]
        raise ValueError(f"cannot find out which devices there are: {said[-1]}")
    return asked.stdout.split()[-1]


def preset_of(script: ModuleType, preset: str) -> list[str]:
    """The option that chooses a preset; `auto` is resolved here, once for all runs."""
    if preset == "auto":
        if not hasattr(script, "AUTO"):
            return []  # its own default
        preset = script.AUTO["cpu" if backend() == "cpu" else "other"]
    return [f"--preset={preset}"]


def command_of(task: str) -> list[str]:
    """The script of a task, and its option.

    Raises:
      ValueError: no script knows the task; the message names the nearest ones.
    """
    from ez_jax.envs import UnknownTask, check_task, dmc_task, is_atari

    if task in ATARI or is_atari(f"{task}-v5"):
        return ["atari100k.py", f"--game={task}"]
    try:
        dmc_task(task)
        return ["dmc100k.py", f"--task={task}"]
    except UnknownTask as unknown:
        try:
            check_task(EnvConfig(id=task))
        except UnknownTask as error:
            raise (error if "nearest" in str(error) else unknown) from None
    return ["classic.py", f"--env={task}"]


def list_jobs(args: Args, settings: Sequence[str]) -> Iterator[Job]:
    """All runs, seed by seed, so that each set has one seed before any has two.

    Args:
      args: of the command.
      settings: words of the command line for every run.

    Raises:
      ValueError: a task, preset, switch or setting is bad.
    """
    from ez_jax.runner.agents import make_agent  # not for --help, which answers at once
    from ez_jax.runner.workdir import what_applies

    tasks = list(
        itertools.chain(*(sorted(ATARI) if task == "atari100k" else [task] for task in args.tasks))
    )
    if args.study and args.study not in STUDIES:
        raise ValueError(f"study={args.study!r} must be one of {', '.join(STUDIES)}")
    if not tasks or not args.preset:
        raise ValueError("name at least one task and one preset")
    tasks, presets = list(dict.fromkeys(tasks)), list(dict.fromkeys(args.preset))
    switches = ("", *STUDIES.get(args.study, ()), *args.switch)
    scripts: dict[str, ModuleType] = {}
    configs: dict[tuple[str, str, str], Config] = {}
    found: list[tuple[str, str, Config, list[str]]] = []
    for task, preset in itertools.product(tasks, presets):
        name, option = command_of(task)
        if name not in scripts:
            scripts[name] = load(name)
        whole, chosen = None, preset_of(scripts[name], preset)
        for switch in switches:
            words = [option, *chosen, *settings, *switched(switch)]
            if (config := configs.get((name, preset, switch))) is None:
                run = scripts[name].parse(words)
                if getattr(run, "hours", 0):
                    raise ValueError(HOURS)
                config = run.config
            if name == "atari100k.py":  # its presets are the same for all games
                configs[name, preset, switch] = config
                config = replace(config, env__id=f"{task}-v5")
            validate(config)
            spec = make_agent(config).network.spec
            validate_new(config, image=spec.image)
            applies = what_applies(config, spec)
            if switch and applies == whole:
                print(f"left out: {switch} changes nothing for {task} with preset {preset}")
                continue
            whole = whole or applies
            label = folder_name(f"{preset}-{switch}" if switch else preset)
            found.append((label, folder_name(task), config, [str(HERE / name), *words]))
    for seed in range(args.seed, args.seed + args.num_seeds):
        for label, task, config, command in found:
            workdir = args.workdir / label / task / f"seed{seed}"
            command = [*command, f"--seed={seed}", f"--workdir={workdir}", "--resume"]
            command += [
                "--local"
            ]  # claims alone couple machines, whatever a cluster's variables say
            yield Job(label, task, replace(config, seed=seed), workdir, tuple(command))


def main(argv: list[str] | None = None) -> int:
    mine, settings = split(sys.argv[1:] if argv is None else argv)
    args = expanded(tyro.cli(Args, args=mine, description=__doc__))
    import jax  # not for --help, which answers at once

    from ez_jax.runner.setup import quiet

    quiet()
    jax.config.update("jax_platforms", "cpu")  # of this process: accelerators are for the runs
    try:
        if args.jobs < 1 or args.num_seeds < 1:
            raise ValueError("jobs and num-seeds must be at least 1")
        import_modules(imports(settings))  # they may register the tasks
        jobs = list(list_jobs(args, settings))
        if args.dry_run:
            for job in jobs:
                print("done" if finished(job) else "to do", "python", *job.command)
            return 0
        agree(jobs)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from ez_jax.suite.overview import Overview

    try:
        with Overview() as overview:
            ended = work(
                jobs, args.workdir, at_once=args.jobs, show=overview.show, say=overview.say
            )
    except OSError as error:
        print(f"error: {error}; the same command goes on", file=sys.stderr)
        return 2
    done = sum(finished(job) is not None for job in jobs)
    print(
        f"{done} of {len(jobs)} runs are finished; report: python experiments/report.py "
        f"--sets {args.workdir}/*"
    )
    if ended.stopped:
        return 128 + ended.stopped
    return 1 if ended.failed else 0


if __name__ == "__main__":
    sys.exit(main())
