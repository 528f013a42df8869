"""The benchmark counts what it says it counts, and its files and comparisons are right. No test
asserts a time.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import load_script

from ez_jax.agent import priorities
from ez_jax.agent import replay as replay_lib
from ez_jax.presets import DEBUG
from ez_jax.runner import timing


@pytest.fixture
def scripts():
    """`benchmark` and `scaling`, `timing`, and the compilation cache as it was."""
    before = jax.config.jax_enable_compilation_cache
    yield {"timing": timing} | {name: load_script(name) for name in ("benchmark", "scaling")}
    jax.config.update("jax_enable_compilation_cache", before)


def test_work_by_hand(scripts):
    """A product of 3x5 and 5x7 takes 2 * 3 * 5 * 7 operations, in whatever way it is lowered."""
    work = scripts["timing"].count_work(lambda a, b: a @ b, jnp.ones((3, 5)), jnp.ones((5, 7)))
    assert work.flops == 210 and work.bytes > 0
    twice = work + work.times(2)
    assert (twice.flops, twice.bytes) == (630, 3 * work.bytes)


def test_runs_until_the_budget_is_spent(scripts):
    calls = []
    minimum, median, runs = scripts["timing"].time_calls(
        lambda x: calls.append(x) or x, (jnp.ones(1),), 0.0, least=4
    )
    assert runs == 4 and len(calls) == 5 and 0 < minimum <= median
    *_, runs = scripts["timing"].time_calls(lambda x: x, (jnp.ones(1),), 60.0, most=6)
    assert runs == 6


@pytest.mark.slow
def test_whole_command(scripts, tmp_path, capsys, monkeypatch):
    benchmark, timing = scripts["benchmark"], scripts["timing"]
    found = timing.Ceilings(2e9, 1e9, 1e9)
    monkeypatch.setattr(benchmark, "ceilings", lambda: found)
    words = ["--sizes", "debug", "--only", "encode", "--roots", "2", "3", "--seconds", "0"]
    first = tmp_path / "first.json"
    assert (
        benchmark.main(
            [*words, "--output", str(first), "--picture", str(tmp_path / "roofline.png")]
        )
        == 0
    )
    content = json.loads(first.read_text())
    assert {"command", "commit", "device", "versions", "ceilings", "peak_memory"} <= content.keys()
    assert [row["name"] for row in content["rows"]] == ["encode 2", "encode 3"]
    two, three = content["rows"]
    # Three images are half as much work again as two; the parameters stay.
    np.testing.assert_allclose(three["flops"] / two["flops"], 1.5, rtol=1e-3)
    assert (
        two["memory_bytes"] > 0 and two["compile_s"] > 0 and 0 < two["minimum_s"] <= two["median_s"]
    )
    assert (tmp_path / "roofline.png").stat().st_size > 5000

    # An earlier run that took twice the time, on a machine of half the speed: twice as fast, no
    # more of the ceiling.
    rows = [timing.Row(**row) for row in content["rows"]]
    slower = [row._replace(minimum_s=2 * row.minimum_s) for row in rows]
    timing.write(first, timing.Ceilings(1e9, 1e9, 1e9), slower)
    table = benchmark.table(rows, found, timing.read(first))
    columns = {column.header: list(column.cells) for column in table.columns}
    assert columns["faster"] == ["2.00", "2.00"] and columns["share x"] == ["1.00", "1.00"]
    assert columns["share"][0] == f"{two['flops'] / two['minimum_s'] / 2e9:.0%}"
    capsys.readouterr()
    assert benchmark.main([*words, "--compare", str(first)]) == 0
    assert "faster" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--sizes", "huge"], "size 'huge': there are paper, v2, cpu, debug"),
        (["--sizes", "dmc-cpu"], "size 'dmc-cpu': there are paper, v2, cpu, debug"),
        (["--only", "sleep"], "row 'sleep': there are encode, search"),
        (["--compare", "nowhere.json"], "no file nowhere.json"),
    ],
)
def test_bad_input_before_any_work(scripts, capsys, words, message):
    assert scripts["benchmark"].main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_random_inputs_are_what_the_stages_take(scripts):
    """Windows of a drawn position, and a replay in which every position but the unfinished last
    ones can be drawn.
    """
    benchmark = scripts["benchmark"]
    model = benchmark.make_model("debug")
    held = benchmark.random_replay(DEBUG, model.spec, 40)
    k, n, stack = DEBUG.target.unroll_steps, DEBUG.target.td_steps, DEBUG.env.stack
    assert int(np.sum(priorities.drawable(held, DEBUG))) == 4 * (40 - k - n)
    positions = priorities.sample(held, jax.random.key(0), 6, DEBUG)
    np.testing.assert_allclose(positions.probability, 1 / (4 * (40 - k - n)), rtol=1e-5)
    drawn = replay_lib.gather(held, positions, jnp.asarray(0), jnp.asarray(0), DEBUG)
    made = benchmark.random_batch(model, 6)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, drawn)
    assert (
        made.frames.shape == (6, stack + k, 80, 80, 1) and made.frames.dtype == drawn.frames.dtype
    )


def test_scaling_command(scripts, tmp_path, capsys, monkeypatch):
    scaling = scripts["scaling"]
    assert scaling.main(["--sweeps", "weather"]) == 2
    assert "sweep 'weather': there are batch" in capsys.readouterr().err
    assert scaling.main(["--sweeps", "batch", "devices"]) == 2
    assert "devices must run alone" in capsys.readouterr().err

    def sweep(args):
        for x in (4, 64):
            yield scaling.point(
                "replay",
                "insert",
                x,
                args.seconds,
                lambda a, b: a + b,
                jnp.zeros(x),
                jnp.ones(x),
                donated=True,
            )

    monkeypatch.setattr(scaling, "SWEEPS", {"replay": sweep})
    output = tmp_path / "scaling.json"
    assert (
        scaling.main(
            [
                "--sweeps",
                "replay",
                "--seconds",
                "0",
                "--output",
                str(output),
                "--picture",
                str(tmp_path / "scaling.png"),
            ]
        )
        == 0
    )
    points = json.loads(output.read_text())["points"]
    # The donated argument's memory is the result's: two arrays of floats, not three.
    assert [p["memory_bytes"] for p in points] == [2 * 4 * 4, 2 * 64 * 4]
    assert (tmp_path / "scaling.png").stat().st_size > 5000


def test_exponent_by_hand(scripts):
    """8 times the time for 4 times the size is an exponent of 1.5."""
    scaling = scripts["scaling"]
    line = [
        scaling.Point("batch", "update", x, t, t, 0) for x, t in ((16, 1.0), (32, 9.0), (64, 8.0))
    ]
    np.testing.assert_allclose(scaling.exponent(line), 1.5)
    assert list(scaling.curves([*line, line[0]._replace(stage="other")])) == [
        ("batch", "update"),
        ("batch", "other"),
    ]
    assert len(scaling.curves(line)["batch", "update"]) == 3
