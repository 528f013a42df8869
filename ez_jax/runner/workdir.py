"""The files of a run, and everything that can be wrong with a command before any work starts."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ez_jax import hosts
from ez_jax.agent.losses import ExtraLosses
from ez_jax.config import (
    Config,
    applicable,
    differences,
    from_dict,
    replace,
    to_dict,
    validate,
    validate_new,
)
from ez_jax.envs import check_task, is_atari
from ez_jax.runner.agents import make_agent
from ez_jax.runner.checkpoint import CheckpointError, Checkpoints, newest_common
from ez_jax.types import EnvSpec


class RunError(ValueError):
    """The run cannot start or go on; the message is one line for the user."""


class SeedRun(NamedTuple):
    """One seed of a run, with its work directory."""

    config: Config
    workdir: Path
    extended: bool = False  # beyond the budget that it began with


def seed_runs(config: Config, workdir: str | Path, num_seeds: int) -> list[SeedRun]:
    """`num_seeds` consecutive seeds, each in its own folder `seed<k>` of `workdir`."""
    seeds = range(config.seed, config.seed + num_seeds)
    return [SeedRun(replace(config, seed=seed), Path(workdir) / f"seed{seed}") for seed in seeds]


def describe_losses(losses: ExtraLosses | None) -> dict[str, Any]:
    """Weight and qualified name of each extra loss term, as the files of a run hold them."""
    return {
        name: {"weight": float(weight), "function": f"{fn.__module__}.{fn.__qualname__}"}
        for name, (fn, weight) in sorted((losses or {}).items())
    }


def settings(config: Config, losses: ExtraLosses | None) -> dict[str, Any]:
    """The config, and extra loss terms if there are, as checkpoints hold them."""
    extra = describe_losses(losses)
    return to_dict(config) | ({"extra_losses": extra} if extra else {})


def to_config(saved: dict[str, Any]) -> Config:
    """The config in `settings`."""
    return from_dict({name: value for name, value in saved.items() if name != "extra_losses"})


def write_config(run: SeedRun, losses: ExtraLosses | None, spec: EnvSpec) -> None:
    """Makes the work directory, and writes the settings that apply to the task to `config.json`.

    Checkpoints hold all of them.
    """
    if not hosts.first():
        return
    run.workdir.mkdir(parents=True, exist_ok=True)
    extra = describe_losses(losses)
    shown = what_applies(run.config, spec)
    shown |= {"extra_losses": extra} if extra else {}
    write_atomically(run.workdir / "config.json", json.dumps(shown, indent=2) + "\n")


def what_applies(config: Config, spec: EnvSpec) -> dict[str, Any]:
    """Settings that a run of a task reads, see `config.applicable`."""
    atari, vectors = is_atari(config.env.id), spec.action_size > 0
    return applicable(config, image=spec.image, atari=atari, vectors=vectors)


def sizes_of(workdir: Path) -> dict[str, Any] | None:
    """Channels and updates of the run in a work directory (of its first seed), for
    `config.replace`; None without one.
    """
    found = sorted(workdir.glob("config.json")) or sorted(workdir.glob("seed*/config.json"))
    if not found:
        return None
    saved = read_json(found[0])
    return dict(
        network__channels=saved["network"]["channels"],
        cycle__updates_per_act=saved["cycle"]["updates_per_act"],
    )


class Checked(NamedTuple):
    """What a command has to do."""

    finished: dict[Path, dict[str, Any]]  # results of runs that need nothing more
    todo: list[SeedRun]
    meta: dict[str, Any] | None  # of the checkpoint that all of `todo` go on from
    notes: list[str]  # for the user


def check(
    runs: Sequence[SeedRun],
    *,
    resume: bool,
    losses: ExtraLosses | None = None,
    evaluate_after: bool = True,
) -> Checked:
    """Checks a command before any work starts, and writes nothing.

    Raises:
      RunError: a work directory holds a run already, and `resume` is off; or what is there cannot
        be gone on with.
      CheckpointError: a checkpoint is damaged, or of other settings.
      ValueError: a field is out of range, the task is unknown, or they do not fit each other.
    """
    validate(runs[0].config)
    validate(runs[-1].config)  # the largest seed
    check_task(runs[0].config.env)
    spec = make_agent(runs[0].config).network.spec
    for run in runs:
        _check_path(run.workdir)
        if not resume and (run.workdir / "config.json").exists():
            raise RunError(
                f"{run.workdir} holds a run already: go on with --resume, or choose another "
                "--workdir"
            )
    finished, todo, meta, notes = {}, [], None, []
    checkpoints = [Checkpoints(run.workdir) for run in runs]
    try:
        for saved, run in zip(checkpoints, runs):
            result = _result(run.workdir)
            step = saved.latest()
            if step is None and result is not None:
                raise RunError(
                    f"{run.workdir} has a result and no checkpoint: nothing can go on from there"
                )
            if step is None:
                todo.append((saved, run))
                continue
            before = saved.restore_meta(step)
            run, said = _resumed(run, before, losses)
            notes += said
            same_budget = run.config.env_steps == before["config"]["env_steps"]
            if result is not None and same_budget and ("eval_mean" in result or not evaluate_after):
                finished[run.workdir] = result
            else:
                todo.append((saved, run))
        if (step := newest_common([saved for saved, _ in todo])) is not None:
            meta = todo[0][0].restore_meta(step)
        elif todo:
            validate_new(runs[0].config, image=spec.image)
    finally:
        for saved in checkpoints:
            saved.close()
    left = [run for _, run in todo]
    notes += [f"{path} is finished and stays as it is" for path in finished]
    return Checked(finished, left, meta, list(dict.fromkeys(notes)))


def _check_path(workdir: Path) -> None:
    if any(mark in str(workdir.absolute()) for mark in "[]\\"):
        raise RunError(
            f"checkpoints cannot be read from {workdir}: choose a --workdir without any of [ ] \\"
        )
    nearest = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise RunError(f"cannot make {workdir}: {nearest} is not a folder")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
      RunError: it is damaged; names it.
    """
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {path}: {error}") from error


