"""Prints a Markdown table of finished runs: a row for each folder, a column for its seeds.

python experiments/table.py --workdirs experiments/results/cartpole/full
experiments/results/cartpole/td_target
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from ez_jax.runner.tables import read, show


@dataclass(frozen=True)
class Args:
    workdirs: tuple[Path, ...]
    """Folders of runs, or of seed<k> folders."""


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
