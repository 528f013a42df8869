"""Going on: with more seeds, more steps, other settings, after a kill between two saves."""

import shutil

import numpy as np
import pytest
from helpers.tiny import CATCH, assert_same_bits, metrics, small_classic

from ez_jax import restore, run, run_seeds
from ez_jax.config import replace
from ez_jax.runner.checkpoint import CheckpointError, Checkpoints
from ez_jax.runner.metrics import read_metrics
from ez_jax.runner.workdir import RunError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two seeds of Catch, trained one after the other by the same programs."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    for seed in (0, 1):
        run(replace(CATCH, seed=seed), workdir / f"seed{seed}", evaluate_after=False)
    return workdir


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def contents(folder):
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.slow
def test_finished_seeds_stay_and_new_ones_are_added(copy):
    before = contents(copy)
    results = run_seeds(CATCH, copy, 3, resume=True, evaluate_after=False)
    assert [result["seed"] for result in results] == [0, 1, 2]
    after = contents(copy)
    assert {path: after[path] for path in before} == before
    assert (copy / "seed2" / "result.json").exists()
    assert restore(copy / "seed2").config.seed == 2


@pytest.mark.slow
def test_seeds_around_a_finished_one_are_their_own(copy):
    """Seeds 0 and 2 are trained together where seed 1 is finished."""
    shutil.rmtree(copy / "seed0")
    run_seeds(CATCH, copy, 3, resume=True, evaluate_after=False)
    run(replace(CATCH, seed=2), copy / "alone", evaluate_after=False)
    random = -(-CATCH.cycle.warmup_steps // CATCH.env.num_envs)
    found, alone = (restore(copy / name) for name in ("seed2", "alone"))
    assert found.config == alone.config
    logs = [np.asarray(one.state.actor.action_log[:random]) for one in (found, alone)]
    frames = [np.asarray(one.state.replay.frame[:, :random]) for one in (found, alone)]
    np.testing.assert_array_equal(*logs)
    np.testing.assert_array_equal(*frames)


@pytest.mark.slow
def test_a_kill_between_two_saves_leaves_nothing_in_the_way(copy):
    """Seed 0 was saved once more than seed 1; saves between the two are made again."""
    older, newest = sorted(Checkpoints(copy / "seed1").steps())
    shutil.rmtree(copy / "seed1" / "checkpoints" / str(newest))
    for seed in (0, 1):
        (copy / f"seed{seed}" / "result.json").unlink()
    often = replace(CATCH, run__checkpoint_every=2)
    run_seeds(often, copy, 2, resume=True, evaluate_after=False)
    for seed in (0, 1):
        steps = Checkpoints(copy / f"seed{seed}").steps()
        assert max(steps) == newest and min(steps) > older


@pytest.mark.slow
def test_a_lost_checkpoint_is_refused_before_anything_is_written(copy):
    shutil.rmtree(copy / "seed1" / "checkpoints")
    before = contents(copy)
    with pytest.raises(RunError, match="seed1 has a result and no checkpoint"):
        run_seeds(CATCH, copy, 2, resume=True)
    assert contents(copy) == before


@pytest.mark.slow
def test_seeds_that_have_not_begun_are_not_mixed_with_those_that_have(copy):
    for seed in (0, 1):
        (copy / f"seed{seed}" / "result.json").unlink()
    before = contents(copy)
    with pytest.raises(
        CheckpointError, match=r"seed0 has \[\d+, \d+\], .*, seed2 has none; train those"
    ):
        run_seeds(CATCH, copy, 3, resume=True)
    assert contents(copy) == before


@pytest.mark.slow
def test_a_save_that_does_not_happen_is_an_error(copy):
    state, saved = restore(copy / "seed0").state, Checkpoints(copy / "seed0")
    newest = max(saved.steps())
    with pytest.raises(CheckpointError, match=f"{newest - 1} was not saved: .* has newer ones"):
        saved.save(newest - 1, state, {})
    saved.close()


@pytest.mark.slow
def test_a_finished_run_is_extended(copy):
    """With twice the steps: the old results keep their names apart, the log of actions grows."""
    longer, workdir = replace(CATCH, env_steps=2 * CATCH.env_steps), copy / "seed0"
    before, first = metrics(workdir), (workdir / "result.json").read_text()
    (workdir / "eval.csv").write_text("the games of before")
    result = run(longer, workdir, resume=True, evaluate_after=False)
    assert result["env_steps"] == longer.env_steps and result["updates"] == longer.total_updates
    assert (workdir / f"result-{CATCH.env_steps}.json").read_text() == first
    assert (workdir / f"eval-{CATCH.env_steps}.csv").read_text() == "the games of before"
    # The clock goes on from the newest checkpoint.
    seconds = [row["wall_s"] for row in read_metrics(workdir)[""]]
    assert result["wall_s"] >= result["train_wall_s"] >= seconds[-1]
    assert min(seconds[len(before) :]) >= seconds[len(before) - 1]
    assert metrics(workdir)[: len(before)] == before
    assert restore(workdir).config == longer


@pytest.mark.slow
def test_an_extended_run_keeps_the_shares_of_its_first_budget(copy, capsys):
    longer = replace(CATCH, env_steps=400, replay__capacity=3000, target__fresh_steps=7)
    run(longer, copy / "seed0", resume=True, evaluate_after=False)
    assert restore(copy / "seed0").config == replace(CATCH, env_steps=400)
    said = capsys.readouterr().out
    assert "extended from 150 to 400 steps" in said
    assert "as before: replay.capacity, target.fresh_steps" in said
    # The same command goes on, or finds it finished; another share is another run.
    before = contents(copy / "seed0")
    run(longer, copy / "seed0", resume=True, evaluate_after=False)
    said = capsys.readouterr().out
    assert "this run was extended; as before: replay.capacity, target.fresh_steps" in said
    assert "is finished" in said and contents(copy / "seed0") == before
    with pytest.raises(CheckpointError, match=r"search.num_simulations: 4 -> 5; "):
        run(replace(longer, search__num_simulations=5), copy / "seed0", resume=True)
    with pytest.raises(CheckpointError, match=r"env_steps: 400 -> 150"):
        run(CATCH, copy / "seed0", resume=True)


@pytest.mark.slow
def test_seeds_out_of_step_are_not_extended_together(tmp_path):
    """Emulators of one had taken all their steps while those of the other still acted."""
    config = replace(small_classic("CartPole-v1"), env_steps=200)
    run_seeds(config, tmp_path / "run", 2, evaluate_after=False)
    acts = [int(restore(tmp_path / "run" / f"seed{i}").state.actor.acts) for i in (0, 1)]
    assert acts[0] != acts[1]
    before, longer = contents(tmp_path), replace(config, env_steps=220)
    with pytest.raises(RunError, match=r"cannot be extended together; .*seed0 --seed=0$"):
        run_seeds(longer, tmp_path / "run", 2, resume=True, evaluate_after=False)
    assert contents(tmp_path) == before
    result = run(longer, tmp_path / "run" / "seed0", resume=True, evaluate_after=False)
    assert result["env_steps"] == 220
    # It goes on from there: its emulators are where the log of actions leads.
    longer = replace(longer, env_steps=240)
    assert run(longer, tmp_path / "run" / "seed0", resume=True, evaluate_after=False)


@pytest.mark.slow
def test_what_changes_no_number_may_change(copy):
    """Lines, checkpoints and games: neither of a whole run nor of one that goes on."""
    other = replace(CATCH, seed=1, run__eval_episodes=3, run__log_every=2, run__checkpoint_every=7)
    run(other, copy / "again", evaluate_after=False)
    assert_same_bits(copy / "again", copy / "seed1")
    logged = {row["updates"]: row for row in metrics(copy / "again")}
    assert all(logged[row["updates"]] == row for row in metrics(copy / "seed1"))
    result = run(other, copy / "seed1", resume=True)
    assert result["eval_episodes"] == 3
    with pytest.raises(CheckpointError, match=r"loss.value: 0.25 -> 0.5$"):
        run(replace(other, loss__value=0.5), copy / "seed1", resume=True)