def _result(workdir: Path) -> dict[str, Any] | None:
    path = workdir / "result.json"
    return read_json(path) if path.exists() else None


BUDGET_SHARES = ("replay.capacity", "target.search_value_after", "target.fresh_steps")
"""Presets derive these from the budget; an extended run keeps what it began with."""


def _resumed(
    run: SeedRun, meta: dict[str, Any], losses: ExtraLosses | None
) -> tuple[SeedRun, list[str]]:
    """The run as it goes on: with another `run` section, or with more steps.

    Returns:
      the run, and notes where it is extended, or was.

    Raises:
      CheckpointError: other settings differ.
    """
    wanted, saved, notes = run.config, meta["config"], []
    extended = meta.get("extended", False)
    with contextlib.suppress(ValueError):  # of another version: the fields tell
        before = to_config(saved)
        saved = saved | {"run": to_dict(wanted.run)}
        longer = wanted.env_steps > before.env_steps
        # The command that extended a run goes on with it too.
        if longer or (extended and wanted.env_steps == before.env_steps):
            kept = replace(before, env_steps=wanted.env_steps, run=wanted.run)
            found = differences(to_dict(kept), to_dict(wanted))
            names = {line.partition(":")[0] for line in found}
            if names <= set(BUDGET_SHARES):
                as_before = f"as before: {', '.join(sorted(names))}" if names else ""
                if longer:
                    notes.append(
                        f"extended from {before.env_steps:,} to {wanted.env_steps:,} steps: "
                        "learning rate, temperature, importance exponent and horizon of old data "
                        "are those of the new budget from here on"
                        + (f"; {as_before}" if names else "")
                    )
                elif names:
                    notes.append(f"this run was extended; {as_before}")
                extended, wanted = True, kept
                saved = saved | {"env_steps": kept.env_steps}
    check_settings(saved, settings(wanted, losses), run.workdir)
    return SeedRun(wanted, run.workdir, extended), notes


def keep_results(run: SeedRun, env_steps: int) -> None:
    """Gives the results of a run that is extended the number of its steps as a suffix."""
    for name in ("result.json", "eval.csv") if hosts.first() else ():
        path = run.workdir / name
        if path.exists():
            path.rename(path.with_stem(f"{path.stem}-{env_steps}"))


def check_settings(saved: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    """Refuses to go on with other settings than a run was started with.

    Raises:
      CheckpointError: names the fields that differ.
    """
    with contextlib.suppress(ValueError):  # of another version: the fields tell
        # A field that is newer than the run has its default.
        saved = saved | to_dict(to_config(saved))
    found = differences(*(json.loads(json.dumps(x)) for x in (saved, wanted)))
    if found:
        raise CheckpointError(f"{path} holds a run with another config: " + "; ".join(found))


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is never seen half written, in process 0."""
    if not hosts.first():
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)
