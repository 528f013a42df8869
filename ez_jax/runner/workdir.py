"""The files of a run, and everything that can be wrong with a command before any work starts."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ez_jax.agent.losses import ExtraLosses
from ez_jax.config import (
    Config,
    applicable,
    differences,
    from_dict,
    replace,
    to_dict,
    validate,
)
from ez_jax.envs import check_task, is_atari
from ez_jax.runner.checkpoint import CheckpointError, Checkpoints, newest_common
from ez_jax.types import EnvSpec


class RunError(ValueError):
    """The run cannot start or go on; the message is one line for the user."""


class SeedRun(NamedTuple):
    """One seed of a run, with its work directory."""

    config: Config
    workdir: Path


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
    run.workdir.mkdir(parents=True, exist_ok=True)
    image, atari = len(spec.frame_shape) == 3, is_atari(run.config.env.id)
    extra = describe_losses(losses)
    shown = applicable(run.config, image=image, atari=atari)
    shown |= {"extra_losses": extra} if extra else {}
    write_atomically(run.workdir / "config.json", json.dumps(shown, indent=2) + "\n")


def check(
    runs: Sequence[SeedRun], *, resume: bool, losses: ExtraLosses | None = None
) -> dict[str, Any] | None:
    """Checks a command before any work starts.

    Returns:
      the `meta` of the newest checkpoint that all seeds have, None where there is none.

    Raises:
      RunError: a work directory holds a run already, and `resume` is off.
      CheckpointError: a checkpoint is damaged, or of other settings.
      ValueError: a field is out of range, or the task is unknown.
    """
    validate(runs[0].config)
    check_task(runs[0].config.env.id)
    for run in runs:
        if not resume and (run.workdir / "config.json").exists():
            raise RunError(
                f"{run.workdir} holds a run already: go on with --resume, or choose another "
                "--workdir"
            )
    checkpoints = [Checkpoints(run.workdir) for run in runs]
    meta = None
    try:
        if (step := newest_common(checkpoints)) is not None:
            for saved, run in zip(checkpoints, runs):
                meta = saved.restore_meta(step)
                check_settings(meta["config"], settings(run.config, losses), run.workdir)
    finally:
        for saved in checkpoints:
            saved.close()
    return meta


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
    """Writes a file that is never seen half written."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)
