"""What other tools lose or mix without a word: refused in one line, and nothing is touched."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import (
    CATCH,
    command,
    load_script,
    metrics,
    options,
    status,
)

from ez_jax import restore, run
from ez_jax.cli import RunArgs, default_workdir, expanded
from ez_jax.config import replace
from ez_jax.envs import register
from ez_jax.envs.functional import Reset, Step
from ez_jax.presets import classic
from ez_jax.runner import train
from ez_jax.runner.checkpoint import CheckpointError, Checkpoints
from ez_jax.runner.lock import locked
from ez_jax.runner.progress import Progress, line
from ez_jax.runner.stopping import StopRequest
from ez_jax.runner.watch import blame
from ez_jax.runner.workdir import RunError

WORDS = ["--env=jax/Catch", "--preset=debug", *options(CATCH, classic("jax/Catch", debug=True))]


# WORK DIRECTORIES


@pytest.mark.parametrize("name", ["lr=[0.1]", "a\\b"])
def test_names_that_checkpoints_cannot_have(tmp_path, name):
    with pytest.raises(RunError, match="checkpoints cannot be read from"):
        run(CATCH, tmp_path / name / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_read_back_ends_the_run(tmp_path, monkeypatch):
    def unreadable(*_):
        raise CheckpointError("cannot read the checkpoint")

    monkeypatch.setattr(Checkpoints, "restore", unreadable)
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        run(CATCH, tmp_path / "run", evaluate_after=False)
    assert len(metrics(tmp_path / "run")) < 10  # at the first one


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot make .*file is not a folder"):
        run(CATCH, tmp_path / "file" / "run")


def test_errors_of_the_file_system_are_one_line(tmp_path, capsys):
    assert status("classic", *WORDS, f"--workdir={tmp_path / ('a' * 300)}") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "File name too long" in said and "Traceback" not in said


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = []
    monkeypatch.setattr(train, "_run_rest", lambda todo, *_: seen.append(todo) or [{}])
    run(CATCH, "~/runs/mine")
    assert seen[0][0].workdir == tmp_path / "runs" / "mine"
    assert default_workdir(RunArgs(workdir="~/one"), "task", "preset") == tmp_path / "one"
    with pytest.raises(CheckpointError, match=f"no run in {tmp_path / 'two'}"):
        restore("~/two")
    kind = load_script("export").Args
    found = expanded(kind(workdir=Path("~/three"), output=Path("here")))
    assert found == kind(workdir=tmp_path / "three", output=Path("here"))


def test_one_process_at_a_time(tmp_path):
    """The other's name is told; a dead holder's lock is free."""
    hold = (
        "import sys, time; from pathlib import Path; from ez_jax.runner.lock import locked\n"
        "with locked([Path(sys.argv[1])]): print('held', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"in use by process {other.pid} on ") as caught:
            run(CATCH, tmp_path)
        assert str(tmp_path) in str(caught.value)
        other.kill()
    with locked([tmp_path]):
        assert f"process {os.getpid()}" in (tmp_path / ".lock").read_text()
    assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
def test_a_failed_start_leaves_the_folder_free(tmp_path):
    """Stages that cannot be built: here a batch that four devices cannot share."""
    code = (
        "import sys; from ez_jax import run; from helpers.tiny import CATCH\n"
        "from ez_jax.config import replace\n"
        "run(replace(CATCH, env__num_envs=6), sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
    )
    assert "env.num-envs=6 is out of range: it must be a multiple of the 4" in done.stderr
    assert not (tmp_path / "run" / "config.json").exists()


# NUMBERS


class Paying:
    """Four steps an episode, each with the same reward but the first of 1."""

    num_actions = 2

    def __init__(self, reward):
        self.reward = reward

    def reset(self, key):
        return Reset(jnp.zeros((), jnp.int32), jnp.zeros(3))

    def step(self, state, action, key):
        state = state + 1
        reward = jnp.where(state >= 2, self.reward, 1.0)
        return Step(state, jnp.zeros(3), reward, state >= 4, jnp.zeros((), bool))


def test_what_was_no_number_first_is_blamed():
    """Of observations alone, of rewards alone, of both: the observations led to the rewards."""

    def of(frame, reward):
        ring = SimpleNamespace(frame=jnp.full((2, 5, 3), frame), reward=jnp.full((2, 5), reward))
        return blame(SimpleNamespace(replay=ring))

    assert of(0.0, 0.0) == ""
    assert of(0.0, jnp.nan) == "the environment gave rewards that are not finite; "
    for reward in (0.0, jnp.nan):
        assert of(jnp.inf, reward) == "the environment gave observations that are not finite; "


@pytest.mark.slow
def test_a_reward_that_is_no_number_is_named(tmp_path):
    register("test/Broken", lambda: Paying(jnp.nan))
    config = replace(CATCH, env__id="test/Broken")
    with pytest.raises(
        RunError,
        match=r"update \d+ is not finite: .*; the environment gave rewards that are not finite; "
        "no checkpoint was written$",
    ):
        run(config, tmp_path / "run")


@pytest.mark.slow
def test_targets_beyond_the_support_are_told_once(tmp_path, capsys):
    """Rewards of 10,000; a support of 30 atoms holds about 900."""
    register("test/Rich", lambda: Paying(1e4))
    config = replace(CATCH, env__id="test/Rich", replay__initial_priority="max")
    run(config, tmp_path / "run", evaluate_after=False)
    rows, said = metrics(tmp_path / "run"), capsys.readouterr().out
    assert all(0 < row["target/clipped"] <= 1 for row in rows)
    assert said.count("warning: values or value prefixes lie beyond the support") == 1
    # h(1e4) = sqrt(10,001) - 1 + 10 = 109.005, and a prefix of two rewards is h(2e4) = 160.4.
    assert rows[0]["target/largest"] > 109
    needed = int(said.partition("--network.support=")[2].split()[0])
    assert needed == np.ceil(rows[0]["target/largest"])


# STOPPING


@pytest.mark.slow
@pytest.mark.parametrize("number, expected", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_exit_status_tells_of_the_signal(tmp_path, number, expected):
    words = [*command("classic.py", *WORDS), f"--workdir={tmp_path / 'run'}", "--env-steps=5000"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        lines = tmp_path / "run" / "metrics.jsonl"
        while not (lines.exists() and lines.read_text()) and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(60) == expected


def test_a_run_that_does_not_come_to_the_end_of_a_cycle_ends_all_the_same():
    """As in a long compilation, where Python's handlers do not run."""
    code = (
        "import ctypes, os, signal; from ez_jax.runner import stopping\n"
        "stopping.GRACE_S = 0.5\n"
        "with stopping.StopRequest():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    ctypes.CDLL(None).sleep(60); ctypes.CDLL(None).sleep(60)\n"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 143 and "go on with the same command" in done.stderr
    assert time.monotonic() - start < 50


def test_an_obeyed_request_may_take_its_time(monkeypatch):
    monkeypatch.setattr("ez_jax.runner.stopping.GRACE_S", 2.0)
    with StopRequest() as stop:
        assert not stop.end_of_cycle()
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop.end_of_cycle():  # a thread hears of the signal
            time.sleep(0.01)
        time.sleep(2.5)
    assert stop.status == 143


# THE SCREEN


def test_one_line_that_fits():
    cells = {
        "steps": "1,200/100,000",
        "return": "-20.5",
        "left": "1:20:33",
        "updates": "300/38,500",
    }
    assert line(cells) == "steps 1,200/100,000  return -20.5  left 1:20:33  updates 300/38,500"
    assert line(cells, 40) == "steps 1,200/100,000  return -20.5"
    assert line(cells, 10) == ""


def test_what_it_does_is_said_until_the_first_metrics(capsys):
    with Progress(100, 10, 1e9, seconds=0) as progress:
        progress.status("warm-up: 0/50 random steps")
        progress.show(
            {"env_steps": 60, "updates": 1, "episode_return": 1.5, "flop": 0, "loss/value": 2}
        )
        progress.status("compiling")
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "warm-up: 0/50 random steps",
        "steps 60/100  return 1.5  left -  updates 1/10  updates/s -  of peak -  value 2",
    ]


# COMMANDS


@pytest.mark.slow
def test_modules_with_environments_of_ones_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_envs.py").write_text(
        "from ez_jax.envs import register\nfrom ez_jax.envs.catch import Catch\n"
        "register('mine/Catch', lambda: Catch(6, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    small = ["--env=mine/Catch", *WORDS[1:], f"--workdir={tmp_path / 'run'}", "--import", "my_envs"]
    assert status("classic", *small) == 0
    assert status("evaluate", f"--workdir={tmp_path / 'run'}", "--episodes=3", "--sticky=0.5") == 0
    (scores,) = (tmp_path / "run").glob("evaluate-*.csv")
    assert scores.name == "evaluate-3-sticky0_5.csv" and scores.read_text().count("\n") == 4
    found = json.loads(scores.with_suffix(".json").read_text())
    assert found["sticky"] == 0.5 and found["human_normalized"] is None
    assert status("classic", *small[:-1], "no_such_module", "--resume") == 2
    assert "error: cannot import no_such_module" in capsys.readouterr().err
