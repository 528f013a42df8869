"""Several processes on this machine: the same numbers, and nobody waits for ever."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import ROOT

from ez_jax.launch import free_port

TESTS = Path(__file__).parents[1]


def by_hand(count, index, port):
    """The variables that the documentation names."""
    return {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
    }


def by_slurm(count, index, port):
    """The variables of a Slurm job of one host."""
    return {
        "JAX_COORDINATOR_PORT": str(port),
        "SLURM_JOB_ID": "1234",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
    }


def start(words, folder, count=2, devices=1, variables=by_hand):
    """Starts processes of one group; each writes to a file of its own."""
    port, started = free_port(), []
    flag = f" --xla_force_host_platform_device_count={devices}"
    for index in range(count):
        several = variables(count, index, port)
        environment = os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + flag}
        environment |= several if count > 1 else {}
        with (folder / f"output-{index}").open("w") as output:
            started.append(
                subprocess.Popen(
                    [sys.executable, *words],
                    cwd=TESTS,
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def wait(processes, seconds=600):
    until = time.monotonic() + seconds
    try:
        return [process.wait(max(until - time.monotonic(), 0.1)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def output(folder, index):
    return (folder / f"output-{index}").read_text()


def begun(folder, processes, number=5):
    """Waits until process 0 has made some cycles."""
    path = folder / "cycle-0"
    while not path.exists() or int(path.read_text() or 0) < number:
        assert all(process.poll() is None for process in processes), output(folder, 0)
        time.sleep(0.05)


WORKER = ["-m", "helpers.process"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim, number, variables", [(0, signal.SIGTERM, by_hand), (1, signal.SIGINT, by_slurm)]
)
def test_a_signal_to_one_stops_all_at_the_same_cycle(tmp_path, victim, number, variables):
    processes = start([*WORKER, str(tmp_path)], tmp_path, variables=variables)
    begun(tmp_path, processes)
    processes[victim].send_signal(number)
    assert wait(processes, 60) == 2 * [128 + number], output(tmp_path, 0)
    stopped = [(tmp_path / f"stopped-{i}").read_text() for i in range(2)]
    assert stopped[0] == stopped[1]
    assert f"stopped at {stopped[0]}" in output(tmp_path, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_process_ends_the_others_and_they_say_who_it_was(tmp_path, victim, number):
    processes = start([*WORKER, str(tmp_path)], tmp_path)
    begun(tmp_path, processes)
    processes[victim].send_signal(number)
    other = 1 - victim
    assert wait([processes[other]], 60) == [75], output(tmp_path, other)
    said = output(tmp_path, other)
    assert f"stopped: lost process {victim}" in said and "--resume" in said
    processes[victim].kill()
    processes[victim].wait()


@pytest.mark.slow
@pytest.mark.parametrize("variables", [by_hand, by_slurm])
def test_processes_join_before_a_preset_is_chosen_by_their_devices(tmp_path, variables):
    """By `auto`, the default, which asks JAX; process 0 alone speaks."""
    words = [str(ROOT / "experiments/atari100k.py"), "--game=Pong", "--hours=4", "--dry-run"]
    assert wait(start(words, tmp_path, variables=variables)) == [0, 0], output(tmp_path, 1)
    assert "FLOP: acting" in output(tmp_path, 0) and "FLOP" not in output(tmp_path, 1)


@pytest.mark.slow
def test_an_error_in_one_ends_all(tmp_path):
    statuses = wait(start([*WORKER, str(tmp_path), "fail"], tmp_path), 60)
    assert statuses == [1, 1], output(tmp_path, 0)
    assert "process 1 failed: RuntimeError: a fault of its own" in output(tmp_path, 0)
    assert "a fault of its own" in output(tmp_path, 1)


@pytest.mark.slow
@pytest.mark.parametrize("fail", [False, True])
def test_a_script_of_ones_own(tmp_path, fail):
    """Without a command around it: it ends with 0, and an error in one process ends all."""
    script = (
        "import sys\nfrom ez_jax import hosts, setup\nsetup()\n"
        f"if {fail} and not hosts.first():\n    raise RuntimeError('a fault of its own')\n"
        "hosts.together(lambda: 0)\nprint('done')\n"
    )
    (tmp_path / "mine.py").write_text(script)
    statuses = wait(start([str(tmp_path / "mine.py")], tmp_path), 60)
    assert statuses == ([1, 1] if fail else [0, 0]), output(tmp_path, 0)
    assert "a fault of its own" in output(tmp_path, 0) if fail else "done" in output(tmp_path, 1)


@pytest.mark.slow
def test_a_command_line_that_one_refuses_ends_all(tmp_path):
    statuses = wait(start([*WORKER, str(tmp_path), "refuse"], tmp_path), 60)
    assert statuses == [2, 2], output(tmp_path, 0)
    assert "process 1 refused its command line" in output(tmp_path, 0)


@pytest.mark.parametrize("index", [0, 1])
def test_one_whose_peers_do_not_come_says_so(index, tmp_path):
    code = "from ez_jax.hosts import start; start.START_S = 1; start.connect()"
    variables = by_hand(2, index, free_port())
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True
    )
    assert ended.returncode == 75, ended.stderr
    assert "stopped: the other processes of this run did not come within 1 s" in ended.stderr


def test_an_abort_after_all_have_come_is_another_librarys_again():
    code = """
