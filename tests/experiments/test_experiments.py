"""The commands that read and order runs: tables, curves of several seeds, ablations."""

import json

import numpy as np
import pytest
from helpers.tiny import load_script

from ez_jax.config import to_dict, validate
from ez_jax.presets import PRESETS, classic
from ez_jax.runner import spending
from ez_jax.runner.metrics import read_metrics


def finished(folder, seed: int, mean: float, together: int = 1, **more):
    """A finished run, as far as a table reads it."""
    folder.mkdir(parents=True)
    result = {
        "game": "CartPole-v1",
        "env_steps": 8000,
        "updates": 4000,
        "seed": seed,
        "eval_mean": mean,
        "wall_s": 60.4,
        "seeds_together": together,
    } | more
    (folder / "result.json").write_text(json.dumps(result))
    lines = [
        {"env_steps": 1000 * i, "updates": i, "episode_return": mean * i / 10, "loss/value": None}
        for i in range(1, 11)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_table(tmp_path, capsys):
    table = load_script("table")
    for seed, mean in ((0, 500.0), (1, 100.0), (10, 30.0)):
        finished(tmp_path / "together" / f"seed{seed}", seed, mean, together=3)
    finished(tmp_path / "alone", 0, 7.126)
    assert table.main(["--workdirs", str(tmp_path / "together"), str(tmp_path / "alone")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[2] == "| together | CartPole-v1 | 8,000 | 4,000 | 500.00, 100.00, 30.00 | 210.00 "
        "| 60 s together |"
    )
    assert lines[3] == "| alone | CartPole-v1 | 8,000 | 4,000 | 7.13 | 7.13 | 60 s |"
    assert table.main(["--workdirs", str(tmp_path / "nothing")]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_curves_of_seeds(tmp_path):
    plot = load_script("plot")
    for seed, mean in ((0, 500.0), (1, 100.0)):
        finished(tmp_path / "together" / f"seed{seed}", seed, mean)
    runs = read_metrics(tmp_path / "together")
    assert list(runs) == ["seed0", "seed1"]
    curves = [plot.curve(rows, "episode_return", 10) for rows in runs.values()]
    middle = plot.mean(curves)
    np.testing.assert_allclose(np.interp([2000, 10_000], *middle), [60, 300])
    assert plot.curve(runs["seed0"], "loss/value", 10) is None
    assert (
        plot.main(
            [
                "--workdirs",
                str(tmp_path / "together"),
                "--panels",
                "episode_return",
                "--output",
                str(tmp_path / "new" / "curves.png"),
            ]
        )
        == 0
    )
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def ablation(monkeypatch):
    """The command, which notes what it would run and leaves a result for each seed."""
    script, started = load_script("ablation"), []

    def launch(args, task, preset, announcement):
        started.append((announcement, args.config))
        for seed in range(args.num_seeds):
            finished(script.Path(args.workdir) / f"seed{seed}", seed, 1.0, together=args.num_seeds)
        return 0

    monkeypatch.setattr(script, "launch", launch)
    return script, started


@pytest.mark.parametrize("study", ["parts", "speed"])
def test_ablation(ablation, tmp_path, capsys, study):
    script, started = ablation
    variants = script.STUDIES[study]
    words = [
        "--env=CartPole-v1",
        "--num-seeds=2",
        "--seed=5",
        f"--workdir={tmp_path}",
        f"--study={study}",
    ]
    assert script.main(words) == 0
    # What the task has already is no variant of it.
    base = classic("CartPole-v1")
    names = [
        name
        for name, changes in variants.items()
        if name == "full" or script.replace(base, **changes) != base
    ]
    assert [name for name, _ in started] == names
    configs = [config for _, config in started]
    assert configs[0] == script.replace(base, seed=5)
    assert len({json.dumps(to_dict(config)) for config in configs}) == len(names) >= 6
    for config in configs:
        validate(config)
    assert capsys.readouterr().out.count("| 1.00, 1.00 | 1.00 |") == len(names)
    # What is there already is not run again.
    assert script.main(words) == 0 and len(started) == len(names)


def test_ablation_of_an_atari_preset(ablation, tmp_path):
    script, started = ablation
    assert (
        script.main(
            [
                "--env=Krull-v5",
                "--preset=cpu",
                "--study=speed",
                "--env-steps=20000",
                f"--workdir={tmp_path}",
            ]
        )
        == 0
    )
    assert started[0] == (
        "full",
        script.replace(PRESETS["cpu"], env__id="Krull-v5", env_steps=20_000),
    )
    # The preset reanalyses 32 positions already.
    assert [name for name, _ in started] == [
        name for name in script.SPEED if name != "32 reanalysed positions"
    ]


def test_switches_on_several_tasks(ablation, tmp_path, capsys):
    script, started = ablation
    words = ["--env", "jax/Catch", "drawn/jax/Catch", f"--workdir={tmp_path}", "--env-steps=3000"]
    words += ["--loss.entropy=0.5", "--switch", "reanalyse.mode=off"]
    words += ["loss.entropy=1 loss.entropy-target=0.8,0.1"]
    assert script.main(words) == 0
    assert [name for name, _ in started] == 2 * ["full", *words[-2:]]
    catch, drawn = classic("jax/Catch", env_steps=3000), classic("drawn/jax/Catch", env_steps=3000)
    expected = []
    for whole in (catch, drawn):
        whole = script.replace(whole, loss__entropy=0.5)
        control = dict(loss__entropy=1.0, loss__entropy_target=(0.8, 0.1))
        off = script.replace(whole, reanalyse__mode="off")
        expected += [whole, off, script.replace(whole, **control)]
    assert [config for _, config in started] == expected
    written = sorted(path.relative_to(tmp_path).parts[0] for path in tmp_path.glob("*/*"))
    assert written == 3 * ["drawn-jax-Catch-switches"] + 3 * ["jax-Catch-switches"]
    assert capsys.readouterr().out.count("| 1.00 | 1.00 |") == 6
    assert script.main(words) == 0 and len(started) == 6  # nothing is run again


@pytest.mark.parametrize(
    "switch, message",
    [
        ("reanalyse.mode", "switch 'reanalyse.mode' must be of the form name=value"),
        ("env.num-envs=0", "env.num-envs=0 is out of range"),
    ],
)
def test_bad_switches_are_refused_before_any_run(ablation, tmp_path, capsys, switch, message):
    script, started = ablation
    assert script.main([f"--workdir={tmp_path}", "--switch", "loss.value=1", switch]) == 2
    assert message in capsys.readouterr().err and not started


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
    assert script.main(["--game=Pnog", "--preset=cpu", "--hours=1"]) == 2
    assert "Pong" in capsys.readouterr().err and len(started) == 4


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
