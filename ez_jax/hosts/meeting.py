"""All processes stop after the same cycle."""

import threading

from ez_jax.hosts.peers import Peers
from ez_jax.hosts.store import Group, wait_for


class Meeting:
    """Agrees on the last cycle of a run that was asked to stop.

    Any process may call. Each then names the cycle that it is in, by a thread, so that one which
    waits for a collective names it too; all go on to the latest of these. A query costs a lock.

    Args:
      group: the processes.
      peers: the thread of this one.
      stuck_after: seconds without a cycle after which a process is taken for stuck.
    """

    def __init__(self, group: Group, peers: Peers, stuck_after: float):
        self._group, self._peers, self._stuck_after = group, peers, stuck_after
        self._key = self._group.new_key("stop")
        self._lock = threading.Lock()
        self._cycle = 0
        self._mine: int | None = None
        self._until: int | None = None
        self.signal = 0

    def __enter__(self) -> "Meeting":
        self._peers.start()
        self._peers.look[self._key] = self._notice
        self._peers.cycle(self._stuck_after)
        return self

    def __exit__(self, *_: object) -> None:
        self._peers.look.pop(self._key)
        self._peers.cycle(0)

    def call(self, signal: int) -> None:
        """Asks all to stop; not for a signal handler, which may interrupt who holds the lock."""
        self._group.store.put(f"{self._key}/called", str(signal))
        self._notice()

    def _notice(self) -> None:
        called = self._group.store.get(f"{self._key}/called")
        with self._lock:
            if called is None or self._mine is not None:
                return
            self.signal, self._mine = int(called), self._cycle + 1
        self._group.store.put(f"{self._key}/{self._group.index}", str(self._mine))

    def end_of_cycle(self) -> bool:
        """Whether all stop here; to be asked once a cycle, in all processes alike."""
        self._peers.cycle(self._stuck_after)
        with self._lock:
            self._cycle += 1
            if self._mine is None or self._cycle < self._mine:
                return False
        if self._until is None:
            indices = range(self._group.count)
            named = [int(wait_for(self._group.store, f"{self._key}/{i}")) for i in indices]
            self._until = max(named)
        return self._cycle >= self._until

    def obeyed(self) -> None:
        """All have stopped, and may take their time to save."""
        self._peers.cycle(0)
