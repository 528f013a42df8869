"""Extra losses, formats of checkpoints, metrics in all their forms, provenance."""

import functools
import gzip
import importlib.metadata
import json
import os
import shutil
import subprocess

import pytest
from helpers.tiny import CARTPOLE, assert_same_bits, load_script, metrics

from ez_jax import restore, run
from ez_jax.config import applicable, from_dict, replace
from ez_jax.presets import PRESETS, classic
from ez_jax.runner import checkpoint
from ez_jax.runner import provenance as provenance_lib
from ez_jax.runner import workdir as workdir_lib
from ez_jax.runner.checkpoint import CheckpointError, Checkpoints
from ez_jax.runner.metrics import MetricsFile, read_metrics
from ez_jax.runner.provenance import make_folders, provenance

SHORT = replace(CARTPOLE, env_steps=244, cycle__final_updates=2)


def mine(unroll, targets, config):
    return unroll.value_logits[:, 0, 0] ** 2


def other(unroll, targets, config):
    return unroll.value_logits[:, 0, 0] ** 4


@pytest.fixture(scope="module")
def with_loss(tmp_path_factory):
    """A finished run with an extra loss."""
    workdir = tmp_path_factory.mktemp("loss") / "run"
    run(SHORT, workdir, losses={"mine": (mine, 0.1)})
    return workdir


def test_an_extra_loss_is_part_of_the_run(with_loss):
    expected = {"mine": {"weight": 0.1, "function": f"{__name__}.mine"}}
    saved = Checkpoints(with_loss)
    meta = saved.restore_meta()["config"]
    saved.close()
    config, result = (
        json.loads((with_loss / name).read_text()) for name in ("config.json", "result.json")
    )
    assert config["extra_losses"] == meta["extra_losses"] == result["extra_losses"] == expected
    assert "loss/mine" in read_metrics(with_loss)[""][0]
    assert restore(with_loss).config == SHORT


@pytest.mark.parametrize(
    "losses, message",
    [
        (None, r"extra_losses: .* -> None"),
        ({"mine": (mine, 0.2)}, r"extra_losses.mine.weight: 0.1 -> 0.2$"),
        ({"mine": (other, 0.1)}, r"extra_losses.mine.function: .*mine -> .*other$"),
    ],
)
def test_resuming_with_other_losses_is_refused(with_loss, losses, message):
    before = (with_loss / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=message):
        run(SHORT, with_loss, resume=True, losses=losses)
    assert (with_loss / "metrics.jsonl").read_bytes() == before


def test_resuming_a_finished_run_with_its_losses(with_loss):
    result = run(SHORT, with_loss, resume=True, losses={"mine": (mine, 0.1)}, evaluate_after=False)
    assert result["updates"] == SHORT.total_updates


def test_a_run_goes_on_to_the_same_bits(with_loss, tmp_path):
    """From the older of its two checkpoints, with emulators that the log of actions brings back."""
    again = shutil.copytree(with_loss, tmp_path / "again")
    older, newest = sorted(Checkpoints(again).steps())
    shutil.rmtree(again / "checkpoints" / str(newest))
    (again / "result.json").unlink()
    run(SHORT, again, resume=True, losses={"mine": (mine, 0.1)}, evaluate_after=False)
    assert Checkpoints(again).steps() == {older, newest}
    assert metrics(again) == metrics(with_loss)
    assert_same_bits(again, with_loss)


