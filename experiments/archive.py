"""Results of finished runs in three files that a repository can hold.

    python experiments/archive.py --sets runs/suite/* --output=results/games
    python experiments/archive.py --sets runs/Pong-cpu-seed* --variant=cpu --output=results/games

Settings and results, the return of each game, and the lines of metrics: what `report.py` reads.
Runs are added to those that the folder has, in place of those of the same variant, task and seed.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from ez_jax.cli import expanded


@dataclass(frozen=True)
class Args:
    sets: tuple[Path, ...]
    """Work directories, or folders of those of several seeds and tasks."""
    output: Path
    """Folder of the archive."""
    variant: str = ""
    """Name of all of them together; by default each folder has its own."""
    every: int = 1
    """Keeps one line of metrics in so many, and the last."""


def main(argv: list[str] | None = None) -> int:
    args = expanded(tyro.cli(Args, args=argv, description=__doc__))
    from ez_jax.suite.archive import archive  # not for --help, which answers at once
    from ez_jax.suite.results import collect

    try:
        if not args.sets or args.every < 1:
            raise ValueError("name at least one set; --every must be at least 1")
        sets = collect(args.sets, args.variant)
        added = archive(sets, args.output, args.every)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for key in added:
        print(f"{key.variant}: {key.task}, seed {key.seed}")
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
