"""Pictures of runs: curves, intervals of aggregates, performance profiles."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ez_jax.suite import statistics
from ez_jax.suite.statistics import Interval

TITLES = {
    "episode_return": "mean raw return of the last 16 games",
    "loss/value": "value loss",
    "loss/policy": "policy loss",
    "loss/value_prefix": "value-prefix loss",
    "loss/consistency": "consistency loss (-5: perfect)",
    "target/value": "mean value target",
    "search/value_bias": "search value - realised return",
    "policy/kl": "KL(search, network)",
    "policy/entropy": "policy entropy",
    "projection/cosine": "cosine of predicted and encoded states",
    "prefix_error/5": "value-prefix error, step 5",
    "replay/policy_age": "mean age of the search results in updates",
}
POINTS = 200
"""Points of a mean curve."""
Rows = list[dict[str, Any]]
"""The lines of metrics of one run."""


class Curve(NamedTuple):
    steps: np.ndarray  # [N]
    values: np.ndarray  # [N], or [R, N] of several runs at the same steps


def curve(rows: Rows, name: str, smooth: int) -> Curve | None:
    """One metric of a run, None where it never had a value.

    Args:
      rows: its lines of metrics.
      name: of the metric.
      smooth: lines that a point averages, returns aside, which are averages already.
    """
    known = [(row["env_steps"], row[name]) for row in rows if row.get(name) is not None]
    if not known:
        return None
    steps, values = map(np.array, zip(*known))
    if name != "episode_return" and len(values) >= smooth:
        steps, values = steps[smooth - 1 :], np.convolve(values, np.ones(smooth) / smooth, "valid")
    return Curve(steps, values)


def together(curves: Sequence[Curve]) -> Curve:
    """Curves of runs at the same steps, where all of them have values."""
    steps = np.linspace(max(c.steps[0] for c in curves), min(c.steps[-1] for c in curves), POINTS)
    return Curve(steps, np.stack([np.interp(steps, c.steps, c.values) for c in curves]))


def draw_curves(axis: Axes, runs: Sequence[Rows], name: str, label: str, color: str, smooth: int):
    """A metric of several runs of a set: each thin, their mean thick, its 95 % interval shaded."""
    curves = [c for c in (curve(rows, name, smooth) for rows in runs) if c is not None]
    if not curves:
        return
    for one in curves if len(curves) > 1 else []:
        axis.plot(one.steps, one.values, color=color, linewidth=0.5, alpha=0.5)
    middle = together(curves) if len(curves) > 1 else Curve(curves[0].steps, curves[0].values[None])
    axis.plot(middle.steps, middle.values.mean(axis=0), color=color, label=label, linewidth=1.5)
    if len(curves) > 2:
        low, high = statistics.curve_interval(middle.values)
        axis.fill_between(middle.steps, low, high, color=color, alpha=0.2, linewidth=0)


def grid(panels: int) -> tuple[Figure, list[Axes]]:
    """An empty figure of so many panels, three in a row."""
    columns = min(3, panels)
    lines = -(-panels // columns)
    figure = Figure(figsize=(4.4 * columns + 2 * (columns == 1), 3.3 * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[panels:]:
        axis.axis("off")
    return figure, axes[:panels]


def curves_picture(
    metrics: Mapping[str, Mapping[str, Sequence[Rows]]],
    panels: Sequence[tuple[str, str]],
    path: Path,
    smooth: int = 10,
) -> None:
    """Curves of every set, a panel for each task and metric.

    Args:
      metrics: lines of metrics of the runs of a task, by set and task.
      panels: pairs of a task and a metric.
      path: of the PNG.
      smooth: see `curve`.
    """
    figure, axes = grid(len(panels))
    for axis, (task, name) in zip(axes, panels):
        for number, (label, tasks) in enumerate(metrics.items()):
            draw_curves(axis, tasks.get(task, ()), name, label, f"C{number % 10}", smooth)
        axis.set(title=f"{task}: {TITLES.get(name, name)}", xlabel="environment steps")
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
    # No panel need have all of them.
    lines = [axis.get_legend_handles_labels() for axis in axes]
    handles = {label: line for pair in lines for line, label in zip(*pair)}
    if known := [label for label in metrics if label in handles]:
        shown = [handles[label] for label in known]
        figure.legend(shown, known, loc="outside lower center", ncols=3, fontsize=8)
    save(figure, path)


def intervals_picture(
    aggregates: Mapping[str, Mapping[str, Interval]], unit: str, path: Path
) -> None:
    """Aggregates of every set with their intervals, a panel for each aggregate.

    Args:
      aggregates: by set and name of the aggregate.
      unit: of the scores.
      path: of the PNG.
    """
    sets, names = list(aggregates), list(next(iter(aggregates.values())))
    figure = Figure(figsize=(3 * len(names) + 1, 1 + 0.4 * len(sets)), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names):
        for number, one in enumerate(sets):
            value, low, high = aggregates[one][name]
            axis.barh(number, high - low, left=low, height=0.6, color=f"C{number % 10}", alpha=0.5)
            axis.plot([value, value], [number - 0.3, number + 0.3], color="black", linewidth=1.5)
        axis.set(title=name, yticks=range(len(sets)), yticklabels=sets)
        axis.use_sticky_edges = False
        axis.margins(x=0.04)
        axis.grid(alpha=0.3, axis="x")
    axes[0].invert_yaxis()
    figure.supxlabel(unit, fontsize=9)
    save(figure, path)


def profiles_picture(scores: Mapping[str, np.ndarray], unit: str, path: Path) -> None:
    """Performance profiles: the share of runs above each score.

    Args:
      scores: normalised `[R, T]` by set.
      unit: of the scores.
      path: of the PNG.
    """
    largest = max(float(np.nanmax(values)) for values in scores.values())
    least = min(0.0, *(float(np.nanmin(values)) for values in scores.values()))
    thresholds = np.linspace(least, largest, 201)
    figure, (axis,) = grid(1)
    for label, values in scores.items():
        axis.step(thresholds, statistics.profile(values, thresholds), label=label, where="post")
    axis.set(xlabel=f"{unit} (t)", ylabel="share of runs with a score above t", ylim=(-0.02, 1.02))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG that a README can show."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
