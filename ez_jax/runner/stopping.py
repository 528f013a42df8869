"""Asking a run to stop, and measuring how long it took."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

GRACE_S = 15.0
"""Seconds until a run that does not come to the end of a cycle, because a program is being
compiled, ends without saving. Job managers kill 30 seconds after they asked."""


class Stopped(Exception):
    """The run was asked to stop, and is saved; `status` is the exit status of a command."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a flag; a second Ctrl-C interrupts at once.

    A signal handler of Python waits for the compiler, which can take minutes; a thread does not,
    and ends the process. What is on disk is complete at any time.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._previous: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._wakeup = -1
        self._over = threading.Event()

    @property
    def requested(self) -> bool:
        """Whether the run shall stop."""
        return self.signal != 0

    @property
    def status(self) -> int:
        """The exit status that tells a shell or a job manager of the signal: 130, 143."""
        return 128 + self.signal

    def obeyed(self) -> None:
        """The run has come to the end of a cycle, and may take its time to save."""
        self._over.set()

    def __enter__(self) -> "StopRequest":
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        except ValueError:  # not the main thread: signals are not ours
            self._previous.clear()
            return self
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(self._pipe[0],), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._pipe:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._pipe[1])  # ends the thread, which closes the other end
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _watch(self, pipe: int) -> None:
        # Python writes the number of each signal here at once, whatever the main thread does.
        while number := os.read(pipe, 1):
            if number[0] not in self._previous or self._over.wait(GRACE_S):
                continue
            print(
                f"stopped: the end of a cycle did not come within {GRACE_S:.0f} s; what was saved "
                "before is kept; go on with the same command and --resume",
                flush=True,
            )
            os._exit(128 + number[0])
        os.close(pipe)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


class Clock:
    """Seconds since the run began, over all its processes."""

    def __init__(self, before: float):
        self._before, self._start = before, time.monotonic()

    def __call__(self) -> float:
        return self._before + time.monotonic() - self._start
