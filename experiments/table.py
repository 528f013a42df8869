"""Prints a Markdown table of finished runs: a row for each folder, a column for its seeds.

python experiments/table.py --workdirs experiments/results/cartpole/full
experiments/results/cartpole/td_target
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tyro


class Row(NamedTuple):
    """The runs of one folder."""

    folder: Path
    results: list[dict]  # by seed, what `result.json` holds


@dataclass(frozen=True)
class Args:
    workdirs: tuple[Path, ...]
    """Folders of runs, or of seed<k> folders."""


def read(workdirs: list[Path] | tuple[Path, ...]) -> list[Row]:
    """The finished runs of each folder.

    Raises:
      ValueError: a folder has none.
    """
    rows = []
    for workdir in workdirs:
        found = [json.loads(path.read_text()) for path in sorted(workdir.glob("**/result.json"))]
        if not found:
            raise ValueError(f"no finished run in {workdir}: there is no result.json")
        rows.append(Row(workdir, sorted(found, key=lambda r: r["seed"])))
    return rows


def show(rows: list[Row]) -> str:
    """The table."""
    lines = [
        "| run | task | steps | updates | return of each seed (mean of its episodes) | mean | time |",
        "|---|---|---|---|---|---|---|",
    ]
    for folder, results in rows:
        first = results[0]
        seeds = ", ".join(f"{r['eval_mean']:.2f}" for r in results)
        mean = sum(r["eval_mean"] for r in results) / len(results)
        if first["seeds_together"] > 1:
            time = f"{max(r['wall_s'] for r in results):.0f} s together"
        else:
            time = ", ".join(f"{r['wall_s']:.0f} s" for r in results)
        lines.append(
            f"| {folder.name} | {first['game']} | {first['env_steps']:,} | {first['updates']:,} | {seeds} | {mean:.2f} | "
            f"{time} |"
        )
    return "\n".join(lines)


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
