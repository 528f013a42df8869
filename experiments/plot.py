"""Draws the curves of runs against environment steps.

    python experiments/plot.py --workdirs runs/Pong-cpu-seed0 --output=pong.png
    python experiments/plot.py --workdirs runs/CartPole-v1-ablation/* --panels episode_return
    python experiments/plot.py --workdirs experiments/results/small_tasks/catch.jsonl.gz

What is named is one run, a folder of runs in seed<k>, or an archive of metrics: of several seeds
each is a thin line, and their mean a thick one.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import tyro

from ez_jax.runner.metrics import read_metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt

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


@dataclass(frozen=True)
class Args:
    workdirs: tuple[Path, ...]
    """Work directories or archives of metrics, one colour each."""
    output: Path = Path("curves.png")
    """Picture to write."""
    panels: tuple[str, ...] = (
        "episode_return",
        "loss/value",
        "loss/policy",
        "loss/value_prefix",
        "loss/consistency",
        "target/value",
    )
    """Names of metrics, a panel each."""
    smooth: int = 10
    """Lines of metrics that a point of a curve averages, returns aside."""


class Curve(NamedTuple):
    steps: np.ndarray  # [lines]
    values: np.ndarray  # [lines]


def curve(rows: list[dict], name: str, smooth: int) -> Curve | None:
    """One metric of a run, None where it never had a value."""
    known = [(row["env_steps"], row[name]) for row in rows if row.get(name) is not None]
    if not known:
        return None
    steps, values = map(np.array, zip(*known))
    if name != "episode_return" and len(values) >= smooth:
        steps, values = steps[smooth - 1 :], np.convolve(values, np.ones(smooth) / smooth, "valid")
    return Curve(steps, values)


def mean(curves: list[Curve]) -> Curve:
    """Mean over runs where all of them have values."""
    steps = np.linspace(max(c.steps[0] for c in curves), min(c.steps[-1] for c in curves), POINTS)
    return Curve(steps, np.mean([np.interp(steps, c.steps, c.values) for c in curves], axis=0))


def draw(args: Args) -> None:
    columns = min(3, len(args.panels))
    lines = -(-len(args.panels) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(4.4 * columns + 2 * (columns == 1), 3.3 * lines),
        squeeze=False,
        layout="constrained",
    )
    for number, workdir in enumerate(args.workdirs):
        found = list(read_metrics(workdir).values())
        for axis, name in zip(axes.flat, args.panels):
            curves = [c for c in (curve(rows, name, args.smooth) for rows in found) if c]
            if not curves:
                continue
            color = f"C{number % 10}"
            for c in curves if len(curves) > 1 else []:
                axis.plot(c.steps, c.values, color=color, linewidth=0.5, alpha=0.5)
            middle = mean(curves) if len(curves) > 1 else curves[0]
            axis.plot(
                middle.steps,
                middle.values,
                color=color,
                label=workdir.name.removesuffix(".jsonl.gz"),
                linewidth=1.5,
            )
            axis.set(title=TITLES.get(name, name), xlabel="environment steps")
            axis.grid(alpha=0.3)
    if drawn := [axis for axis in axes.flat if axis.lines]:
        drawn[0].legend(fontsize=8)
    for axis in list(axes.flat)[len(args.panels) :]:
        axis.axis("off")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=90)


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv, description=__doc__)
    missing = [w for w in args.workdirs if not read_metrics(w)]
    if missing or not args.workdirs:
        print(
            f"error: {missing[0] / 'metrics.jsonl'} is missing"
            if missing
            else "error: name at least one work directory",
            file=sys.stderr,
        )
        return 2
    draw(args)
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
