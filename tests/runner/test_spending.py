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
    acts = (config.env_steps - config.cycle.warmup_steps) // config.env.num_envs
    per_act, cost = found.cycle.updates_per_act, spending.of_config(found, spec)
    final = config.cycle.final_updates
    spent = cost.total(acts, acts * per_act + final) / (spending.REACHED * rate)
    more = cost.total(acts, acts * (per_act + 1) + final) / (spending.REACHED * rate)
    assert spent <= seconds < more
    # Updates before width: the preset's own net from one update in two steps to two a step.
    own, of_own = config.network.channels, spending.of_config(config, spec)
    needs = [
        of_own.total(acts, acts * updates + final) / (spending.REACHED * rate)
        for updates in (config.env.num_envs // 2, 2 * config.env.num_envs)
    ]
    channels = found.network.channels
    assert channels < own if seconds < needs[0] else channels >= own
    if channels > own:
        assert seconds > needs[1] and per_act >= 2 * config.env.num_envs
    assert found == replace(
        config, network__channels=found.network.channels, cycle__updates_per_act=per_act
    )
    longer = spending.fit(config, spec, 2 * seconds, rate)
    sizes = [(c.network.channels, c.cycle.updates_per_act) for c in (found, longer)]
    assert sizes[0] < sizes[1]


def test_a_time_that_is_too_short():
    config = replace(PRESETS["cpu"], env__id="Pong-v5")
    spec = describe(config.env, config.env.stack).spec
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
    assert load_script("classic").main(["--env=CartPole-v2", "--dry-run"]) == 2
    assert "the nearest are" in capsys.readouterr().err
