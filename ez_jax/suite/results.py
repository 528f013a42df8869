"""Results of finished runs, by set: what is compared, for example a preset or a switch."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ez_jax.config import EnvConfig
from ez_jax.envs import is_control, time_limit
from ez_jax.runner.scores import human_normalized
from ez_jax.runner.workdir import read_json

RUNS, METRICS = "runs.json", "metrics.jsonl.gz"
"""Files of an archive, see `archive`: results, and lines of metrics, of all its runs."""


class Run(NamedTuple):
    """A finished run."""

    task: str
    seed: int
    score: float  # mean return of the evaluation episodes with the final parameters
    result: dict[str, Any]  # what `result.json` holds
    source: str  # where it stands
    metrics: Path  # its lines of metrics, for `metrics.read_metrics`,
    which: Mapping[str, Any] = {}  # and which of them, in an archive
    whole: bool = True  # its games were not cut short
    pixels: bool = False  # of DeepMind Control, in place of the state


class Scores(NamedTuple):
    """Normalised scores of a set."""

    tasks: tuple[str, ...]
    values: np.ndarray  # [R, T], NaN where a task has fewer runs


Sets = dict[str, list[Run]]
"""Runs by the name of their set."""


def collect(folders: Sequence[Path], name: str = "") -> Sets:
    """The finished runs of each folder.

    Args:
      folders: a set each: a work directory, or a folder of those of several seeds and tasks; or
        archives, which hold several variants.
      name: of one set with the runs of all.

    Raises:
      ValueError: no folder has a finished run, a file is damaged, or a set holds a task and seed
        twice.
    """
    sets: Sets = {}
    found = [(folder, finished_in(folder)) for folder in folders]
    labels = [own for _, its in found for own in its]
    for folder, its in found:
        for own, runs in its.items():
            # Folders of the same name, as of two suites, are told apart by what they lie in.
            label = f"{_place(folder)}/{own}" if labels.count(own) > 1 else own
            sets.setdefault(name or label, []).extend(runs)
    if not sets:
        where = ", ".join(map(str, folders))
        raise ValueError(f"no finished run in {where}: there is no result.json with scores")
    for label, runs in sets.items():
        runs.sort(key=lambda run: (run.task, run.seed))
        for one, other in itertools.pairwise(runs):
            if (one.task, one.seed) == (other.task, other.seed):
                raise ValueError(
                    f"{label} holds seed {one.seed} of {one.task} twice: {one.source} and "
                    f"{other.source}"
                )
    return sets


def _place(folder: Path) -> str:
    """What tells a set from another of the same name: its archive, or the folder around it."""
    folder = folder.resolve()
    return folder.name if (folder / RUNS).exists() else folder.parent.name


def finished_in(folder: Path) -> Sets:
    """The finished runs of one folder, none where it has none; see `collect`."""
    found: Sets = {}
    if (archive := folder / RUNS).exists():
        for saved in read_json(archive):
            if saved["result"] is not None:
                source = f"{folder.name}/{RUNS}, {saved['variant']}"
                which = {"variant": saved["variant"], "task": saved["result"]["game"]}
                result, config = saved["result"], saved.get("config") or {}
                run = _run(result, config, source, folder / METRICS, which)
                found.setdefault(saved["variant"], []).append(run)
        return found
    for path in sorted(folder.glob("**/result.json")):
        result = read_json(path)
        if "eval_mean" in result:  # a run whose games were not played has no score
            config = path.with_name("config.json")
            settings = read_json(config) if config.exists() else {}
            run = _run(result, settings, str(path.relative_to(folder.parent)), path.parent)
            found.setdefault(folder.resolve().name, []).append(run)
    return found


def _run(
    result: dict[str, Any],
    config: dict[str, Any],
    source: str,
    metrics: Path,
    which: Mapping[str, Any] | None = None,
) -> Run:
    task, score = result["game"], result["eval_mean"]
    whole = _whole(result, config.get("env", {}))
    pixels = bool(config.get("env", {}).get("pixels", False))
    return Run(task, result["seed"], score, result, source, metrics, which or {}, whole, pixels)


def _whole(result: dict[str, Any], env: dict[str, Any]) -> bool:
    """Whether the games of a run were not cut, as far as its result and its settings tell."""
    task = result["game"]
    if human_normalized(task, 0.0) is not None:
        return result.get("human_normalized", 0.0) is not None
    limit = env.get("eval_max_episode_steps", 0)
    if not limit or not is_control(task):
        return True
    own = time_limit(EnvConfig(id=task, action_repeat=env.get("action_repeat", 1)))
    return own is None or limit >= own


def tasks_of(sets: Sets) -> list[str]:
    """All tasks, in alphabetical order."""
    return sorted({run.task for runs in sets.values() for run in runs})


def unit(task: str) -> str:
    """What a score is normalised by: scores of different units are not averaged."""
    if human_normalized(task, 0.0) is not None:
        return "human-normalised score"
    return "return / 1000" if is_control(task) else "return"


def normalised(task: str, score: float) -> float:
    """A score in the `unit` of its task.

    Atari: (score - random) / (human - random). DeepMind Control: returns lie between 0 and 1000.
    """
    human = human_normalized(task, score)
    if human is not None:
        return human
    return score / 1000 if unit(task) == "return / 1000" else score


def units_of(sets: Sets) -> list[str]:
    """Units whose scores can be averaged: those of tasks with a scale, or of one task alone.

    Runs whose games were cut do not count.
    """
    tasks = sorted({run.task for runs in sets.values() for run in runs if run.whole})
    found = sorted({unit(task) for task in tasks})
    return [u for u in found if u != "return" or sum(unit(t) == u for t in tasks) == 1]


def scores(runs: Sequence[Run], tasks: Sequence[str]) -> Scores:
    """Normalised scores of those of `tasks` that a set has, without runs whose games were cut."""
    by_task = {
        task: [normalised(task, run.score) for run in runs if run.task == task and run.whole]
        for task in tasks
    }
    by_task = {task: values for task, values in by_task.items() if values}
    most = max(map(len, by_task.values()), default=0)
    values = np.full((most, len(by_task)), np.nan)
    for column, found in enumerate(by_task.values()):
        values[: len(found), column] = found
    return Scores(tuple(by_task), values)