import faulthandler, os
faulthandler.enable()
from ez_jax.hosts.peers import answer_abort
answer_abort("nobody came")()
os.abort()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in ended.stderr and "nobody" not in ended.stderr


WORDS = {
    "jax/Catch": [str(ROOT / "experiments/classic.py"), "--env=jax/Catch", "--preset=debug"],
    "Pong": [str(ROOT / "experiments/atari100k.py"), "--game=Pong", "--preset=debug"],
}


def metrics(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "wall_s"} for row in rows]


def results(workdir):
    return metrics(workdir), (workdir / "eval.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["jax/Catch", "Pong"])
def test_processes_are_devices_and_a_run_moves_between_them(task, tmp_path):
    """One process with two devices; two processes that are stopped, and go on as one; to the bit,
    metrics and games."""
    words = [*WORDS[task], "--run.eval-episodes=2", "--run.checkpoint-every=20"]
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    (one,) = start([*words, f"--workdir={whole}"], tmp_path, count=1, devices=2)
    assert wait([one]) == [0], output(tmp_path, 0)
    processes = start([*words, f"--workdir={moved}"], tmp_path)
    lines = moved / "metrics.jsonl"
    while not (lines.exists() and lines.read_text().count("\n") >= 3):
        assert processes[0].poll() is None, output(tmp_path, 0)
        time.sleep(0.2)
    processes[1].send_signal(signal.SIGTERM)
    assert wait(processes) == [143, 143], output(tmp_path, 0)
    assert not (moved / "result.json").exists()
    (one,) = start([*words, f"--workdir={moved}", "--resume"], tmp_path, count=1, devices=2)
    assert wait([one]) == [0], output(tmp_path, 0)
    assert "resumed at" in output(tmp_path, 0)
    assert results(moved) == results(whole)


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(2, 1), (1, 2)], ids=["two to four", "four to two"])
def test_a_run_moves_between_two_and_four_devices(counts, tmp_path):
    """Saved by two processes with a device each, ended by one with four, and the reverse: the lanes
    stay the run's. (Each device draws its share of a batch from its own lanes.)
    """
    words = [*WORDS["jax/Catch"], "--run.eval-episodes=2"]
    workdir = tmp_path / "moved"
    devices = {1: 4, 2: 1}
    processes = start(
        [*words, f"--workdir={workdir}"], tmp_path, count=counts[0], devices=devices[counts[0]]
    )
    lines = workdir / "metrics.jsonl"
    while not (lines.exists() and lines.read_text().count("\n") >= 3):
        assert processes[0].poll() is None, output(tmp_path, 0)
        time.sleep(0.2)
    processes[0].send_signal(signal.SIGTERM)
    assert wait(processes) == counts[0] * [143], output(tmp_path, 0)
    before = metrics(workdir)
    go_on = [*words, f"--workdir={workdir}", "--resume"]
    processes = start(go_on, tmp_path, count=counts[1], devices=devices[counts[1]])
    assert wait(processes) == counts[1] * [0], output(tmp_path, 0)
    assert "resumed at" in output(tmp_path, 0)
    rows = metrics(workdir)
    assert rows[: len(before)] == before and rows[-1]["updates"] == 160
    steps = [row["env_steps"] for row in rows]
    assert steps == sorted(steps) and steps[-1] == 600


