"""Results of runs in a few files that a repository can hold, and that `results` reads again.

`runs.json` has settings and result of each run, a line each; `episodes.csv` the return of each
game that was played with final parameters, or at random (mode `32-uniform`); `metrics.jsonl.gz` the
lines of metrics. Variant, task and seed tell runs apart in all of them. Work directories are not
named.
"""

import csv
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ez_jax.runner.metrics import read_metrics
from ez_jax.runner.sharing import shareable
from ez_jax.runner.workdir import read_json, write_atomically
from ez_jax.suite.results import METRICS, RUNS, Run, Sets

EPISODES = "episodes.csv"
COLUMNS = "variant", "task", "run_seed", "mode", "episode", "seed", "return", "length"
GREEDY = "eval"
"""Name of the run's own games; those of `evaluate.py` have its options in theirs."""


class Key(NamedTuple):
    """A run of an archive."""

    variant: str
    task: str
    seed: int


def archive(sets: Sets, output: Path, every: int = 1) -> list[Key]:
    """Adds runs to an archive, in place of those of the same variant, task and seed.

    Args:
      sets: runs in work directories, by variant.
      output: folder of the archive; made where it is missing.
      every: one line of metrics in so many is kept, and the last.

    Returns:
      the runs that were added.

    Raises:
      ValueError: a run is in an archive already, or one of its files is damaged.
    """
    added: dict[Key, Run] = {}
    for variant, runs in sets.items():
        for run in runs:
            if not run.metrics.is_dir():
                raise ValueError(f"{run.source} is an archive; give work directories")
            added[Key(variant, run.task, run.seed)] = run
    output.mkdir(parents=True, exist_ok=True)
    runs_file, episodes, metrics = (output / name for name in (RUNS, EPISODES, METRICS))
    before = read_json(runs_file) if runs_file.exists() else []
    # Older archives have one task a variant, and name it in the result alone.
    tasks = {saved["variant"]: saved["result"]["game"] for saved in before if saved["result"]}
    kept = [saved for saved in before if _key(saved, tasks) not in added]
    new = [
        {**key._asdict(), "config": read_json(run.metrics / "config.json")}
        | {"result": _six(shareable(run.result))}
        for key, run in added.items()
    ]
    old = [(_key(row, tasks, "run_seed"), row) for row in _read_csv(episodes)]
    rows = [row | {"task": key.task} for key, row in old if key not in added]
    lines = [row for row in _read_lines(metrics) if _key(row, tasks) not in added]
    for key, run in added.items():
        rows += _episodes(key, run)
        mine = read_metrics(run.metrics).get("", [])
        lines += [key._asdict() | _six(row) for row in mine[:-1:every] + mine[-1:]]
    # In whole files, the one that names the runs last.
    with gzip.GzipFile(metrics, "wb", mtime=0) as packed:
        packed.write(_lines(lines).encode())
    with episodes.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomically(runs_file, "[\n" + _lines(kept + new, ",\n") + "]\n")
    return list(added)


def _key(row: dict[str, Any], tasks: dict[str, str], seed: str = "seed") -> Key:
    variant = row["variant"]
    return Key(variant, row.get("task") or tasks.get(variant, ""), int(row.get(seed) or 0))


def _episodes(key: Key, run: Run) -> list[dict[str, Any]]:
    """Games of a run: its own, and those of `evaluate.py`.

    Without those of parameters from before it was extended.
    """
    found = []
    for path in (run.metrics / f"{GREEDY}.csv", *sorted(run.metrics.glob("evaluate-*.csv"))):
        summary = path.with_suffix(".json")
        updates = read_json(summary).get("updates") if summary.exists() else None
        if updates is not None and updates != run.result.get("updates"):
            continue
        mode = "greedy" if path.stem == GREEDY else path.stem.removeprefix("evaluate-")
        about = {"variant": key.variant, "task": key.task, "run_seed": key.seed, "mode": mode}
        found += [about | row for row in _read_csv(path)]
    return found


def _read_csv(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [row for rows in read_metrics(path).values() for row in rows]


def _lines(rows: Iterable[Any], between: str = "\n") -> str:
    return between.join(map(json.dumps, rows)) + "\n"


def _six(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers with six digits."""
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}