def test_what_new_runs_are_refused_goes_on_where_it_was_begun(with_loss, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise ValueError("not for new runs")

    monkeypatch.setattr(workdir_lib, "validate_new", refused)
    begun, losses = shutil.copytree(with_loss, tmp_path / "begun"), {"mine": (mine, 0.1)}
    (begun / "result.json").unlink()
    result = run(SHORT, begun, resume=True, losses=losses, evaluate_after=False)
    assert result["updates"] == SHORT.total_updates
    with pytest.raises(ValueError, match=r"^not for new runs$"):
        run(SHORT, tmp_path / "new", losses=losses)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_another_format_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    losses = {"mine": (mine, 0.1)}  # compiled already
    run(SHORT, tmp_path, losses=losses, evaluate_after=False)
    monkeypatch.undo()
    resume = functools.partial(run, SHORT, resume=True, losses=losses)
    for call in (lambda: restore(tmp_path), lambda: resume(tmp_path)):
        with pytest.raises(CheckpointError, match=r"has format 1 .* reads format 2$"):
            call()


def test_metrics_in_all_their_forms(tmp_path):
    rows = [{"updates": i, "loss/value": i / 4} for i in range(3)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for seed in (0, 10):
        (tmp_path / "runs" / f"seed{seed}").mkdir(parents=True)
        (tmp_path / "runs" / f"seed{seed}" / "metrics.jsonl").write_text(text)
    assert read_metrics(tmp_path / "runs" / "seed0") == {"": rows}
    assert read_metrics(tmp_path / "runs") == {"seed0": rows, "seed10": rows}
    packed = tmp_path / "both.jsonl.gz"
    lines = [json.dumps({"seed": seed, **row}) for seed in (3, 4) for row in rows]
    packed.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert read_metrics(packed) == {
        f"seed{seed}": [{"seed": seed, **row} for row in rows] for seed in (3, 4)
    }
    several = [json.dumps({"variant": name, **row}) for row in rows for name in ("a", "b")]
    packed.write_bytes(gzip.compress("\n".join(several).encode()))
    assert read_metrics(packed, variant="b", task="any") == {
        "": [{"variant": "b", **row} for row in rows]
    }
    assert read_metrics(tmp_path / "nothing") == read_metrics(tmp_path) == {}


def test_what_a_kill_leaves_of_the_metrics(tmp_path):
    """The last line may be half a line; resuming keeps those of before the checkpoint."""
    lines = [json.dumps({"updates": i, "loss/value": i / 4}) + "\n" for i in range(4)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(lines)[:-9])
    assert [row["updates"] for row in read_metrics(tmp_path)[""]] == [0, 1, 2]
    for updates, kept in ((9, 3), (1, 2)):
        with MetricsFile(tmp_path, updates) as file:
            assert path.read_text() == "".join(lines[:kept])
            file.write({"updates": kept})
        assert path.read_text() == "".join(lines[:kept]) + f'{{"updates": {kept}}}\n'
    path.write_bytes("".join(lines[:2]).encode() + b"\0" * 5)  # as a lost host may leave it
    assert [row["updates"] for row in read_metrics(tmp_path)[""]] == [0, 1]
    path.write_text(lines[0][:-9] + "\n" + lines[1])
    with pytest.raises(ValueError, match=rf"cannot read line 1 of {path}"):
        read_metrics(tmp_path)


def test_provenance_of_a_copied_package(monkeypatch):
    def none(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", none)
    found = provenance("python train.py")
    assert found["versions"]["jax"] is None and found["versions"]["ez_jax"] == "0.1.0"
    assert found["command"] == "python train.py"


def test_the_commit_is_of_the_checkout_that_holds_the_package(tmp_path, monkeypatch):
    """Not of another project's, in whose folder the package may be installed."""

    def git(*words):
        named = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *named, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit():
        provenance_lib._commit.cache_clear()
        return provenance("python train.py")["commit"]

    package = tmp_path / "package.py"
    package.write_text("")
    monkeypatch.setattr(provenance_lib, "__file__", str(package))
    assert commit() is None
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "of another project")
    assert commit() is None
    git("add", "package.py")
    git("commit", "-q", "-m", "of the package")
    git("tag", "-a", "v1", "-m", "a release")
    own = git("rev-parse", "HEAD")[:12]
    assert commit() == own
    # That of the beginning, whatever happens until the file is written.
    package.write_text("changed")
    assert provenance("python train.py")["commit"] == own and commit() == f"{own}-dirty"
    provenance_lib._commit.cache_clear()


def test_a_folder_is_no_file_to_write(tmp_path):
    make_folders(None, tmp_path / "new" / "found.json")
    assert (tmp_path / "new").is_dir()
    with pytest.raises(OSError, match="new is a folder: name a file"):
        make_folders(tmp_path / "new")
    script = load_script("benchmark")
    assert script.main(["--sizes", "debug", f"--output={tmp_path / 'new'}"]) == 2


def test_provenance_counts_the_cores_that_a_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6}, raising=False)
    assert provenance("python train.py")["device"].endswith(", 3 CPU cores")
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert provenance("python train.py")["device"].endswith(", 12 CPU cores")


def test_only_what_a_task_reads_is_shown():
    """`config.json` of a vector task and Gumbel search, and of Atari and PUCT."""
    vector = applicable(CARTPOLE, image=False, atari=False, vectors=False)
    assert not {"sampled_actions", "wide_actions", "policy_target"} & set(vector["search"])
    assert "uniform_fraction" in vector["search"]
    pendulum = applicable(classic("Pendulum-v1"), image=False, atari=False, vectors=True)
    assert pendulum["search"]["sampled_actions"] == 16
    assert pendulum["search"]["policy_target"] == "corrected"
    assert "uniform_fraction" not in pendulum["search"]
    assert from_dict(pendulum).search == classic("Pendulum-v1").search
    assert CARTPOLE.search.algorithm == "gumbel"
    assert "height" not in vector["env"] and "patch" not in vector["network"]
    assert "dirichlet_alpha" not in vector["search"] and "c_visit" in vector["search"]
    assert "shift" not in vector["loss"] and "ratio" not in vector["reanalyse"]
    paper = applicable(PRESETS["paper"], image=True, atari=True, vectors=False)
    assert paper["env"]["height"] == 96 and paper["network"]["pools"] == 2
    assert "dirichlet_alpha" in paper["search"] and "c_visit" not in paper["search"]
    assert "fresh_steps" not in paper["target"] and paper["optimizer"]["momentum"] == 0.9
    assert from_dict(paper) == PRESETS["paper"]
    assert "target_interval" in paper["cycle"]
    moving = replace(PRESETS["paper"], cycle__target_step_size=0.01)
    shown = applicable(moving, image=True, atari=True, vectors=False)
    assert "target_interval" not in shown["cycle"]
