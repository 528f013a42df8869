"""Asking a run to stop, and measuring how long it took."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from ez_jax import hosts

GRACE_S = 15.0
"""Seconds until a run that does not come to the end of a cycle, because a program is being
compiled, ends without saving. Job managers kill 30 seconds after they asked."""


class Stopped(Exception):
    """The run was asked to stop, and is saved; `status` is the exit status of a command."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


class StopRequest:
    """Turns Ctrl-C and SIGTERM at any process into a stop of all; a second Ctrl-C interrupts at
    once.

    A signal handler of Python waits for the compiler, which can take minutes; a thread does not,
    and ends the process. What is on disk is complete at any time.

    Args:
      stuck_after: see `hosts.meeting.Meeting`.
    """

    def __init__(self, stuck_after: float = 0.0) -> None:
        self._meeting = hosts.meeting(stuck_after)
        self._interrupted = False
        self._previous: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._wakeup = -1
        self._over = threading.Event()

    def end_of_cycle(self) -> bool:
        """Whether the run stops here; then it may take its time to save."""
        if not self._meeting.end_of_cycle():
            return False
        self._over.set()
        self._meeting.obeyed()
        return True

    @property
    def status(self) -> int:
        """The exit status that tells a shell or a job manager of the signal: 130, 143."""
        return 128 + self._meeting.signal

    def __enter__(self) -> "StopRequest":
        self._meeting.__enter__()
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
        self._meeting.__exit__()
        if self._pipe:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._pipe[1])  # ends the thread, which closes the other end
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _watch(self, pipe: int) -> None:
        # Python writes the number of each signal here at once, whatever the main thread does.
        while number := os.read(pipe, 1):
            if number[0] not in self._previous:
                continue
            self._meeting.call(number[0])
            if self._over.wait(GRACE_S):
                continue
            hosts.leave(
                128 + number[0],
                f"the end of a cycle did not come within {GRACE_S:.0f} s; what was saved before is "
                "kept; go on with the same command and --resume",
            )
        os.close(pipe)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._interrupted = True


class Clock:
    """Seconds since the run began, over all its processes."""

    def __init__(self, before: float):
        self._before, self._start = before, time.monotonic()

    def __call__(self) -> float:
        return self._before + time.monotonic() - self._start
