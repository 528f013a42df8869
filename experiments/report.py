"""A page about finished runs: scores, aggregates with intervals, curves.

    python experiments/report.py --sets runs/suite/* --output=runs/report
    python experiments/report.py --sets runs/Pong-cpu-seed0 --panels episode_return policy/entropy
    python experiments/report.py --sets experiments/results/small_tasks

A set is what is compared: a folder of work directories, one work directory, or an archive with a
`runs.json`, each of whose variants is a set. Scores of Atari are human-normalised, returns of
DeepMind Control divided by 1000; other returns are not averaged over tasks.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from ez_jax.cli import expanded


@dataclass(frozen=True)
class Args:
    sets: tuple[Path, ...]
    """Folders, a set each."""
    output: Path = Path("report")
    """Folder for README.md and its pictures."""
    panels: tuple[str, ...] = ("episode_return",)
    """Metrics whose curves are drawn, for each task."""


def main(argv: list[str] | None = None) -> int:
    args = expanded(tyro.cli(Args, args=argv, description=__doc__))
    from ez_jax.suite.report import write  # not for --help, which answers at once
    from ez_jax.suite.results import collect, finished_in

    try:
        if not args.sets:
            raise ValueError("name at least one set")
        page = write(collect(args.sets), args.output, args.panels)
        for folder in args.sets:
            if not finished_in(folder):
                print(f"left out: no run in {folder} is finished")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
