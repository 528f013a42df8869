"""Draws the curves of runs: return and losses against environment steps.

    python experiments/plot.py --workdirs runs/Pong-cpu-seed0 --output=pong.png
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import tyro

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

PANELS = {
    "episode_return": "mean raw return of the last 16 games", "loss/value": "value loss", "loss/policy": "policy loss",
    "loss/value_prefix": "value-prefix loss", "loss/consistency": "consistency loss (-5: perfect)",
    "target/value": "mean value target",
}  # fmt: skip


@dataclass(frozen=True)
class Args:
    workdirs: tuple[Path, ...]
    """Work directories, one curve each."""
    output: Path = Path("curves.png")
    """Picture to write."""
    smooth: int = 10
    """Lines of metrics that a point of a loss curve averages."""


def read(workdir: Path) -> list[dict]:
    """The lines of `metrics.jsonl`."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def draw(workdirs: tuple[Path, ...], output: Path, smooth: int) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(13, 6.5), layout="constrained")
    for workdir in workdirs:
        rows = read(workdir)
        for axis, (name, title) in zip(axes.flat, PANELS.items()):
            known = [(row["env_steps"], row[name]) for row in rows if row.get(name) is not None]
            if not known:
                continue
            x, y = map(np.array, zip(*known))
            if name != "episode_return" and len(y) >= smooth:
                y = np.convolve(y, np.ones(smooth) / smooth, "valid")
                x = x[smooth - 1 :]
            axis.plot(x, y, label=workdir.name, linewidth=1.2)
            axis.set(title=title, xlabel="environment steps")
            axis.grid(alpha=0.3)
    axes.flat[0].legend()
    figure.savefig(output, dpi=90)


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv, description=__doc__)
    missing = [w for w in args.workdirs if not (w / "metrics.jsonl").exists()]
    if missing or not args.workdirs:
        print(f"error: {missing[0] / 'metrics.jsonl'} is missing" if missing else "error: name at least one work directory",
              file=sys.stderr)
        return 2
    draw(args.workdirs, args.output, args.smooth)
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
