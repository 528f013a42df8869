"""FLOP of a run: counted by hand where the network is small, and linear where it must be."""

import json

import jax
import jax.numpy as jnp
import pytest
from helpers.tiny import CATCH, load_script

from ez_jax.config import replace
from ez_jax.envs import describe
from ez_jax.presets import PRESETS, classic
from ez_jax.runner import spending


def of(config):
    return spending.of_config(config, describe(config.env, config.env.stack).spec)


def test_a_product_of_matrices():
    """m k n multiplications and as many additions."""
    a, b = jax.ShapeDtypeStruct((3, 5), jnp.float32), jax.ShapeDtypeStruct((5, 7), jnp.float32)
    assert spending.count_flops(lambda x, y: x @ y, a, b) == 2 * 3 * 5 * 7


@pytest.mark.parametrize("mode", ["oldest", "sampled", "teacher"])
def test_reanalysis_costs_by_its_positions(mode):
    off = of(replace(CATCH, reanalyse__mode="off"))
    config = replace(CATCH, reanalyse__mode=mode, reanalyse__ratio=1.0, reanalyse__positions=16)
    found = of(config)
    assert found.act == off.act
    position = found.act / config.env.num_envs  # encoding and search
    size, k, n = config.cycle.batch_size, config.target.unroll_steps, config.target.td_steps
    extra = found.update - off.update
    if mode == "oldest":
        assert extra == pytest.approx(16 * position, rel=1e-6)
    else:
        # All of the unroll is searched, the rest evaluated; a teacher saves the encodings of the
        # consistency loss.
        assert extra < size * (k + n + 1) * position
        assert extra > size * (k + 1) * position * (0.5 if mode == "teacher" else 1)


def test_a_teacher_of_a_far_horizon_encodes_no_more_than_it_reads():
    """2 (K + 1) slots, whatever n is beyond K + 1."""
    teacher = replace(CATCH, reanalyse__mode="teacher", target__unroll_steps=2)
    near, far, farther = (of(replace(teacher, target__td_steps=n)).update for n in (2, 3, 9))
    assert near < far == farther


def test_acts_cost_by_environments_and_simulations():
    one, more = (of(replace(CATCH, search__num_simulations=s)).act for s in (4, 8))
    many = of(replace(CATCH, env__num_envs=8)).act
    assert many == pytest.approx(2 * one) and one < more < 2 * one
    assert spending.Spending(3.0, 5.0).total(acts=10, updates=4) == 50


def test_rate_of_this_machine():
    assert 1e8 < spending.matmul_rate(128, 2) < 1e15


