"""A run as a user sees it: files, determinism, kill and resume, orderly stops, clear errors."""

import json
import os
import re
import shlex
import shutil
import signal

import envpool
import pytest
from helpers.tiny import (
    BREAKOUT,
    BREAKOUT_WORDS,
    CARTPOLE,
    ROOT,
    assert_same_bits,
    call,
    command,
    load_script,
    metrics,
    start_and_wait,
    status,
)

from ez_jax import restore, run
from ez_jax.config import replace, to_dict, validate
from ez_jax.presets import DEBUG, PRESETS
from ez_jax.runner.checkpoint import CheckpointError, Checkpoints
from ez_jax.runner.workdir import RunError, check_settings

RESULT_FIELDS = {
    "game",
    "preset",
    "seed",
    "env_steps",
    "updates",
    "eval_mean",
    "eval_median",
    "eval_episodes",
    "human_normalized",
    "random_score",
    "human_score",
    "wall_s",
    "device",
    "versions",
    "command",
}
COMMAND = command("atari100k.py", *BREAKOUT_WORDS)


def test_writes_everything(reference):
    workdir, done = reference
    result = json.loads((workdir / "result.json").read_text())
    assert result.keys() >= RESULT_FIELDS
    assert result["env_steps"] == BREAKOUT.env_steps and result["updates"] == BREAKOUT.total_updates
    assert (
        result["game"] == "Breakout"
        and result["random_score"] == 1.7
        and result["human_score"] == 30.5
    )
    rows = metrics(workdir)
    assert (
        rows[-1]["updates"] == BREAKOUT.total_updates
        and rows[-1]["env_steps"] == BREAKOUT.env_steps
    )
    assert {
        "env_steps",
        "updates",
        "episode_return",
        "loss/policy",
        "loss/value",
        "loss/value_prefix",
        "loss/consistency",
    } <= rows[0].keys()
    lines = (workdir / "eval.csv").read_text().splitlines()
    assert lines[0] == "episode,seed,return,length" and len(lines) == 1 + BREAKOUT.run.eval_episodes
    assert len({line.split(",")[1] for line in lines[1:]}) == BREAKOUT.run.eval_episodes
    assert list(workdir.glob("events.out.tfevents*"))
    assert json.loads((workdir / "config.json").read_text())["env"]["id"] == "Breakout-v5"
    assert "final score" in done.stdout and "updates/s" in done.stdout


def test_a_run_from_before_a_field_existed_goes_on(tmp_path):
    config = replace(DEBUG, optimizer__schedule="drop")
    saved = to_dict(config)
    del saved["optimizer"]["schedule"]
    check_settings(saved, to_dict(config), tmp_path)
    with pytest.raises(
        CheckpointError, match=r"another config: optimizer.schedule: drop -> cosine$"
    ):
        check_settings(saved, to_dict(DEBUG), tmp_path)
    with pytest.raises(CheckpointError, match=r"another config: optimizer.gone: 1 -> None$"):
        older = to_dict(config)["optimizer"] | {"gone": 1}
        check_settings(to_dict(config) | {"optimizer": older}, to_dict(config), tmp_path)


@pytest.mark.slow
def test_same_seed_same_numbers(reference, tmp_path):
    """Also after a kill before the first checkpoint, which leaves a config and lines of metrics:
    then a run begins again.
    """
    shutil.copy(reference[0] / "config.json", tmp_path)
    first, *_ = (reference[0] / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "metrics.jsonl").write_text(first + "\n")
    run(BREAKOUT, tmp_path, resume=True, evaluate_after=False)
    assert metrics(tmp_path) == metrics(reference[0])
    assert_same_bits(tmp_path, reference[0])


