"""What runs, what is done and how long the rest will take, on the screen."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ez_jax.suite.jobs import Counts, Running, progress


class Overview:
    """A live table where the screen is one, else a line for each event."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._shown = 0.0

    def __enter__(self) -> "Overview":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, event: str) -> None:
        """Prints a line above the table."""
        self._console.print(event, markup=False, highlight=False)

    def show(self, running: Sequence[Running], counts: Counts) -> None:
        """Draws the table anew, once a second at most."""
        if not self._console.is_terminal or time.monotonic() - self._shown < 1:
            return
        self._shown = time.monotonic()
        self._live.update(self.table(running, counts), refresh=True)

    def table(self, running: Sequence[Running], counts: Counts) -> Table:
        """A row for each run that is being made."""
        table = Table(title=f"{counts.done} of {counts.total} done, {counts.failed} failed")
        for name in ("run", "steps", "return", "left"):
            table.add_column(name, justify="left" if name == "run" else "right")
        remaining = 0.0
        for one in running:
            row, config = progress(one.job), one.job.config
            steps, updates = row.get("env_steps", 0), row.get("updates", 0)
            left = None
            if updates:
                left = row["wall_s"] * (config.total_updates / updates - 1)
                remaining += left
            score = row.get("episode_return")
            table.add_row(
                one.job.name,
                f"{steps:,}/{config.env_steps:,}",
                "-" if score is None else f"{score:.4g}",
                "-" if left is None else _time(left),
            )
        waiting = counts.total - counts.done - counts.failed - len(running)
        caption = f"{waiting} to come"
        if counts.done and running:
            ahead = (remaining + waiting * counts.seconds / counts.done) / len(running)
            caption += f", about {_time(ahead)} left"
        table.caption = caption
        return table


def _time(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"
