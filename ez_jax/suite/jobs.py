"""A list of runs, worked off by one or more processes on one or more machines."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from ez_jax.config import Config, differences, to_dict
from ez_jax.runner.workdir import read_json, to_config
from ez_jax.suite.claims import Claims

OUTPUT = "output.txt"
"""What a run prints, in its work directory."""
SETTINGS = "settings.json"
"""Settings of all seeds of a set's task, in the folder above them."""
AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN)
"""Errors of a file server that is away for a while."""
SCORED = ("eval_episodes", "eval_simulations")
"""Settings of the section `run` that change scores; the others change no number."""


class Job(NamedTuple):
    """A run to make."""

    set: str  # what is compared: preset and switch
    task: str
    config: Config
    workdir: Path  # <folder>/<set>/<task>/seed<k>
    command: tuple[str, ...]  # script and options

    @property
    def name(self) -> str:
        return f"{self.set}/{self.task}/{self.workdir.name}"


class Ended(NamedTuple):
    """How a call of `work` ended."""

    failed: dict[str, int]  # names of runs with the exit status of their process
    stopped: int  # number of the signal that stopped it, 0 for none


class Running(NamedTuple):
    job: Job
    process: subprocess.Popen
    output: IO[str]
    place: int  # which of the `at_once` shares of the machine it has


def finished(job: Job) -> dict[str, Any] | None:
    """The result of a run whose budget is spent and whose games are played."""
    try:
        result = json.loads((job.workdir / "result.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    done = "eval_mean" in result and result["env_steps"] >= job.config.env_steps
    return result if done else None


def progress(job: Job) -> dict[str, Any]:
    """The newest line of metrics of a run, empty before the first."""
    try:
        with (job.workdir / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 10_000))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(line)
    return {}


def agree(jobs: Sequence[Job]) -> None:
    """Writes the settings of each set and task down, or compares them with those that are there.

    Raises:
      ValueError: the folder holds runs of other settings; names the fields.
    """
    wanted = {job.workdir.parent: _common(to_dict(job.config)) for job in jobs}
    for folder, settings in wanted.items():
        path = folder / SETTINGS
        if path.exists():
            saved = {"run": settings["run"]} | read_json(path)  # older ones do not tell these
            with contextlib.suppress(ValueError):  # of another version: the fields tell
                # A field that is newer than the set has its default.
                saved = _common(to_dict(to_config(saved)))
            if found := differences(saved, settings):
                raise ValueError(f"{folder} holds runs with other settings: " + "; ".join(found))
    for folder, settings in wanted.items():
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / SETTINGS
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(settings, indent=1) + "\n")
        temporary.replace(path)


def _common(settings: dict[str, Any]) -> dict[str, Any]:
    """Of the settings of a run those that all seeds of a set must have."""
    return settings | {"seed": 0, "run": {name: settings["run"][name] for name in SCORED}}


def work(
    jobs: Sequence[Job],
    folder: Path,
    *,
    at_once: int = 1,
    show: Callable[[Sequence[Running], "Counts"], None] = lambda running, counts: None,
    say: Callable[[str], None] = print,
    claims: Claims | None = None,
    poll_s: float = 1.0,
) -> Ended:
    """Makes all runs that are not finished, until every one is or has failed.

    Runs that other processes have claimed are waited for, and taken over where these die.

    Args:
      jobs: in the order in which they are begun.
      folder: common to all that share the list.
      at_once: runs beside each other; the cores of this machine are split among them.
      show: called every moment with what runs.
      say: called with each event.
      claims: of this process, by default new ones.
      poll_s: seconds between two looks.
    """
    failed: dict[str, int] = {}
    done: dict[str, dict[str, Any]] = {}  # results by name, which never change: read once each
    running: list[Running] = []
    signals: list[int] = []

    def look(mine: Claims) -> bool:
        """Notes what has ended, and begins what is free; whether anything is left."""
        for one in [r for r in running if r.process.poll() is not None]:
            result = finished(one.job)
            running.remove(one)
            one.output.close()
            mine.release(one.job.workdir)
            if result is None:
                failed[one.job.name] = one.process.returncode
                said = f"failed with status {one.process.returncode}"
                say(f"{one.job.name} {said}; see {one.job.workdir / OUTPUT}")
            else:
                done[one.job.name] = result
                say(f"{one.job.name}: {result['eval_mean']:.2f}")
        busy = {one.job.name for one in running}
        left = []
        for job in jobs:
            if job.name in failed or job.name in done or job.name in busy:
                continue
            if (result := finished(job)) is not None:
                done[job.name] = result
            else:
                left.append(job)
        for job in left:
            if len(running) >= at_once:
                break
            if mine.take(job.workdir):
                if finished(job) is not None:  # by its owner, a moment ago
                    mine.release(job.workdir)
                    continue
                place = min(set(range(at_once)) - {one.place for one in running})
                running.append(_start(job, place, at_once))
                say(f"{job.name} begins")
        return bool(left or running)

    with claims or Claims(folder) as mine, _signals(signals.append):
        waiting = False
        try:
            while not signals:
                try:
                    if not look(mine):
                        break
                    waiting = False
                except OSError as error:
                    if error.errno not in AWAY:
                        raise
                    if not waiting:
                        say(f"waiting for the files of {folder}: {error}")
                    waiting = True
                seconds = sum(result.get("wall_s", 0.0) for result in done.values())
                show(running, Counts(len(done), len(failed), len(jobs), seconds))
                time.sleep(poll_s)
        finally:
            for one in running:
                one.process.send_signal(signal.SIGTERM)
            for one in running:
                one.process.wait()
                one.output.close()
    return Ended(failed, signals[0] if signals else 0)


class Counts(NamedTuple):
    """Of a list of runs."""

    done: int
    failed: int
    total: int
    seconds: float  # that those which are done took together


def _start(job: Job, place: int, at_once: int) -> Running:
    """A run in the background, with its share of the machine."""
    output = (job.workdir / OUTPUT).open("a")
    variables: dict[str, str] = {}
    if at_once > 1:  # of a GPU's memory
        variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / at_once:.3f}"
    process = subprocess.Popen(
        [sys.executable, "-m", "ez_jax.suite.tied", *job.command],
        env=variables | os.environ,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C comes to it from here alone
    )
    if at_once > 1 and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        share = cores[place % len(cores) :: at_once] or cores
        with contextlib.suppress(ProcessLookupError):  # it ended at once
            os.sched_setaffinity(process.pid, share)
    return Running(job, process, output, place)


@contextlib.contextmanager
def _signals(stop: Callable[[int], None]) -> Iterator[None]:
    """Calls `stop` on Ctrl-C and SIGTERM."""
    before = {
        number: signal.signal(number, lambda found, _: stop(found))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