@pytest.mark.slow
def test_stopped_killed_and_resumed_run_ends_with_the_same_bits(reference, tmp_path, capsys):
    workdir = tmp_path / "run"
    words = [*COMMAND, f"--workdir={workdir}"]
    process = start_and_wait(words, workdir, 2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and "--resume" in output.splitlines()[-1]
    stopped = Checkpoints(workdir).latest()
    assert stopped is not None and stopped < Checkpoints(reference[0]).latest()

    process = start_and_wait([*words, "--resume"], workdir, 12)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    run(BREAKOUT, workdir, resume=True)
    assert "resumed at" in capsys.readouterr().out
    assert metrics(workdir) == metrics(reference[0])
    assert_same_bits(workdir, reference[0])
    assert (workdir / "eval.csv").read_text() == (reference[0] / "eval.csv").read_text()


def test_half_written_checkpoint_is_never_loaded(reference, tmp_path):
    shutil.copytree(reference[0], tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    newest = Checkpoints(tmp_path / "run").latest()
    # What a kill leaves: a folder that was not renamed yet.
    shutil.copytree(folder / str(newest), folder / f"{newest + 5}.orbax-checkpoint-tmp-7")
    shutil.rmtree(folder / f"{newest + 5}.orbax-checkpoint-tmp-7" / "meta")
    assert Checkpoints(tmp_path / "run").latest() == newest
    assert int(restore(tmp_path / "run").state.learner.updates) == BREAKOUT.total_updates


def test_corrupt_checkpoint_names_the_file(reference, tmp_path):
    shutil.copytree(reference[0], tmp_path / "run")
    newest = Checkpoints(tmp_path / "run").latest()
    for path in (tmp_path / "run" / "checkpoints" / str(newest) / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=f"checkpoints/{newest}"):
        restore(tmp_path / "run")


def test_restoring_starts_no_emulator(reference, monkeypatch):
    def no_emulator(*args, **kwargs):
        raise AssertionError("an emulator was started")

    monkeypatch.setattr(envpool, "make", no_emulator)
    restored = restore(reference[0])
    assert restored.network.spec.frame_shape == (32, 32, 1)
    assert restored.network.spec.num_actions == 4
    assert restored.state.replay.frame is None


def test_missing_checkpoint_names_the_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"config.json is missing"):
        restore(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no complete checkpoint in .*checkpoints"):
        restore(tmp_path)


def test_refuses_to_overwrite_and_names_what_differs(reference):
    before = (reference[0] / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"holds a run already.*--resume"):
        run(BREAKOUT, reference[0])
    with pytest.raises(CheckpointError, match=r"search.num_simulations: 4 -> 5; seed: 0 -> 2"):
        run(replace(BREAKOUT, seed=2, search__num_simulations=5), reference[0], resume=True)
    assert (reference[0] / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "words, message",
    [
        ("--game=Brekout", "unknown game 'Brekout'; the nearest are: Breakout"),
        (
            "--search.num-simulations=0",
            "search.num-simulations=0 is out of range: it must be at least 1",
        ),
        (
            "--network.patch=3 --env.height=48 --env.width=50",
            "network.patch=3 is out of range: it must divide the images' 50 pixels",
        ),
        ("--target.discount=1.5", "target.discount=1.5 is out of range: it must be in [0.0, 1.0]"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, capfd, words, message):
    assert (
        status("atari100k", "--preset=debug", f"--workdir={tmp_path / 'run'}", *words.split()) == 2
    )
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err.strip().splitlines()[-1].startswith(
        f"error: {message}"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_nan_stops_with_the_step_and_the_terms(tmp_path):
    def broken(unroll, targets, config):
        return unroll.value_logits[:, 0, 0] * float("nan")

    with pytest.raises(RunError, match=r"update 1 is not finite: .*loss/broken = nan"):
        run(CARTPOLE, tmp_path, losses={"broken": (broken, 1.0)})
    assert Checkpoints(tmp_path).latest() is None


@pytest.mark.slow
def test_evaluate_command(reference, tmp_path):
    done = call(
        "evaluate.py",
        f"--workdir={reference[0]}",
        "--episodes=3",
        "--simulations=2",
        "--max-steps=8",
        f"--video={tmp_path / 'game.mp4'}",
        f"--output={tmp_path / 'scores'}",
    )
    assert done.returncode == 0, done.stderr
    assert (
        "distinct returns in 3 episodes" in done.stdout
        and (tmp_path / "game.mp4").stat().st_size > 1000
    )
    rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert len(rows) == 4 and all(row.endswith(",8") for row in rows[1:])
    told = json.loads((tmp_path / "scores.json").read_text())
    assert told["explore"] is False and told["eval_simulations"] == 2
    missing = call("evaluate.py", f"--workdir={tmp_path}")
    assert missing.returncode == 2 and "config.json is missing" in missing.stderr


def test_presets_are_valid_and_auto_takes_cpu_here():
    for preset in PRESETS.values():
        validate(preset)
    paper = PRESETS["paper"]
    assert (paper.online_updates, paper.total_updates) == (100_000, 120_000)
    assert to_dict(DEBUG) != to_dict(paper)


@pytest.fixture
def atari100k():
    """The script as a module."""
    return load_script("atari100k")


def test_auto_preset_on_a_cpu(atari100k):
    found = atari100k.by_backend("auto", **atari100k.AUTO)
    assert found == ("cpu", "no accelerator was found")
    args = atari100k.parse(
        ["--game=Qbert", "--search.num-simulations=7", "--network.value-prefix=False"]
    )
    assert args.config.env.id == "Qbert-v5" and args.config.search.num_simulations == 7
    assert (
        not args.config.network.value_prefix
        and args.config.network.channels == PRESETS["cpu"].network.channels
    )


def test_every_training_command_of_the_readme_is_understood(atari100k):
    commands = re.findall(r"python experiments/atari100k.py (.*)", (ROOT / "README.md").read_text())
    configs = [atari100k.parse(shlex.split(words, comments=True)).config for words in commands]
    for config in configs:
        validate(config)
