"""Who makes which run: claims, failures, signals, cores, and file servers that are away."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from ez_jax.presets import classic
from ez_jax.suite import jobs as jobs_lib
from ez_jax.suite.claims import Claims
from ez_jax.suite.jobs import Job, finished, work


def test_claims(tmp_path):
    """One owner at a time; one that is gone loses its claim, and cannot give it back any more."""
    run = tmp_path / "run"
    with Claims(tmp_path, beat_s=60, stale_s=60) as one, Claims(tmp_path, beat_s=60) as other:
        assert one.take(run) and not other.take(run)
        assert other.owner_of(run) == one.owner
        one.release(run)
        assert other.take(run) and not one.take(run)
        # No sign of life for two minutes, on the clock of the files.
        sign = tmp_path / ".owners" / other.owner
        os.utime(sign, (time.time() - 120,) * 2)
        assert one.owner_of(run) is None and one.take(run)
        other.release(run)
        assert other.owner_of(run) == one.owner
        # Its files are gone altogether, or it died before it wrote its name.
        (tmp_path / ".owners" / one.owner).unlink()
        assert other.take(run)
        empty = tmp_path / "empty"
        empty.mkdir()
        (empty / ".claim").touch()
        assert not one.take(empty)
        os.utime(empty / ".claim", (time.time() - 120,) * 2)
        assert one.take(empty)
    assert not list(tmp_path.rglob(".claim")) and not list((tmp_path / ".owners").iterdir())


def test_an_owner_shows_that_it_lives(tmp_path):
    """By itself, while it does other things."""
    run = tmp_path / "run"
    with Claims(tmp_path, beat_s=0.05) as one, Claims(tmp_path, beat_s=60) as other:
        assert one.take(run)
        sign, deadline = tmp_path / ".owners" / one.owner, time.time() + 60
        os.utime(sign, (time.time() - 120,) * 2)
        while other.owner_of(run) is None and time.time() < deadline:
            time.sleep(0.01)
        assert other.owner_of(run) == one.owner and not other.take(run)


def test_signs_of_the_dead_are_cleared_away(tmp_path):
    """By the next that begins; those of the living stay."""
    with Claims(tmp_path, beat_s=60) as dead, Claims(tmp_path, beat_s=60) as alive:
        os.utime(tmp_path / ".owners" / dead.owner, (time.time() - 120,) * 2)
        with Claims(tmp_path, beat_s=60) as new:
            signs = {sign.name for sign in (tmp_path / ".owners").iterdir()}
            assert signs == {alive.owner, new.owner}


def test_a_claim_that_two_want_goes_to_one(tmp_path):
    """While one takes over, another that saw the dead owner too gets nothing."""
    run = tmp_path / "run"
    with Claims(tmp_path, beat_s=60) as dead, Claims(tmp_path, beat_s=60) as other:
        assert dead.take(run)
        os.utime(tmp_path / ".owners" / dead.owner, (time.time() - 120,) * 2)
        (run / ".claim-taking").touch()
        assert not other.take(run)
        os.utime(run / ".claim-taking", (time.time() - 120,) * 2)  # it died in the middle
        assert other.take(run)


def fake_job(folder, name, code):
    """A run of a few lines of Python, which finds its folder in WORKDIR."""
    workdir = folder / "set" / name / "seed0"
    script = folder / f"{name}.py"
    script.write_text(f"import json, os, sys, time\nWORKDIR = {str(workdir)!r}\n{code}")
    return Job("set", name, classic("jax/Catch"), workdir, (str(script),))


DONE = """
with open(WORKDIR + "/count", "a") as file:
    file.write("x")
time.sleep(0.3)
with open(WORKDIR + "/result.json", "w") as file:
    json.dump({"eval_mean": 1.5, "env_steps": 12_000}, file)
