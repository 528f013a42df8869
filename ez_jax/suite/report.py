"""A page about the results of many runs: tables in Markdown, with pictures beside it."""

import difflib
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ez_jax.runner.metrics import read_metrics
from ez_jax.runner.scores import RANDOM_HUMAN
from ez_jax.suite import pictures, statistics
from ez_jax.suite.published import published
from ez_jax.suite.results import Run, Sets, scores, tasks_of, unit, units_of
from ez_jax.suite.statistics import Interval

PAGE = "README.md"
EVERYTHING = "Every number follows from the rows of the last table, which name their files."


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float | None) -> str:
    """Four digits, without an exponent."""
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def bounds(found: Interval, runs: int) -> str:
    """A statistic with its interval; one run a task has none."""
    if runs < 2:
        return number(found.value)
    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"


def scores_table(sets: Sets) -> str:
    """Mean score of each task in each set, beside published ones where there are."""
    tasks = tasks_of(sets)
    methods = list(dict.fromkeys(name for task in tasks for name in published(task)))
    references = ["random", "human"] if any(task in RANDOM_HUMAN for task in tasks) else []
    rows = []
    for task in tasks:
        known = dict(zip(("random", "human"), RANDOM_HUMAN.get(task, ()))) | published(task)
        cells = [number(known.get(name)) for name in (*references, *methods)]
        for runs in sets.values():
            mine = [run.score for run in runs if run.task == task]
            cells.append(
                f"{number(float(np.mean(mine)))} ({', '.join(map(number, mine))})" if mine else "-"
            )
        rows.append([task, *cells])
    return table(["task", *references, *methods, *(f"**{name}**" for name in sets)], rows)


def aggregates_of(sets: Sets, kind: str) -> dict[str, dict[str, Interval]]:
    """Aggregates with intervals of each set that has tasks of a unit."""
    tasks = [task for task in tasks_of(sets) if unit(task) == kind]
    found = {}
    for name, runs in sets.items():
        mine = scores(runs, tasks)
        if mine.tasks:
            found[name] = {
                aggregate: statistics.interval(statistic, mine.values)
                for aggregate, statistic in statistics.AGGREGATES.items()
                if kind != "return" or aggregate != "optimality gap"
            }
    return found


def improvement_table(sets: Sets, kind: str) -> str:
    """Probability that a run of a row's set beats one of a column's, on the tasks of both."""
    tasks = [task for task in tasks_of(sets) if unit(task) == kind]
    rows = []
    for ours, mine in sets.items():
        cells = []
        for theirs, others in sets.items():
            both = [task for task in tasks if all(_has(runs, task) for runs in (mine, others))]
            if ours == theirs or not both:
                cells.append("-")
                continue
            a, b = scores(mine, both).values, scores(others, both).values
            found = statistics.interval(statistics.probability_of_improvement, a, b)
            cells.append(bounds(found, min(len(a), len(b))))
        rows.append([ours, *cells])
    return table(["row beats column", *sets], rows)


def _has(runs: Sequence[Run], task: str) -> bool:
    return any(run.task == task and run.whole for run in runs)


def _cut(sets: Sets) -> list[tuple[str, Run]]:
    """Runs whose games were cut, each with its set."""
    return [(name, run) for name, runs in sets.items() for run in runs if not run.whole]


def runs_table(sets: Sets) -> str:
    """Every run with its file."""
    rows = []
    for name, runs in sets.items():
        for run in runs:
            r = run.result
            seeds = r.get("seeds_together", 1)
            rows.append(
                [
                    name,
                    run.task,
                    str(run.seed),
                    number(run.score),
                    str(r["eval_episodes"]),
                    f"{r['env_steps']:,}",
                    f"{r['updates']:,}",
                    f"{r['flop']:.2g}" if "flop" in r else "-",
                    f"{r['wall_s'] / 60:.0f}" + (f" for {seeds} seeds" if seeds > 1 else ""),
                    r.get("device", "-"),
                    re.sub(r"^(\w{7})\w*", r"\1", r.get("commit") or "-"),  # and "-dirty"
                    run.source,
                ]
            )
    header = "set,task,seed,score,episodes,steps,updates,FLOP,minutes,device,commit,file"
    return table(header.split(","), rows)


