"""Noticing that another process is lost, and ending this one with a line that says so.

JAX itself notices after its heartbeat, and then aborts without a word that helps. Here a thread of
each process says every second that it lives, and looks at the others. A thread of Python stands
still with its process (SIGSTOP) and goes on while the main thread waits for a collective.
"""

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from ez_jax.hosts.store import POLL_S, Group

BEAT_S = 1.0
LOST_S = 12.0
"""Silence after which a process is taken for lost. A process whose machine is busy is silent for a
second or two."""
RETRY = 75
"""Exit status after another process was lost (EX_TEMPFAIL): the same command goes on with
--resume."""
HOW = "the last checkpoint is whole; go on with the same command and --resume"


class Peers:
    """The thread, and what it looks at."""

    def __init__(self, group: Group):
        self._group = group
        self._seen = {i: ("", time.monotonic()) for i in range(group.count) if i != group.index}
        self._cycle = time.monotonic()
        self._stuck_after = 0.0
        self._beat = time.monotonic()
        self._started = False
        self._over = threading.Event()
        self.look: dict[str, Callable[[], None]] = {}  # called at each beat
        self.lost: Callable[[int, str], None] = end
        self.status = 0
        """Exit status of this process, once its work is done; `abandon` has its own."""

    def start(self) -> None:
        """Begins to beat, and to look, unless it does already."""
        if self._started:
            return
        self._started = True
        for run in (self._run, self._watch_service) if self._group.index else (self._run,):
            threading.Thread(target=run, daemon=True, name="peers").start()

    def stop(self) -> None:
        """Nobody is missed any more."""
        self._over.set()

    def cycle(self, stuck_after: float) -> None:
        """The main thread has ended a cycle; after so many seconds without another it is stuck (0:
        it may take its time).
        """
        self._cycle, self._stuck_after = time.monotonic(), stuck_after

    def _run(self) -> None:
        beats, store, me = 0, self._group.store, self._group.index
        while not self._over.wait(BEAT_S):
            beats += 1
            try:
                store.put(f"alive/{me}", f"{beats}")
                for peer in self._seen:
                    self._check(peer, store.get(f"alive/{peer}"), store.get(f"ended/{peer}"))
                for look in list(self.look.values()):
                    look()
            except Exception as error:  # of XLA's own kinds
                if self._over.is_set() or me == 0:
                    raise
                self.lost(RETRY, f"lost process 0, the coordinator ({reason(error)}); {HOW}")
            self._beat = time.monotonic()
            waited = time.monotonic() - self._cycle
            if self._stuck_after and waited > self._stuck_after:
                self.leave(RETRY, f"no cycle has ended for {waited:.0f} s; {HOW}")

    def _watch_service(self) -> None:
        # A frozen coordinator lets a call to its store wait for minutes.
        while not self._over.wait(BEAT_S):
            silent = time.monotonic() - self._beat
            if silent > LOST_S + BEAT_S:
                self.lost(
                    RETRY, f"lost process 0, the coordinator: silent for {silent:.0f} s; {HOW}"
                )

    def _check(self, peer: int, beat: str | None, ended: str | None) -> None:
        if ended is not None:
            status, _, message = ended.partition(" ")
            if message or status != "0":
                self.lost(int(status), f"{message or 'it failed'} (process {peer})")
            self._seen[peer] = "", time.monotonic()  # it has done its work
            return
        before, since = self._seen[peer]
        if (beat or "") != before:
            self._seen[peer] = beat or "", time.monotonic()
        elif time.monotonic() - since > LOST_S:
            host = self._group.store.get(f"host/{peer}") or "an unknown host"
            self.lost(RETRY, f"lost process {peer} on {host}: silent for {LOST_S:.0f} s; {HOW}")

    def leave(self, status: int, message: str) -> None:
        """Ends this process, and lets the others know why."""
        try:
            self._group.store.put(f"ended/{self._group.index}", f"{status} {message}")
            if self._group.index == 0 and self._seen:
                time.sleep(3 * BEAT_S)  # as in `abandon`
        finally:
            self.lost(status, message)

    def abandon(self, status: int, message: str) -> NoReturn:
        """Ends this process after an error, said by process 0 or by whoever sees it first."""
        self.stop()
        self._group.store.put(f"ended/{self._group.index}", f"{status} {message}")
        if self._group.index == 0:
            print(message, file=sys.stderr, flush=True)
            time.sleep(3 * BEAT_S)  # the others read it from the store, which ends with process 0
        sys.stdout.flush()
        os._exit(status)

    def leave_in_order(self) -> None:
        """At the exit of the interpreter: process 0, which keeps the store, goes last."""
        if self._over.is_set():
            return
        self.stop()
        store, me = self._group.store, self._group.index
        store.put(f"ended/{me}", f"{self.status} ")
        if me:
            sys.stdout.flush()
            os._exit(self.status)  # JAX's own way out would ask a service that may be gone
        until = time.monotonic() + LOST_S
        for peer in self._seen:
            while store.get(f"ended/{peer}") is None and time.monotonic() < until:
                time.sleep(POLL_S)


def answer_abort(message: str) -> Callable[[], None]:
    """Says `message` where JAX's client aborts: it does so when the others do not come and when
    process 0 is gone, and takes no handler of Python's.

    Returns:
      what puts back the handler before, which may be another library's.
    """

    def handler(number: int) -> None:
        del number
        end(RETRY, message)

    global _handler  # must live as long as the process
    _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handler)
    signal_of_c = ctypes.CDLL(None).signal
    signal_of_c.argtypes, signal_of_c.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    before = signal_of_c(signal.SIGABRT, ctypes.cast(_handler, ctypes.c_void_p))
    return lambda: signal_of_c(signal.SIGABRT, before)


_handler: Any = None


def end(status: int, message: str) -> None:
    """Ends the process at once: JAX's own way out waits for all others at a barrier."""
    print(f"stopped: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def reason(error: BaseException) -> str:
    """The first line of an error, shortened."""
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:120]


def host_name() -> str:
    """Of this machine."""
    return socket.gethostname()