"""


def test_failures_are_told_and_the_rest_is_made(tmp_path):
    jobs = [
        fake_job(tmp_path, "bad", "print('why'); sys.exit(3)"),
        fake_job(tmp_path, "good", DONE),
    ]
    said = []
    ended = work(jobs, tmp_path, at_once=2, say=said.append, poll_s=0.02)
    assert ended.failed == {"set/bad/seed0": 3} and not ended.stopped
    assert (jobs[0].workdir / jobs_lib.OUTPUT).read_text() == "why\n"
    assert any("failed with status 3" in line for line in said)
    assert finished(jobs[1]) and not list(tmp_path.rglob(".claim"))
    # Finished runs are not made again.
    work(jobs[1:], tmp_path, say=said.append, poll_s=0.02)
    assert (jobs[1].workdir / "count").read_text() == "x"


def test_a_file_server_that_is_away_for_a_while(tmp_path, monkeypatch):
    """Nothing is lost: it is waited for, and said once; with other errors runs save and end."""
    jobs, said, take = [fake_job(tmp_path, "one", DONE)], [], Claims.take
    errors = [OSError(errno.ESTALE, "stale file handle")] * 2

    def sometimes(claims, workdir):
        taken = take(claims, workdir)
        if errors:
            raise errors.pop()
        return taken

    monkeypatch.setattr(Claims, "take", sometimes)
    assert not work(jobs, tmp_path, say=said.append, poll_s=0.02).failed
    assert finished(jobs[0]) and sum("stale file handle" in line for line in said) == 1

    code = (
        "import signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open(WORKDIR + '/saved', 'w'), sys.exit(0)))\n"
        "open(WORKDIR + '/begun', 'w').close(); time.sleep(100)\n"
    )
    jobs = [fake_job(tmp_path, name, code) for name in ("two", "three")]

    def later(claims, workdir):
        if workdir == jobs[0].workdir:
            return take(claims, workdir)
        while not (jobs[0].workdir / "begun").exists():
            time.sleep(0.01)
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(Claims, "take", later)
    with pytest.raises(OSError, match="no space left"):
        work(jobs, tmp_path, at_once=2, say=said.append, poll_s=0.02)
    assert (jobs[0].workdir / "saved").exists() and not list(tmp_path.rglob(".claim"))


def test_a_run_that_another_has_is_waited_for_and_taken_over(tmp_path):
    job = fake_job(tmp_path, "one", DONE)
    said = []
    with Claims(tmp_path, beat_s=60) as other:
        assert other.take(job.workdir)
        sign = tmp_path / ".owners" / other.owner
        mine = Claims(tmp_path, beat_s=60, stale_s=1.0)
        begun = time.time()
        assert not work([job], tmp_path, say=said.append, claims=mine, poll_s=0.02).failed
        assert time.time() - begun > 1.0 and sign.exists()
    assert (job.workdir / "count").read_text() == "x"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_to_the_runs(tmp_path, number):
    """They save and end; what has not begun is left, and the claims are given back."""
    code = (
        "import signal\n"
        "def stop(*_):\n"
        "    open(WORKDIR + '/saved', 'w').close(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "open(WORKDIR + '/begun', 'w').close(); time.sleep(100)\n"
    )
    jobs = [fake_job(tmp_path, name, code) for name in ("one", "two")]
    sent = []

    def show(running, counts):
        if (jobs[0].workdir / "begun").exists() and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)

    ended = work(jobs, tmp_path, show=show, say=lambda text: None, poll_s=0.02)
    assert ended.stopped == number and not ended.failed
    assert (jobs[0].workdir / "saved").exists() and not jobs[1].workdir.exists()
    assert not list(tmp_path.rglob(".claim"))


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="there are no two cores to share",
)
def test_runs_beside_each_other_share_the_cores(tmp_path):
    code = (
        "while len(os.sched_getaffinity(0)) == " + str(len(os.sched_getaffinity(0))) + ":\n"
        "    time.sleep(0.01)\n"
        "with open(WORKDIR + '/result.json', 'w') as file:\n"
        "    cores = sorted(os.sched_getaffinity(0))\n"
        "    json.dump({'eval_mean': 1.5, 'env_steps': 12_000, 'cores': cores}, file)\n"
    )
    jobs = [fake_job(tmp_path, name, code) for name in ("one", "two")]
    work(jobs, tmp_path, at_once=2, say=lambda text: None, poll_s=0.02)
    shares = [set(finished(job)["cores"]) for job in jobs]
    assert set.union(*shares) == os.sched_getaffinity(0) and not set.intersection(*shares)


def test_a_run_ends_with_the_process_that_started_it(tmp_path):
    """SIGKILL of the suite: its run is gone at once, so that nobody else makes it beside it."""
    job = fake_job(tmp_path, "one", "open(WORKDIR + '/begun', 'w').close(); time.sleep(100)")
    job.workdir.mkdir(parents=True)
    code = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'ez_jax.suite.tied', "
    parent = subprocess.Popen([sys.executable, "-c", f"{code}{job.command[0]!r}])"])
    deadline = time.time() + 60
    while not (job.workdir / "begun").exists() and time.time() < deadline:
        time.sleep(0.02)
    # The run alone: the words of its parent have quotes between the two.
    running = f"pgrep -f ez_jax.suite.tied\\s+{job.command[0]}"
    assert subprocess.run(running.split(), capture_output=True).stdout
    parent.kill()
    parent.wait()
    while subprocess.run(running.split(), capture_output=True).stdout and time.time() < deadline:
        time.sleep(0.02)
    assert not subprocess.run(running.split(), capture_output=True).stdout
