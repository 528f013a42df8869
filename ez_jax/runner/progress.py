"""Progress on the screen."""

import math
import time
from collections.abc import Mapping
from typing import Any

import rich.console
import rich.live
import rich.table


class Progress:
    """One live table on a terminal, plain lines elsewhere (one every `seconds`)."""

    def __init__(self, env_steps: int, updates: int, seconds: float = 10.0):
        self.console = rich.console.Console(highlight=False, soft_wrap=True)
        self._goal = env_steps, updates
        self._seconds = seconds
        self._last = -math.inf
        self._live: rich.live.Live | None = None
        self._began: tuple[float, int] | None = None

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._live = rich.live.Live(console=self.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live:
            self._live.stop()

    def show(self, row: Mapping[str, Any]) -> None:
        """Shows the newest metrics; `row` has at least `env_steps, updates, episode_return`."""
        now = time.monotonic()
        began, first = self._began = self._began or (now, row["updates"])
        done, seconds = row["updates"] - first, now - began
        rate = done / seconds if done and seconds else 0.0
        left = (self._goal[1] - row["updates"]) / rate if rate else None
        cells = {
            "steps": f"{row['env_steps']:,}/{self._goal[0]:,}",
            "updates": f"{row['updates']:,}/{self._goal[1]:,}",
            "updates/s": f"{rate:.1f}",
            "return": _number(row.get("episode_return")),
            **{
                name.removeprefix("loss/"): _number(value)
                for name, value in row.items()
                if name.startswith("loss/")
            },
            "left": "-"
            if left is None
            else f"{int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}",
        }
        if self._live:
            table = rich.table.Table(*cells)
            table.add_row(*cells.values())
            self._live.update(table)
        elif now - self._last >= self._seconds or row["updates"] >= self._goal[1]:
            self._last = now
            self.console.print("  ".join(f"{name} {value}" for name, value in cells.items()))


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3g}"
