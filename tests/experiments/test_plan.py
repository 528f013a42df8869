"""The command that plans a run on devices that are not here."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from helpers.tiny import ROOT, load_script, status

from ez_jax.config import validate
from ez_jax.presets import PAPER

PLAN = [sys.executable, str(ROOT / "experiments" / "plan.py"), "--preset=debug"]


def planned(target, path):
    words = [*PLAN, f"--target={target}", f"--output={path}"]
    # The flags of the tests are for CPUs.
    flagless = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=1200, env=flagless)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(path.read_text()), done.stdout


@pytest.mark.parametrize(
    "words, message",
    [
        (["--target=tpu:v9:2x4"], "unknown target 'tpu:v9:2x4': here, or one of tpu:v4"),
        (["--target=gpu:a100:8"], "unknown target 'gpu:a100:8'"),
        (["--target=here", "--preset=papr"], "unknown preset 'papr': there are paper"),
        (
            ["--target=here", "--preset=dmc"],
            "unknown preset 'dmc': there are paper, v2, cpu, debug",
        ),
        (["--target=here", "--output=/"], "/ is a folder"),
        (["--target=here", "--game=Pnog"], "Pong"),
        (["--target=here", "--env.num-envs=0"], "env.num-envs=0 is out of range"),
    ],
)
def test_bad_words(words, message, capsys):
    assert status("plan", *words) == 2
    assert message in capsys.readouterr().err


def test_environments_for_so_many_devices():
    """A multiple of both, with the updates of a run; more than the warm-up can fill are refused."""
    script = load_script("plan")
    config = script.sized(PAPER, 6, "Pong-v5")
    assert (config.env.num_envs, config.cycle.updates_per_act) == (12, 12)
    assert config.total_updates == PAPER.total_updates
    with pytest.raises(ValueError, match=r"cycle.warmup-steps"):
        validate(script.sized(PAPER, 128, "Pong-v5"))


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="it is installed")
def test_without_the_compiler_of_tpus(capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # which the command sets
    assert status("plan", "--target=tpu:v5e:2x4") == 2
    assert 'pip install -e ".[plan]"' in capsys.readouterr().err


@pytest.mark.slow
def test_this_machine(tmp_path):
    found, said = planned("here", tmp_path / "plan.json")
    stages = {row["stage"]: row for row in found["stages"]}
    assert list(stages) == ["select", "record", "draw", "reanalyse", "update"]
    assert found["devices"] == 1 and found["hours"] > 0 and "memory: " in said
    assert stages["update"]["share"] > stages["select"]["share"] > 0
    assert all(row["collectives"] == 0 for row in found["stages"])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs `plan`")
def test_two_gpus(tmp_path):
    found, said = planned("gpu:h100:2", tmp_path / "plan.json")
    stages = {row["stage"]: row for row in found["stages"]}
    assert found["devices"] == 2 and found["hosts"] == 1 and "2 devices on 1 hosts" in said
    assert stages["update"]["collectives"] >= 1 and stages["select"]["collectives"] == 0
    assert stages["update"]["temporaries"] > 0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra `plan`")
def test_two_hosts_of_tpus(tmp_path):
    """What no machine here has: eight chips; sums of gradients and moments alone cross them."""
    found, said = planned("tpu:v5e:2x4", tmp_path / "plan.json")
    stages = {row["stage"]: row for row in found["stages"]}
    assert found["devices"] == 8 and found["hosts"] == 2 and found["config"]["env"]["num_envs"] == 8
    assert "8 devices on 2 hosts" in said
    searching = ("select", "draw", "reanalyse")
    assert [stages[name]["collectives"] for name in searching] == [0, 0, 0]
    assert 1 <= stages["update"]["collectives"] <= 100
    # The gradient of each parameter crosses once.
    assert stages["update"]["collective_bytes"] > 1e5
    assert 0 < found["memory_bytes"] < 1e9
