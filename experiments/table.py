"""Prints a Markdown table of finished runs: a row for each folder, a column for its seeds.

python experiments/table.py --workdirs runs/CartPole-v1-ablation/full runs/Pong-cpu-seed0
python experiments/table.py --workdirs experiments/results/cartpole_ablation
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from ez_jax.runner.tables import read, show


@dataclass(frozen=True)
class Args:
    workdirs: tuple[Path, ...]
    """Work directories, folders of runs in seed<k>, or archives with a `runs.json`."""


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv, description=__doc__)
    try:
        print(show(read(args.workdirs)))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
