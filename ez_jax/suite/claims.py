"""Who works on what in a folder that several machines share.

A claim is a file in the folder of a run that names its owner, and an owner shows by a second file,
touched every few seconds, that it is alive. The claim of an owner that has not shown itself for a
minute may be taken over. Ages are differences of times that the file server wrote, so that the
clocks of the machines do not matter.
"""

import contextlib
import os
import socket
import threading
import uuid
from pathlib import Path

CLAIM, TAKING = ".claim", ".claim-taking"


class Claims:
    """The claims of this process. A context: they are given back at its end.

    Args:
      folder: common to all that share the runs.
      beat_s: seconds between two signs of life.
      stale_s: seconds without one after which an owner is taken for dead.
    """

    def __init__(self, folder: Path, *, beat_s: float = 10.0, stale_s: float = 60.0):
        self._alive = folder / ".owners"
        self._stale_s, self._beat_s = stale_s, beat_s
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._mine: set[Path] = set()
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat_on, daemon=True)

    def __enter__(self) -> "Claims":
        self._alive.mkdir(parents=True, exist_ok=True)
        self._beat()
        for sign in self._alive.iterdir():  # one that is missing is as good as one that is old
            if self._is_stale(sign):
                sign.unlink(missing_ok=True)
        self._beats.start()
        return self

    def __exit__(self, *_: object) -> None:
        for workdir in list(self._mine):
            self.release(workdir)
        self._ended.set()
        self._beats.join()
        (self._alive / self.owner).unlink(missing_ok=True)

    def take(self, workdir: Path) -> bool:
        """Claims a run; False where another owner that is alive has it."""
        workdir.mkdir(parents=True, exist_ok=True)
        made = self._create(workdir / CLAIM) or self._read(workdir) == self.owner
        if not made and not self._take_over(workdir):
            return False
        self._mine.add(workdir)
        return True

    def release(self, workdir: Path) -> None:
        """Gives a claim back, unless it was taken over."""
        self._mine.discard(workdir)
        with contextlib.suppress(FileNotFoundError):
            if (workdir / CLAIM).read_text() == self.owner:
                (workdir / CLAIM).unlink()

    def owner_of(self, workdir: Path) -> str | None:
        """The living owner of a run, None where there is none."""
        owner = self._read(workdir)
        return None if owner is None or self._is_dead(owner, workdir) else owner

    def _read(self, workdir: Path) -> str | None:
        try:
            return (workdir / CLAIM).read_text()
        except FileNotFoundError:
            return None

    def _is_dead(self, owner: str, workdir: Path) -> bool:
        # One that died before it wrote its name: the claim has the age of that.
        return self._is_stale(self._alive / owner if owner else workdir / CLAIM)

    def _take_over(self, workdir: Path) -> bool:
        if self.owner_of(workdir) is not None:
            return False
        # One at a time, so that nobody takes what has just been taken over.
        taking = workdir / TAKING
        if taking.exists() and self._is_stale(taking):
            taking.unlink(missing_ok=True)
        if not self._create(taking):
            return False
        try:
            # Only the claim of a dead owner is taken away, which nobody else does meanwhile: where
            # it was given back, the next may have claimed the run already.
            owner = self._read(workdir)
            if owner is not None:
                if not self._is_dead(owner, workdir):
                    return False
                (workdir / CLAIM).unlink(missing_ok=True)
            return self._create(workdir / CLAIM)
        finally:
            taking.unlink(missing_ok=True)

    def _create(self, path: Path) -> bool:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w") as file:
            file.write(self.owner)
        return True

    def _is_stale(self, sign: Path) -> bool:
        try:
            then = sign.stat().st_mtime
        except FileNotFoundError:
            return True
        return self._beat() - then > self._stale_s

    def _beat(self) -> float:
        """Shows that this process is alive; returns the file server's time."""
        sign = self._alive / self.owner
        sign.touch()
        return sign.stat().st_mtime

    def _beat_on(self) -> None:
        while not self._ended.wait(self._beat_s):
            with contextlib.suppress(OSError):  # a server that is away for a while
                self._beat()
