"""Asking a run to stop, and measuring how long it took."""

import signal
import time
from types import FrameType
from typing import Any


class Stopped(Exception):
    """The run was asked to stop, and is saved."""


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a flag; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        except ValueError:  # not the main thread: signals are not ours
            self._previous.clear()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


class Clock:
    """Seconds since the run began, over all its processes."""

    def __init__(self, before: float):
        self._before, self._start = before, time.monotonic()

    def __call__(self) -> float:
        return self._before + time.monotonic() - self._start