@pytest.mark.parametrize("seconds", [1800, 3600, 7200, 14_400, 40_000])
def test_a_time_is_filled(seconds):
    """With as much as fits, in a wider network or with more updates where there is more time."""
    config = replace(PRESETS["cpu"], env__id="Pong-v5")
    spec, rate = describe(config.env, config.env.stack).spec, 1e11
    found = spending.fit(config, spec, seconds, rate)
    per_act = found.cycle.updates_per_act

    def needs(config):  # all that a run of it does
        cost, acts = spending.of_config(config, spec), (100_000 - 2000) // 8
        return cost.total(acts, config.total_updates) / (spending.REACHED * rate)

    assert needs(found) <= seconds < needs(replace(found, cycle__updates_per_act=per_act + 1))
    # Updates before width: the preset's own net from one update in two steps to two a step.
    own, channels = config.network.channels, found.network.channels
    few, many = (
        needs(replace(config, cycle__updates_per_act=updates))
        for updates in (config.env.num_envs // 2, 2 * config.env.num_envs)
    )
    assert channels < own if seconds < few else channels >= own
    if channels > own:
        assert seconds > many and per_act >= 2 * config.env.num_envs
    assert found == replace(
        config, network__channels=found.network.channels, cycle__updates_per_act=per_act
    )
    longer = spending.fit(config, spec, 2 * seconds, rate)
    sizes = [(c.network.channels, c.cycle.updates_per_act) for c in (found, longer)]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("env_steps", [2000, 4000])
def test_updates_of_the_warm_up_count_too(env_steps):
    """They are made up for after the last act: half of a run of twice its length, all of one that
    never acts by a search.
    """
    config = replace(PRESETS["cpu"], env__id="Pong-v5", env_steps=env_steps)
    spec = describe(config.env, config.env.stack).spec
    found = spending.fit(config, spec, 120, 1e11)
    cost, acts = spending.of_config(found, spec), spending.searched_acts(found)
    assert acts == (env_steps - 2000) // 8
    spent = cost.total(acts, found.total_updates) / (spending.REACHED * 1e11)
    assert 60 < spent <= 120


def test_seeds_share_the_time(monkeypatch):
    monkeypatch.setattr(spending, "matmul_rate", lambda: 1e11)
    script = load_script("atari100k")
    words = ["--preset=cpu", "--workdir=/nowhere"]
    one, four = (
        script.fitted(script.parse([*words, *more]), "cpu").config
        for more in (["--hours=1"], ["--hours=4", "--num-seeds=4"])
    )
    assert one == four and one != PRESETS["cpu"]


def test_a_time_that_is_too_short():
    config = replace(PRESETS["cpu"], env__id="Pong-v5")
    spec = describe(config.env, config.env.stack).spec
    with pytest.raises(ValueError, match="hours=1 is out of range: 4 steps need"):
        spending.fit(replace(config, env_steps=4), spec, 3600, 1e11)
    with pytest.raises(ValueError, match=r"hours=0.001 .* 100,000 steps need at least"):
        spending.fit(config, spec, 3.6, 1e11)


def test_a_dry_run_shows_the_settings_and_the_cost(tmp_path, monkeypatch, capsys):
    """Nothing is written; the FLOP are those of acts and updates."""
    monkeypatch.setattr(spending, "matmul_rate", lambda: 1e11)
    words = ["--env=CartPole-v1", f"--workdir={tmp_path / 'run'}", "--dry-run", "--env-steps=8000"]
    assert load_script("classic").main(words) == 0
    out = capsys.readouterr().out
    shown, end = json.JSONDecoder().raw_decode(out)
    assert shown["env_steps"] == 8000 and shown["env"]["id"] == "CartPole-v1"
    config = classic("CartPole-v1", env_steps=8000)
    total = of(config).total((8000 - 500) // 4, 4000)
    rest = out[end:]
    assert "8,000 steps, 4,000 updates" in rest and f"{total:.2g} FLOP" in rest
    minutes = total / 1e11 / 0.5 / 60
    assert f"{minutes:.2g} minutes to " in rest or f"{60 * minutes:.2g} seconds to " in rest
    assert not (tmp_path / "run").exists()
    nothing = ["--env-steps=500", "--cycle.updates-per-act=0", "--dry-run"]
    assert load_script("classic").main(["--env=CartPole-v1", *nothing]) == 0
    assert "500 steps, 0 updates\n0 FLOP" in capsys.readouterr().out
    assert load_script("classic").main(["--env=CartPole-v2", "--dry-run"]) == 2
    assert "the nearest are" in capsys.readouterr().err


def test_searches_over_candidates_cost_by_their_number():
    """16 candidates have 16 simulations by their count, as many as asked for here."""
    vectors = classic("Pendulum-v1")
    fixed = replace(vectors, search__num_simulations=16)
    counted = replace(vectors, search__by_action_count=True)
    assert vectors.search.num_simulations == 32 and vectors.search.sampled_actions == 16
    assert of(counted).act == of(fixed).act < of(vectors).act


def test_a_ratio_of_nothing_searches_nothing():
    """What is left of a teacher's cost is the same for any simulations."""
    teacher = replace(CATCH, reanalyse__mode="teacher", reanalyse__ratio=0.0)
    few, many = (of(replace(teacher, search__num_simulations=n)) for n in (2, 50))
    assert few.reanalysis == many.reanalysis > 0 and few.act < many.act
