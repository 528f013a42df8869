"""`metrics.jsonl` and scalars of boards: written each log interval, and read back."""

import gzip
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ez_jax import hosts
from ez_jax.runner.boards import Board

NAME = "metrics.jsonl"


class MetricsFile:
    """`metrics.jsonl` of one work directory, and the boards that show it, written by process 0.

    Resuming cuts the lines that were written after the checkpoint: they come again, the same but
    for times.
    """

    def __init__(self, workdir: Path, updates: int, boards: Sequence[Board] = ()):
        self.path = Path(workdir) / NAME
        self.boards = boards
        self._file: TextIO | None = None
        if not hosts.first():
            return
        if self.path.exists():
            kept = 0
            for line in self.path.read_bytes().splitlines(keepends=True):
                row = _row(line)
                if row is None or not line.endswith(b"\n") or row["updates"] > updates:
                    break
                kept += len(line)
            os.truncate(self.path, kept)  # what is kept is never out of the file
        self._file = self.path.open("a")

    def write(self, row: Mapping[str, float | int | None]) -> None:
        """Writes one line; what is not finite becomes null."""
        if self._file is None:
            return
        clean = {name: value if is_number(value) else None for name, value in row.items()}
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()
        shown = {
            name if "/" in name else f"run/{name}": value
            for name, value in clean.items()
            if value is not None and name not in ("updates", "wall_s")
        }
        for board in self.boards:
            board.scalars(shown, int(row["updates"] or 0))

    def result(self, result: Mapping[str, Any], video: Path | None) -> None:
        """Shows the end of the run."""
        for board in self.boards:
            board.result(result, video)

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *error: object) -> None:
        """Flushes and closes all, the boards also where the disk is full."""
        try:
            if self._file is not None:
                self._file.close()
        finally:
            for board in self.boards:
                board.close()


def _row(line: bytes) -> dict[str, Any] | None:
    """A line of metrics; None for one that a kill cut short."""
    try:
        return json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None


def is_number(value: float | int | None) -> bool:
    """Whether there is a value, and a finite one."""
    return value is not None and math.isfinite(value)


def read_metrics(path: Path, **which: Any) -> dict[str, list[dict[str, Any]]]:
    """The lines of metrics of one run, or of several seeds.

    Args:
      path: a work directory, a folder with the work directories `seed<k>`, or a file of lines,
        compressed if its name ends in `.gz`, in which a field `seed` tells several runs apart.
      **which: fields, such as variant and task of an archive: lines that have other values in them
        are left out.

    Returns:
      rows of each run by the name of its seed (`""` for a single run); empty if there is none. A
      last line that a kill cut short is left out.

    Raises:
      ValueError: another line cannot be read; names file and line.
    """
    path = Path(path)
    if (path / NAME).exists():
        path = path / NAME
    elif path.is_dir():
        found = {p.name: read_metrics(p) for p in sorted(path.glob("seed*"))}
        return {name: rows[""] for name, rows in found.items() if "" in rows}
    elif not path.exists():
        return {}
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    runs: dict[str, list[dict[str, Any]]] = {}
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if (row := _row(line)) is None:
            if number == len(lines):
                break
            raise ValueError(f"cannot read line {number} of {path}")
        if any(row.get(field, value) != value for field, value in which.items()):
            continue
        name = f"seed{row['seed']}" if "seed" in row else ""
        runs.setdefault(name, []).append(row)
    return runs
