"""Studies that look into a run: against the replay that it wrote itself."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.loops import warmed_up
from helpers.tiny import BREAKOUT, CATCH, load_script

from ez_jax import restore
from ez_jax.config import replace
from ez_jax.runner.restore import restore_run


@pytest.mark.slow
def test_value_gap_command(reference, tmp_path, capsys):
    """Against the replay that the run itself wrote, brought back from its checkpoint."""
    script, output = load_script("value_gap"), tmp_path / "gap.json"
    assert script.main([f"--workdir={reference[0]}", "--batches=2", f"--output={output}"]) == 0
    found = json.loads(output.read_text())
    assert (
        found["positions"] == 2 * BREAKOUT.cycle.batch_size
        and found["updates"] == BREAKOUT.total_updates
    )
    # So young a network values what random play earns at nearly nothing, and the two ways to call
    # it, by running and by batch moments, differ a little.
    assert 0 < found["return"] < 1 and abs(found["inference"]) < 0.5
    assert abs(found["inference"] - found["training"]) < 0.5
    assert found["correlation_inference"] != found["correlation_training"]
    assert sum(row["positions"] for row in found["by_age"]) == found["positions"]
    mean = sum(row["positions"] * row["return"] for row in found["by_age"]) / found["positions"]
    assert mean == pytest.approx(found["return"], abs=1e-3)
    assert f"positions{found['positions']:18d}" in capsys.readouterr().out
    # Rewards are what a network of this age is wrong about: by priority there are more of them.
    assert (
        script.main([f"--workdir={reference[0]}", "--batches=2", "--uniform", f"--output={output}"])
        == 0
    )
    uniform = json.loads(output.read_text())
    assert uniform["uniform"] and not found["uniform"] and found["return"] > uniform["return"]
    assert script.main([f"--workdir={tmp_path}"]) == 2
    assert "no run in" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sampled", "teacher"])
def test_value_gap_sees_the_batches_that_updates_learn_from(mode):
    """Not what stands in replay, here 7: the target network says 0, as at the beginning."""
    config = replace(
        CATCH,
        reanalyse__mode=mode,
        reanalyse__ratio=1.0,
        cycle__target_interval=10**6,
        cycle__target_step_size=0.0,
    )
    loop, state = warmed_up(config, updates=2)
    marked = jnp.full_like(state.replay.network_value, 7)
    state = state.replace(replay=state.replay.replace(network_value=marked))
    state, drawn = loop.stages.draw(state)
    script = load_script("value_gap")
    batch = script.batch_of(loop.stages.network, config, state, drawn)
    np.testing.assert_allclose(batch.network_value, 0, atol=1e-4)
    assert (batch.taught is not None) == (mode == "teacher")


@pytest.mark.slow
def test_sight_command(reference, tmp_path, monkeypatch, capsys):
    """Trained on the frames of the run, measured on the newest of them, which it has not seen."""
    script, output = load_script("sight"), tmp_path / "sight.json"
    monkeypatch.setattr(script, "HELD_OUT", 2)  # so short a run has few rewards
    words = [f"--workdir={reference[0]}", "--updates=20", "--lines=2", "--steps=3"]
    small = ["--switch", "cycle.batch-size=2", "--switch", "network.motion=12"]
    assert script.main([*words, *small, f"--output={output}"]) == 0
    found = json.loads(output.read_text())
    assert [row["updates"] for row in found["rows"]] == [10, 20]
    assert found["rows"][0]["variance"] == found["rows"][1]["variance"] > 0
    assert found["rows"][0]["error"] != found["rows"][1]["error"]
    assert found["switches"] == small[1::2] and found["workdir"] == "run"
    assert len(capsys.readouterr().out.splitlines()) == 2
    for bad, message in (
        (["--switch", "network.moton=12"], "must be name=value"),
        (["--switch", "network.patch=7"], "network.patch"),
        (["--switch", "network.channels=abc"], "network.channels=abc"),
        (["--switch", "seed=2"], "must be name=value"),
        (["--switch", "env.stack=2"], "must be name=value"),
        (["--lines=0"], "at least 1"),
        (["--output=/proc/none/x.json"], "/proc/none"),
        (["--switch", "cycle.batch-size=64"], "too short"),
        ([f"--workdir={tmp_path}"], "no run in"),
    ):
        assert script.main([*words, *bad]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_sight_takes_no_rate_of_another_optimiser(reference, monkeypatch, capsys):
    script, (restored, state) = load_script("sight"), restore_run(reference[0], whole=True)
    other = replace(restored.config, optimizer__name="sgd", optimizer__learning_rate=0.2)
    found = dataclasses.replace(restored, config=other), state
    monkeypatch.setattr(script, "restore_run", lambda *_, **__: found)
    monkeypatch.setattr(script, "fit", lambda config, *_: [config.optimizer.learning_rate])
    words = [f"--workdir={reference[0]}"]
    assert script.main(words) == 2
    assert "the run's rate is one of sgd" in capsys.readouterr().err
    assert script.main([*words, "--switch", "optimizer.learning-rate=0.001"]) == 0


@pytest.mark.slow
def test_foresight_command(reference, tmp_path, monkeypatch, capsys):
    """Each position of the run is in one group; sums and values of a group against its parts."""
    script, output = load_script("foresight"), tmp_path / "foresight.json"
    words = [f"--workdir={reference[0]}", "--steps=3"]
    assert script.main([*words, f"--output={output}"]) == 0
    found = json.loads(output.read_text())
    assert found["updates"] == BREAKOUT.total_updates and found["steps"] == 3
    (whole,) = found["rows"]
    assert -1 <= whole["correlation"] <= 1 and 0 < whole["rewards"] < 1
    half, end = found["env_steps"] // 2, found["env_steps"] + 1
    monkeypatch.setattr(script, "AGES", (0, half, end))
    monkeypatch.setattr(script, "AT_ONCE", 32)
    assert script.main([*words, f"--output={output}"]) == 0
    parts = json.loads(output.read_text())["rows"]
    assert [row["age"] for row in parts] == [[0, half], [half, end]]
    count = sum(row["positions"] for row in parts)
    assert count == whole["positions"]
    for name in ("value", "rewards"):
        mean = sum(row["positions"] * row[name] for row in parts) / count
        assert mean == pytest.approx(whole[name], abs=2e-4)
    capsys.readouterr()
    for bad, message in (
        (["--steps=0"], "at least 1"),
        (["--output=/proc/none/x.json"], "/proc/none"),
        ([f"--workdir={tmp_path}"], "no run in"),
    ):
        assert script.main([*words, *bad]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_action_effect_command(reference, tmp_path, monkeypatch, capsys):
    """Every position but the final frames, in parts of any size; another action is another one, and
    leads elsewhere.
    """
    script, output = load_script("action_effect"), tmp_path / "effect.json"
    words = [f"--workdir={reference[0]}", f"--output={output}"]
    assert script.main(words) == 0
    everything, new = json.loads(output.read_text())["rows"]
    assert 0 < new["positions"] < everything["positions"] <= BREAKOUT.env_steps
    assert everything["state_effect"] > 0 and everything["state_error"] > 0
    for space in ("state", "projection"):
        assert 0 < everything[f"{space}_told_apart"] < 1
    assert everything["projection_error"] != everything["projection_error_of_another"]
    # The errors after the actions taken know nothing of the parts, nor of the others' draw.
    monkeypatch.setattr(script, "AT_ONCE", 32)
    assert script.main(words) == 0
    again = json.loads(output.read_text())["rows"][0]
    for name in ("state_error", "projection_error"):
        assert again[name] == pytest.approx(everything[name], abs=2e-4)
    restored, taken = restore(reference[0]), jnp.arange(4).repeat(100)
    others = np.asarray(script.other_actions(restored, jax.random.key(0), taken))
    assert [set(others[i : i + 100]) for i in range(0, 400, 100)] == [
        {1, 2, 3},
        {0, 2, 3},
        {0, 1, 3},
        {0, 1, 2},
    ]
    capsys.readouterr()
    for bad, message in (
        (["--positions=0"], "at least 1"),
        (["--output=/proc/none/x.json"], "/proc/none"),
        ([f"--workdir={tmp_path}"], "no run in"),
    ):
        assert script.main([*words, *bad]) == 2
        assert message in capsys.readouterr().err
