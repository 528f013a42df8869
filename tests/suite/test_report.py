"""The page about many runs: every number from the files."""

import gzip
import json
import re

import numpy as np
import pytest
from helpers.tiny import load_script

from ez_jax.suite import pictures, report
from ez_jax.suite.published import ATARI, CONTROL, published
from ez_jax.suite.results import collect, normalised, scores, tasks_of, unit, units_of

PNG = b"\x89PNG"


def finish(folder, task, seed, mean, **more):
    """A finished run, as far as a report reads it."""
    folder.mkdir(parents=True)
    result = {
        "game": task,
        "env_steps": 8000,
        "updates": 4000,
        "seed": seed,
        "eval_mean": mean,
        "eval_episodes": 32,
        "flop": 1.5e13,
        "wall_s": 120.0,
        "device": "1 x cpu",
        "commit": "0123456789",
    } | more
    (folder / "result.json").write_text(json.dumps(result))
    lines = [
        {"env_steps": 1000 * i, "updates": i, "episode_return": mean * i / 10, "loss/value": None}
        for i in range(1, 11)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def atari(tmp_path):
    """Two games, two sets; the second set lacks a game."""
    for seed, (pong, breakout) in enumerate([(-3.05, 16.1), (14.6, 30.5), (-20.7, 1.7)]):
        finish(tmp_path / "whole" / "Pong" / f"seed{seed}", "Pong", seed, pong)
        finish(tmp_path / "whole" / "Breakout" / f"seed{seed}", "Breakout", seed, breakout)
        finish(tmp_path / "without" / "Pong" / f"seed{seed}", "Pong", seed, -20.7)
    return tmp_path


def test_scores_are_normalised_by_their_kind():
    assert unit("Pong") == "human-normalised score"
    assert normalised("Pong", 14.6) == 1 and normalised("Pong", -20.7) == 0
    assert unit("WalkerWalk-v1") == "return / 1000" and normalised("WalkerWalk-v1", 500) == 0.5
    assert unit("PointMassEasy-v1") == "return / 1000"  # in no table of ours
    assert unit("Pendulum-v1") == "return"
    assert unit("jax/Catch") == "return" and normalised("jax/Catch", -0.5) == -0.5
    assert published("Pong")["SPR"] == -5.9 and published("Pong")["EfficientZero"] == 20.1
    assert published("WalkerWalk-v1")["EfficientZero-V2"] == 944 and not published("jax/Catch")
    assert len(ATARI) == 26 and len(CONTROL) == 20


def test_the_published_means_follow_from_the_table():
    """EfficientZero's 1.94 (1.945 of these numbers) and SPR's .70, as published."""
    found = {"EfficientZero": [], "SPR": []}
    for game in ATARI:
        for method, values in found.items():
            values.append(normalised(game, published(game)[method]))
    np.testing.assert_allclose(np.mean(found["EfficientZero"]), 1.94, atol=0.01)
    np.testing.assert_allclose(np.mean(found["SPR"]), 0.70, atol=0.01)


def test_a_page_by_hand(atari):
    sets = collect([atari / "whole", atari / "without"])
    assert tasks_of(sets) == ["Breakout", "Pong"]
    assert units_of(sets) == ["human-normalised score"]
    np.testing.assert_allclose(
        scores(sets["whole"], ["Breakout", "Pong"]).values, [[0.5, 0.5], [1, 1], [0, 0]]
    )
    page = report.write(sets, atari / "report").read_text()
    rows = {line.split(" | ")[0][2:]: line for line in page.splitlines() if line.startswith("| ")}
    assert "| 16.1 (16.1, 30.5, 1.7) | - |" in rows["Breakout"]
    assert "| -20.7 | 14.6 | -5.9 |" in rows["Pong"]
    assert "-3.05 (-3.05, 14.6, -20.7) | -20.7 (-20.7, -20.7, -20.7) |" in rows["Pong"]
    aggregates = [line for line in page.splitlines() if line.startswith("| whole | 2 | 6 | 0.5 [")]
    assert len(aggregates) == 1 and aggregates[0].count("0.5 [") == 4
    # A run of the whole beats one without on Pong with 2/3 + 1/2 of 1/3.
    assert "| whole | - | 0.8333 [" in page
    assert "| whole | Breakout | 1 | 30.5 | 32 | 8,000 | 4,000 | 1.5e+13 | 2 | 1 x cpu | 0123456 "
    assert page.count("result.json |") == 9
    for name in ("aggregates-human-normalised", "profiles-human-normalised", "curves"):
        assert f"]({name}.png)" in page
        assert (atari / "report" / f"{name}.png").read_bytes().startswith(PNG)


def test_returns_of_several_tasks_are_not_averaged(tmp_path):
    finish(tmp_path / "set" / "a", "jax/Catch", 0, 0.5)
    finish(tmp_path / "set" / "b", "CartPole-v1", 0, 500.0)
    finish(tmp_path / "other", "jax/Catch", 0, 1.0)
    page = report.write(collect([tmp_path / "set"]), tmp_path / "one").read_text()
    assert "Over tasks" not in page and "| CartPole-v1 | 500 (500) |" in page
    page = report.write(collect([tmp_path / "other"]), tmp_path / "two").read_text()
    assert "## Over tasks: return" in page and "optimality gap" not in page


def test_units_have_pictures_of_their_own(tmp_path):
    """Returns as they are and returns / 1000."""
    finish(tmp_path / "set" / "a", "CartPole-v1", 0, 400.0)
    finish(tmp_path / "set" / "b", "WalkerWalk-v1", 0, 800.0)
    page = report.write(collect([tmp_path / "set"]), tmp_path / "page").read_text()
    pictures = re.findall(r"!\[.*\]\((.*)\)", page)
    assert len(pictures) == len(set(pictures)) == 5
    assert all((tmp_path / "page" / name).exists() for name in pictures)


def test_returns_from_pixels_are_told_from_published_ones(tmp_path):
    folder = tmp_path / "set" / "a"
    finish(folder, "WalkerWalk-v1", 0, 800.0)
    for pixels in (False, True):
        (folder / "config.json").write_text(json.dumps({"env": {"pixels": pixels}}))
        page = report.write(collect([tmp_path / "set"]), tmp_path / "page").read_text()
        assert ("From pixels: set; published returns are from states." in page) == pixels


def test_rows_tell_what_is_dirty_and_of_how_many_seeds(tmp_path):
    more = dict(commit="8a1322612b82-dirty", seeds_together=8, wall_s=7200.0)
    finish(tmp_path / "set" / "a", "CartPole-v1", 0, 400.0, **more)
    row = report.runs_table(collect([tmp_path / "set"])).splitlines()[-1]
    assert "| 8a13226-dirty |" in row and "| 120 for 8 seeds |" in row


def test_games_cut_short_are_not_normalised(atari, tmp_path):
    """By the result of a game of Atari, by the limit of a task of DeepMind Control (500 decisions);
    and that is said."""
    finish(atari / "whole" / "cut", "Pong", 7, 20.0, human_normalized=None)
    finish(atari / "cut" / "Pong", "Pong", 0, 20.0, human_normalized=None)
    for seed, limit in ((0, 100), (1, 500), (2, 0)):
        folder = tmp_path / "walker" / f"seed{seed}"
        finish(folder, "WalkerWalk-v1", seed, 900.0 if seed else 10.0)
        env = {"eval_max_episode_steps": limit, "action_repeat": 2}
        (folder / "config.json").write_text(json.dumps({"env": env}))
    sets = collect([atari / name for name in ("whole", "without", "cut", "walker")])
    assert [run.whole for run in sets["walker"]] == [False, True, True]
    assert scores(sets["whole"], ["Breakout", "Pong"]).values.shape == (3, 2)
    assert not scores(sets["cut"], ["Pong"]).tasks
    assert scores(sets["walker"], ["WalkerWalk-v1"]).values.tolist() == [[0.9], [0.9]]
    page = report.write(sets, atari / "report").read_text()
    assert "| whole | 2 | 6 | 0.5 [" in page and "| walker | 1 | 2 | 0.9 [" in page
    assert "| cut | " not in page.partition("## Over tasks")[2].partition("## Runs")[0]
    said = "games cut short: whole: Pong, seed 7; cut: Pong, seed 0; walker: WalkerWalk-v1, seed 0."
    assert said in page
    # Nothing else: no aggregates.
    alone = collect([atari / "cut"])
    assert units_of(alone) == []
    assert "Over tasks" not in report.write(alone, atari / "alone").read_text()


def test_refusals(atari, capsys):
    script = load_script("report")
    assert script.main(["--sets", str(atari / "nothing")]) == 2
    assert "no finished run" in capsys.readouterr().err
    finish(atari / "whole" / "again", "Pong", 1, 0.0)
    assert script.main(["--sets", str(atari / "whole")]) == 2
    assert "whole holds seed 1 of Pong twice" in capsys.readouterr().err
    (atari / "whole" / "again" / "result.json").write_text('{"game": ')
    assert script.main(["--sets", str(atari / "whole")]) == 2
    assert "again/result.json: " in capsys.readouterr().err
    words = ["--sets", str(atari / "without"), f"--output={atari / 'page'}"]
    assert script.main([*words, "--panels", "episode_retrun"]) == 2
    assert "'episode_retrun'; nearest: episode_return" in capsys.readouterr().err
    assert not (atari / "page").exists()


def test_what_is_not_finished_is_left_out(atari, capsys):
    """A suite that is still at work, and a run whose games were not played."""
    for name, result in (("empty", None), ("unplayed", {"game": "Pong", "seed": 0})):
        (atari / name).mkdir()
        if result:
            (atari / name / "result.json").write_text(json.dumps(result))
    script, output = load_script("report"), atari / "page"
    sets = [str(atari / name) for name in ("whole", "empty", "unplayed")]
    assert script.main(["--sets", *sets, f"--output={output}"]) == 0
    told = capsys.readouterr().out
    assert "empty is finished" in told and "unplayed is finished" in told and "whole is" not in told
    assert "6 runs in 1 sets" in (output / "README.md").read_text()


def test_folders_of_one_name_are_sets_of_their_own(tmp_path):
    """Of two suites: the same seeds before and after a change."""
    for place, mean in (("before", 1.0), ("after", 3.0)):
        finish(tmp_path / place / "auto" / "Pong" / "seed0", "Pong", 0, mean)
    finish(tmp_path / "after" / "other" / "Pong" / "seed0", "Pong", 0, 5.0)
    folders = [tmp_path / name for name in ("before/auto", "after/auto", "after/other")]
    found = {name: [run.score for run in runs] for name, runs in collect(folders).items()}
    assert found == {"before/auto": [1.0], "after/auto": [3.0], "other": [5.0]}


def test_variants_of_an_archive_are_sets(tmp_path):
    runs = [
        {"variant": name, "seed": seed, "result": {"game": "Pong", "seed": seed, "eval_mean": 1.0}}
        for name, seed in (("a", 1), ("a", 0), ("b", 0))
    ]
    runs[0]["result"]["human_normalized"] = None
    runs.append({"variant": "stopped", "seed": 0, "config": {}, "result": None})
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    with gzip.open(tmp_path / "metrics.jsonl.gz", "wt") as file:
        for name, seed in (("a", 0), ("a", 1), ("b", 0)):
            for updates in (1, 2):
                row = {"variant": name, "seed": seed, "updates": updates, "x": 10 * seed + updates}
                file.write(json.dumps(row) + "\n")
    found = collect([tmp_path])
    assert [run.whole for run in found["a"]] == [True, False]
    curves = report._metrics(found)
    assert [[row["x"] for row in rows] for rows in curves["a"]["Pong"]] == [[1, 2], [11, 12]]
    assert [[row["variant"] for row in rows] for rows in curves["b"]["Pong"]] == [["b", "b"]]
    assert {name: [run.seed for run in runs] for name, runs in found.items()} == {
        "a": [0, 1],
        "b": [0],
    }


@pytest.mark.slow
def test_archives_are_read(tmp_path):
    """A study of this repository: its table and curves, from the raw files."""
    script = load_script("report")
    folder = script.Path(__file__).parents[2] / "experiments" / "results" / "cartpole_ablation"
    assert script.main(["--sets", str(folder), f"--output={tmp_path}"]) == 0
    page = (tmp_path / "README.md").read_text()
    assert "puct_search" in page and (tmp_path / "curves.png").read_bytes().startswith(PNG)
    runs = json.loads((folder / "runs.json").read_text())
    assert page.count("cartpole_ablation/runs.json") == len(runs)


def test_one_legend_names_all_sets(monkeypatch):
    """Also those that have no run of the first task; not those without any curve."""
    rows = [{"env_steps": i, "episode_return": float(i)} for i in range(3)]
    sets = {"a": {"Boxing": [rows]}, "b": {"Pong": [rows, rows]}, "c": {"Pong": [[]]}}
    figures = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: figures.append(figure))
    panels = [("Boxing", "episode_return"), ("Pong", "episode_return")]
    pictures.curves_picture(sets, panels, None)
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert [line.get_color() for line in legend.get_lines()] == ["C0", "C1"]
    assert all(axis.get_legend() is None for axis in figures[0].axes)


def test_curves_of_seeds():
    """Where all have values, at the same steps; metrics without a value have no curve."""
    runs = [
        [{"env_steps": 1000 * i, "episode_return": mean * i / 10, "x": None} for i in range(1, 11)]
        for mean in (500.0, 100.0)
    ]
    curves = [pictures.curve(rows, "episode_return", 10) for rows in runs]
    middle = pictures.together(curves)
    found = np.interp([2000, 10_000], middle.steps, middle.values.mean(axis=0))
    np.testing.assert_allclose(found, [60, 300])
    assert pictures.curve(runs[0], "x", 10) is None
    smooth = pictures.curve([{"env_steps": i, "loss": float(i)} for i in range(20)], "loss", 10)
    np.testing.assert_allclose(smooth.values, np.arange(11) + 4.5)
