"""One run in a work directory at a time."""

import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ez_jax import hosts
from ez_jax.runner.workdir import RunError

NAME = ".lock"


@contextmanager
def locked(workdirs: Sequence[Path]) -> Iterator[None]:
    """Holds the work directories, made where they are missing.

    The kernel lets go of the lock of a process that died, so that a requeued job goes on.

    Raises:
      RunError: another process holds one, or one cannot be made or locked.
    """
    with ExitStack() as held:

        def hold() -> None:
            for workdir in workdirs if hosts.first() else ():
                _hold(workdir, held)

        hosts.together(hold)
        yield


def _hold(workdir: Path, held: ExitStack) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = held.enter_context((workdir / NAME).open("a+"))
    except OSError as error:
        raise RunError(f"cannot write to {workdir}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise RunError(f"{workdir} is in use by {holder}") from None
    except OSError as error:
        raise RunError(f"cannot lock {workdir}: {error.strerror}") from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