@pytest.mark.slow
def test_four_devices_of_one_process_and_of_two(tmp_path):
    """Equal up to the rounding of sums, which differ in their order, at the first updates."""
    words = [*WORDS["jax/Catch"], "--run.eval-episodes=2", "--run.log-every=1"]
    first = []
    for count in (1, 2):
        workdir = tmp_path / str(count)
        started = start([*words, f"--workdir={workdir}"], tmp_path, count, devices=4 // count)
        assert wait(started) == count * [0], output(tmp_path, 0)
        first.append(metrics(workdir)[:5])
    for row, other in zip(*first, strict=True):
        assert row["env_steps"] == other["env_steps"]
        for name in row:
            if name.startswith("loss/"):
                np.testing.assert_allclose(row[name], other[name], 1e-3, 1e-3, err_msg=name)


def newest(workdir):
    """Number of the newest whole checkpoint, 0 without one."""
    saved = [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdecimal()]
    return max(saved, default=0)


HASTY = """
import runpy, sys
from ez_jax.hosts import start
start.START_S = 60
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script that waits for a minute, not five, for a process that is lost before it came."""


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path):
    """SIGKILL of either process at random moments, resumed by two processes and by one with two
    devices in turn; the metrics and games are those of a run that nobody killed."""
    words = ["-c", HASTY, *WORDS["jax/Catch"], "--env-steps=4000", "--cycle.final-updates=0"]
    words += ["--run.checkpoint-every=10", "--run.eval-episodes=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    (one,) = start([*words, f"--workdir={whole}"], tmp_path, count=1, devices=2)
    assert wait([one]) == [0], output(tmp_path, 0)
    dice, kills, early = np.random.default_rng(0), 0, 0
    while kills < 20:
        count = 1 + kills % 2
        devices = 2 // count
        go_on = [*words, f"--workdir={killed}", "--resume"]
        processes = start(go_on, tmp_path, count=count, devices=devices)
        # A third of the kills come in the start and in compilation, the others in training.
        if dice.random() < 0.67:
            saved = newest(killed)
            while newest(killed) == saved and processes[0].poll() is None:
                time.sleep(0.05)
            time.sleep(dice.uniform(0.0, 1.5))
        else:
            time.sleep(dice.uniform(2.0, 10.0))
            early += 1
        victim = int(dice.integers(count))
        assert processes[victim].poll() is None, output(tmp_path, 0)  # not at its end already
        processes[victim].kill()
        statuses = wait(processes, 120)
        assert statuses[victim] == -signal.SIGKILL
        # The survivor says whom it lost, or never met the other.
        assert all(status for status in statuses), output(tmp_path, 1 - victim)
        kills += 1
    (one,) = start([*words, f"--workdir={killed}", "--resume"], tmp_path, count=1, devices=2)
    assert wait([one]) == [0], output(tmp_path, 0)
    assert "resumed at" in output(tmp_path, 0) and 0 < early < 10
    assert results(killed) == results(whole)


@pytest.mark.slow
def test_launcher_goes_on_after_a_loss(tmp_path):
    """Process 1 is killed; the launcher starts both again, and the run comes to its end."""
    workdir = tmp_path / "run"
    words = [*WORDS["jax/Catch"], f"--workdir={workdir}", "--run.eval-episodes=2"]
    launcher = [sys.executable, "-m", "ez_jax.launch", "--processes=2", "--retries=1", *words]
    with (tmp_path / "output").open("w") as out:
        process = subprocess.Popen(launcher, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    while not any(path.name.isdecimal() for path in workdir.glob("checkpoints/*")):
        assert process.poll() is None, (tmp_path / "output").read_text()
        time.sleep(0.2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    assert wait([process]) == [0], (tmp_path / "output").read_text()
    said = (tmp_path / "output").read_text()
    assert "[0] stopped: lost process 1" in said and "starting again, 1 retries left" in said
    assert "[0] resumed at" in said and (workdir / "result.json").exists()
