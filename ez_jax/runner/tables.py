"""Results of finished runs as a Markdown table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """The runs of one variant."""

    name: str
    results: list[dict[str, Any]]  # contents of `result.json`, by seed


def read(folders: Sequence[Path]) -> list[Row]:
    """The finished runs of each folder.

    Args:
      folders: work directories, folders of the work directories of several seeds, or archives with
        a `runs.json`, which hold several variants.

    Raises:
      ValueError: a folder has no finished run.
    """
    rows = []
    for folder in folders:
        if (folder / "runs.json").exists():
            variants: dict[str, list[dict[str, Any]]] = {}
            for run in json.loads((folder / "runs.json").read_text()):
                if run["result"] is not None:
                    variants.setdefault(run["variant"], []).append(run["result"])
        else:
            found = [json.loads(p.read_text()) for p in sorted(folder.glob("**/result.json"))]
            variants = {folder.name: found} if found else {}
        if not variants:
            raise ValueError(f"no finished run in {folder}: there is no result.json")
        for name, results in variants.items():
            rows.append(Row(name, sorted(results, key=lambda result: result["seed"])))
    return rows


def show(rows: Sequence[Row]) -> str:
    """The table."""
    lines = [
        "| run | task | steps | updates | return of each seed (mean of its episodes) | mean "
        "| time |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, results in rows:
        first = results[0]
        seeds = ", ".join(f"{r['eval_mean']:.2f}" for r in results)
        mean = sum(r["eval_mean"] for r in results) / len(results)
        if first.get("seeds_together", 1) > 1:
            time = f"{max(r['wall_s'] for r in results):.0f} s together"
        else:
            time = ", ".join(f"{r['wall_s']:.0f} s" for r in results)
        lines.append(
            f"| {name} | {first['game']} | {first['env_steps']:,} | "
            f"{first['updates']:,} | {seeds} | {mean:.2f} | {time} |"
        )
    return "\n".join(lines)