def write(sets: Sets, output: Path, panels: Sequence[str] = ("episode_return",)) -> Path:
    """Writes the page and its pictures into a folder.

    Args:
      sets: see `results.collect`.
      output: the folder, made where it is missing.
      panels: metrics whose curves are drawn, for each task.

    Returns:
      the path of the page.

    Raises:
      ValueError: no run has one of the metrics.
    """
    metrics = _metrics(sets)
    every = itertools.chain.from_iterable(tasks.values() for tasks in metrics.values())
    known = {name for runs in every for rows in runs for row in rows for name in row}
    if unknown := [name for name in panels if known and name not in known]:
        near = difflib.get_close_matches(unknown[0], known, 3, 0.4)
        raise ValueError(f"no run has the metric {unknown[0]!r}; nearest: {', '.join(near) or '-'}")
    output.mkdir(parents=True, exist_ok=True)
    count = sum(map(len, sets.values()))
    lines = [
        "# Report",
        "",
        f"{count} runs in {len(sets)} sets, final parameters. {EVERYTHING}",
        "",
        "## Scores",
        "",
        "Mean over seeds, in brackets each seed: the mean return of its evaluation episodes.",
        "",
        scores_table(sets),
    ]
    if cut := [f"{name}: {run.task}, seed {run.seed}" for name, run in _cut(sets)]:
        lines += ["", f"Left out of what is normalised, their games cut short: {'; '.join(cut)}."]
    if seen := [name for name, runs in sets.items() if any(run.pixels for run in runs)]:
        lines += ["", f"From pixels: {', '.join(seen)}; published returns are from states."]
    for kind in units_of(sets):
        lines += _aggregates_section(sets, kind, output)
    if metrics:
        wanted = list(itertools.product(tasks_of(sets), panels))
        pictures.curves_picture(metrics, wanted, output / "curves.png")
        lines += ["", "## Curves", "", "Runs thin, their mean thick, its 95 % interval shaded."]
        lines += ["", "![Curves](curves.png)"]
    lines += ["", "## Runs", "", runs_table(sets), ""]
    page = output / PAGE
    page.write_text("\n".join(lines))
    return page


def _aggregates_section(sets: Sets, kind: str, output: Path) -> list[str]:
    found, slug = aggregates_of(sets, kind), re.sub(r"\W+", "-", kind.removesuffix(" score"))
    tasks = [task for task in tasks_of(sets) if unit(task) == kind]
    values = {name: scores(sets[name], tasks).values for name in found}
    names = list(next(iter(found.values())))
    rows = [
        [
            name,
            str(values[name].shape[1]),
            str(int(np.isfinite(values[name]).sum())),
            *(bounds(one[aggregate], len(values[name])) for aggregate in names),
        ]
        for name, one in found.items()
    ]
    pictures.intervals_picture(found, kind, output / f"aggregates-{slug}.png")
    pictures.profiles_picture(values, kind, output / f"profiles-{slug}.png")
    lines = [
        "",
        f"## Over tasks: {kind}",
        "",
        "In brackets the 95 % interval of a bootstrap that draws runs anew for each task; "
        "IQM is the mean of the middle half of all runs.",
        "",
        table(["set", "tasks", "runs", *names], rows),
        "",
        f"![Aggregates](aggregates-{slug}.png)",
        "",
        f"![Performance profiles](profiles-{slug}.png)",
    ]
    if len(found) > 1:
        mine = {name: sets[name] for name in found}
        lines += ["", "Probability of improvement:", "", improvement_table(mine, kind)]
    return lines


def _metrics(sets: Sets) -> dict[str, dict[str, list[pictures.Rows]]]:
    """Lines of metrics of the runs that have them, by set and task."""
    found: dict[str, dict[str, list[pictures.Rows]]] = {}
    for name, runs in sets.items():
        for run in runs:
            rows = read_metrics(run.metrics, **run.which)
            mine = rows.get("") or rows.get(f"seed{run.seed}")
            if mine:
                found.setdefault(name, {}).setdefault(run.task, []).append(mine)
    return found
