"""Whole runs of tasks whose actions are vectors, one of each kind, in their smallest form."""

import json
import shutil

import numpy as np
import pytest
from helpers.tiny import assert_same_bits, metrics, small

from ez_jax import restore, run
from ez_jax.config import replace
from ez_jax.presets import classic, continuous, dmc
from ez_jax.runner.checkpoint import Checkpoints

pytestmark = pytest.mark.slow  # compilation


def tiny(config):
    """Rewards on atoms of their own, vectors of few candidates."""
    return replace(small(config), search__max_considered_actions=2, run__checkpoint_every=10)


WALKER = tiny(dmc("WalkerWalk-v1", "debug"))


@pytest.fixture(scope="module")
def walker(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("walker")
    return workdir, run(WALKER, workdir)


def test_a_run_on_states_of_deepmind_control(walker):
    """Dicts, two steps a decision, episodes of 1,000 steps."""
    workdir, result = walker
    assert (result["env_steps"], result["updates"]) == (150, WALKER.total_updates)
    shown = json.loads((workdir / "config.json").read_text())
    assert shown["env"]["action_repeat"] == 2 and shown["search"]["policy_target"] == "best"
    rows = (workdir / "eval.csv").read_text().splitlines()[1:]
    games = [line.split(",") for line in rows]
    assert all(0 < float(score) < 2 * int(length) for _, _, score, length in games)
    replay = restore(workdir).state.replay
    assert replay.action.shape[-1] == 6 and replay.action.dtype == np.float32
    assert np.abs(replay.action).max() <= 1 and np.abs(replay.action).max() > 0


def test_it_goes_on_in_the_same_bits(walker, tmp_path):
    """From the checkpoint before the last: environments take the actions of the log again."""
    shutil.copytree(walker[0], tmp_path / "run")
    newest = Checkpoints(tmp_path / "run").latest()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(newest))
    (tmp_path / "run" / "result.json").unlink()
    assert 0 < Checkpoints(tmp_path / "run").latest() < newest
    result = run(WALKER, tmp_path / "run", resume=True)
    assert metrics(tmp_path / "run") == metrics(walker[0])
    assert_same_bits(tmp_path / "run", walker[0])
    assert result["eval_mean"] == walker[1]["eval_mean"]


@pytest.mark.parametrize(
    "config, size",
    [
        (classic("Pendulum-v1", debug=True), 1),
        (continuous("HalfCheetah-v5", debug=True), 6),
        (continuous("LunarLanderContinuous-v3", debug=True), 2),
        (continuous("gymnasium/MountainCarContinuous-v0", debug=True), 1),
        (continuous("gymnax/Pendulum-v1", debug=True), 1),
        (dmc("ManipulatorBringBall-v1", "debug"), 5),
        (replace(dmc("PointMassEasy-v1", "debug"), env__action_slots=3), 0),
    ],
    ids=lambda value: getattr(getattr(value, "env", None), "id", None),
)
def test_a_run_of_each_kind(config, size, tmp_path):
    if config.env.id.startswith("gymnax"):
        pytest.importorskip("gymnax")
    config = tiny(config)
    result = run(config, tmp_path)
    assert result["updates"] == config.total_updates and np.isfinite(result["eval_mean"])
    spec = restore(tmp_path).network.spec
    assert (spec.action_size, spec.num_actions) == ((size, 0) if size else (0, 9))
