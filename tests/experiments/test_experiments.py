"""What the training commands make of their options, and the scripts of studies."""

import json

import numpy as np
import pytest
from helpers.tiny import load_script

from ez_jax.config import to_dict
from ez_jax.presets import PRESETS
from ez_jax.runner import spending


@pytest.mark.slow
def test_hours(tmp_path, monkeypatch, capsys):
    """The sizes follow from this machine's rate once; a run that goes on keeps those it has."""
    script, started = load_script("atari100k"), []
    monkeypatch.setattr(script, "launch", lambda args, *rest: started.append(args.config) or 0)
    monkeypatch.setattr(spending, "matmul_rate", lambda: 1e11)
    words = ["--game=Pong", "--preset=cpu", f"--workdir={tmp_path / 'run'}"]
    assert script.main([*words, "--hours=1"]) == 0
    assert script.main([*words, "--hours=4"]) == 0
    assert script.main(words) == 0
    one, four, preset = started
    assert preset == script.replace(PRESETS["cpu"], env__id="Pong-v5")
    assert one.network.channels < four.network.channels
    (tmp_path / "run" / "seed0").mkdir(parents=True)
    (tmp_path / "run" / "seed0" / "config.json").write_text(json.dumps(to_dict(one)))
    assert script.main([*words, "--hours=4", "--num-seeds=2", "--resume"]) == 0
    assert started[-1] == one
    assert script.main(["--game=Pong", "--preset=paper", "--hours=1"]) == 2
    assert "only `cpu` can be fitted" in capsys.readouterr().err
    assert script.main([*words, "--hours=-1"]) == 2
    assert "hours=-1 is out of range" in capsys.readouterr().err
    assert script.main(["--game=Pnog", "--preset=cpu", "--hours=1"]) == 2
    assert "Pong" in capsys.readouterr().err and len(started) == 4


def test_the_expected_time_names_the_steps_it_is_of():
    """Where these are not the ones that were asked for."""
    script = load_script("classic")
    for words, said in (
        ([], "1 to 4 minutes on 2 cores"),
        (["--env-steps=2000"], "1 to 4 minutes on 2 cores for 10,000 steps"),
        (["--preset=debug"], "about a minute, most of it compilation"),
    ):
        assert script.expected(script.parse(["--env=CartPole-v1", *words])) == said


def test_repeated_search(tmp_path, monkeypatch, capsys):
    """Sixteen PUCT simulations tell eighteen actions of one worth apart, which a floored range and
    an entropy term prevent; actions of different worth are told apart all the same."""
    script = load_script("repeated_search")
    chosen = ("PUCT, 16 simulations", "Gumbel, 16, range 0.5, entropy 0.2")
    monkeypatch.setattr(script, "VARIANTS", {name: script.VARIANTS[name] for name in chosen})
    output = tmp_path / "repeated_search.json"
    assert (
        script.main(
            [
                "--actions",
                "18",
                "--errors",
                "0",
                "0.2",
                "--rounds",
                "10",
                "--roots",
                "32",
                "--output",
                str(output),
            ]
        )
        == 0
    )
    content = json.loads(output.read_text())
    last = {(row["search"], row["error"]): row["entropy"][-1] for row in content["rows"]}
    assert len(last) == 4 and all(len(row["entropy"]) == 10 for row in content["rows"])
    assert last[chosen[0], 0.0] < 2.2 and last[chosen[0], 0.2] < 1.0
    assert last[chosen[1], 0.0] > 2.85 and last[chosen[1], 0.2] < 2.2
    assert content["noise"] == 0.05 and "versions" in content
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_policy_of_an_entropy_term():
    """The minimum of cross-entropy less entropy, against its condition: target / policy = c
    log(policy) + a constant.
    """
    script = load_script("repeated_search")
    target = np.array([0.7, 0.25, 0.05], np.float32)
    policy = np.asarray(
        script.jax.nn.softmax(script.train(script.jnp.zeros(3), script.jnp.asarray(target), 0.2))
    )
    constant = target / policy - 0.2 * np.log(policy)
    np.testing.assert_allclose(constant, constant[0], rtol=1e-2)
    exact = script.jax.nn.softmax(
        script.train(script.jnp.zeros(3), script.jnp.asarray(target), 0.0)
    )
    np.testing.assert_allclose(exact, target, atol=1e-3)
