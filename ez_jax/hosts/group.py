"""What the processes of a run do together. See the package."""

import contextlib
import json
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np

from ez_jax.hosts.meeting import Meeting
from ez_jax.hosts.peers import LOST_S, Peers, reason
from ez_jax.hosts.store import Group

T = TypeVar("T")
SEEN_S = 10.0
"""Time for a file to be seen on another host: network file systems keep what folders held."""

group = Group()
"""Of this process."""
peers = Peers(group)


def become(joined: Group, watched: Peers) -> None:
    """Replaces the group of one."""
    global group, peers
    group, peers = joined, watched


def connected() -> bool:
    """Whether this process has joined others."""
    return group.count > 1


def first() -> bool:
    """Whether this is process 0, which owns files and screen."""
    return group.index == 0


def say(text: str, end: str = "\n") -> None:
    """Prints, in process 0."""
    if first():
        print(text, end=end, flush=True)


def agree(make: Callable[[], T]) -> T:
    """What process 0 makes, of the types of JSON, in all processes; the others wait for it."""
    if first():
        made = make()
        group.exchange_from_first(json.dumps(made))
        return made
    return json.loads(group.exchange_from_first(None))


def together(fn: Callable[[], T]) -> T:
    """`fn` in all processes, which wait for each other.

    Raises:
      ValueError: it raised one, or an `OSError`, in any process: that of this process, or of the
        first that did.
    """
    failed: ValueError | None = None
    made = None
    try:
        made = fn()
    except ValueError as error:
        failed = error
    except OSError as error:  # of the file system, before any work: a line for the user
        failed = ValueError(str(error))
        failed.__cause__ = error
    texts = group.exchange("together", "" if failed is None else str(failed) or "failed")
    if failed is not None:
        raise failed
    for index, text in enumerate(texts):
        if text:
            raise ValueError(f"{text} (process {index} on {group.store.get(f'host/{index}')})")
    return made  # type: ignore[return-value]  # nothing was raised


def same(found: dict[str, Any], differences: Callable[[dict, dict], list[str]]) -> None:
    """Checks that all processes have the same.

    Args:
      found: in this process.
      differences: names the entries in which two such differ.

    Raises:
      ValueError: names process, host and the first entries that differ.
    """
    texts = group.exchange("same", json.dumps(found, sort_keys=True, default=str))
    expected = json.loads(texts[0])
    for index, text in enumerate(texts):
        if lines := differences(expected, json.loads(text)):
            host = group.store.get(f"host/{index}")
            raise ValueError(
                f"process {index} on {host} is not as process 0: {'; '.join(lines[:3])}"
            )


def shared_folder(path: Path) -> None:
    """Checks that all processes see the folder `path`, or the nearest one above that is there.

    Raises:
      ValueError: one does not.
    """
    if group.count == 1:
        return
    path = path.absolute()
    token = None
    if first():
        above = next(folder for folder in (path, *path.parents) if folder.is_dir())
        token = above / f".ez_jax-{time.time_ns():x}"
    name = agree(lambda: str(token))
    try:
        together(lambda: _touch(token))
        together(lambda: _must_see(Path(name)))
    finally:
        if token is not None:
            token.unlink(missing_ok=True)


def _touch(token: Path | None) -> None:
    if token is None:
        return
    try:
        token.touch()
    except OSError as error:
        raise ValueError(f"cannot write to {token.parent}: {error.strerror}") from error


def _must_see(token: Path) -> None:
    until = time.monotonic() + SEEN_S
    while not token.exists():
        if time.monotonic() > until:
            raise ValueError(
                f"{token.parent} is not the folder that process 0 sees: --workdir must be on a "
                "file system that all hosts share"
            )
        time.sleep(0.1)


def own_part(array: Any, axis: int) -> np.ndarray:
    """The lanes of this process of an array that is split along `axis`; all of a whole one."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array)
    axis %= array.ndim
    parts = {shard.index[axis].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)], axis)


def meeting(stuck_after: float) -> Meeting:
    """Of the processes of this run."""
    return Meeting(group, peers, stuck_after)


@contextlib.contextmanager
def guard(*agreed: type[BaseException]) -> Iterator[None]:
    """Around all work: an exception in one process ends all.

    One that another process caused, by its end, waits until it is known who it was. Alone, an
    exception goes its way.

    Args:
      agreed: what all processes raise alike, and may clean up after.
    """
    try:
        yield
    except BaseException as error:
        if group.count == 1 or isinstance(error, agreed):
            raise
        if isinstance(error, SystemExit) and isinstance(error.code, int):
            peers.abandon(error.code, f"process {group.index} refused its command line")
        if isinstance(error, ValueError):
            _wait_for_the_cause(error)
            peers.abandon(2, f"error: {error}")
        end_all(type(error), error, error.__traceback__)


def end_all(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> NoReturn:
    """Ends all processes for an exception that this one does not catch; a `sys.excepthook`."""
    _wait_for_the_cause(error)
    if isinstance(error, KeyboardInterrupt):
        peers.abandon(130, "interrupted; go on with the same command and --resume")
    traceback.print_exception(kind, error, trace)
    peers.abandon(1, f"process {group.index} failed: {kind.__name__}: {reason(error)}")


def _wait_for_the_cause(error: BaseException) -> None:
    if _is_of_others(error):
        time.sleep(LOST_S + 5)  # the thread of `peers` ends this process meanwhile


def _is_of_others(error: BaseException) -> bool:
    marks = ("gloo", "nccl", "coordination", "unavailable", "connection", "barrier", "peer")
    return not isinstance(error, KeyboardInterrupt) and any(m in str(error).lower() for m in marks)


def leave(status: int, message: str) -> None:
    """Ends this process at once, and the others with it."""
    peers.leave(status, message)


def describe() -> str:
    """How many processes and devices there are, for the first line of a run; nothing for one."""
    return f"{group.count} processes with {jax.device_count()} devices; " if connected() else ""


def finish(status: int) -> int:
    """Notes the exit status of the command that is done; returns it."""
    peers.status = status
    return status
