"""Progress on the screen."""

import math
import time
from collections.abc import Mapping
from typing import Any

import rich.console
import rich.live
import rich.spinner

from ez_jax import hosts


class Progress:
    """One live line on a terminal, plain lines elsewhere (one every `seconds`)."""

    def __init__(self, env_steps: int, updates: int, peak: float, seconds: float = 10.0):
        """Shows progress towards a goal.

        Args:
          env_steps: environment steps of the whole run.
          updates: updates of the whole run.
          peak: FLOP a second that the devices reach.
          seconds: between two plain lines.
        """
        quiet = not hosts.first()
        self.console = rich.console.Console(highlight=False, soft_wrap=True, quiet=quiet)
        self._goal = env_steps, updates
        self._seconds = seconds
        self._last = -math.inf
        self._live: rich.live.Live | None = None
        self._peak = peak
        self._began: tuple[float, Mapping[str, Any]] | None = None

    def __enter__(self) -> "Progress":
        if self.console.is_terminal and not self.console.quiet:
            self._live = rich.live.Live(console=self.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live:
            self._live.stop()

    def status(self, text: str) -> None:
        """Says what is being done, until the first metrics."""
        if self._began is not None:
            return
        if self._live:
            self._live.update(rich.spinner.Spinner("dots", text))
        elif time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            self.console.print(text)

    def show(self, row: Mapping[str, Any]) -> None:
        """Shows the newest metrics: at least `env_steps, updates, episode_return, flop`."""
        now = time.monotonic()
        began, first = self._began = self._began or (now, row)
        done, seconds = row["updates"] - first["updates"], now - began
        rate = done / seconds if done and seconds else None
        share = (row["flop"] - first["flop"]) / seconds / self._peak if rate else None
        left = None if rate is None else (self._goal[1] - row["updates"]) / rate
        cells = {
            "steps": f"{row['env_steps']:,}/{self._goal[0]:,}",
            "return": _number(row.get("episode_return")),
            "left": "-" if left is None else _clock(left),
            "updates": f"{row['updates']:,}/{self._goal[1]:,}",
            "updates/s": "-" if rate is None else f"{rate:.1f}",
            "of peak": "-" if share is None else f"{share:.0%}",
            **{
                name.removeprefix("loss/"): _number(value)
                for name, value in row.items()
                if name.startswith("loss/")
            },
        }
        if self._live:
            self._live.update(line(cells, self.console.width))
        elif now - self._last >= self._seconds or row["updates"] >= self._goal[1]:
            self._last = now
            self.console.print(line(cells))


def line(cells: Mapping[str, str], width: int | None = None) -> str:
    """Names and values on one line: the first of them, as many as `width` columns hold."""
    text = ""
    for name, value in cells.items():
        longer = f"{text}  {name} {value}".lstrip()
        if width is not None and len(longer) > width:
            break
        text = longer
    return text


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3g}"
