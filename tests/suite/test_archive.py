"""Archives of runs: written from work directories, read again by the report."""

import csv
import gzip
import json

import pytest
from helpers.tiny import load_script

from ez_jax.suite import report
from ez_jax.suite.archive import archive
from ez_jax.suite.results import collect


@pytest.fixture
def runs(tmp_path):
    """Two games and two seeds, as far as an archive reads them."""
    for task, mean in (("Pong", 1.25), ("Boxing", 3.0)):
        for seed in (0, 1):
            make(tmp_path / "suite" / "cpu" / task / f"seed{seed}", task, seed, mean + seed)
    return tmp_path / "suite" / "cpu"


def make(workdir, task, seed, mean):
    workdir.mkdir(parents=True, exist_ok=True)
    result = {"game": task, "seed": seed, "eval_mean": mean, "wall_s": 1234.56789}
    result |= {"command": f"python atari100k.py --game={task} --workdir={workdir} --resume"}
    (workdir / "result.json").write_text(json.dumps(result))
    (workdir / "config.json").write_text(json.dumps({"seed": seed}))
    rows = [{"env_steps": 8 * i, "updates": i, "loss/total": i / 3} for i in range(1, 6)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    header = "episode,seed,return,length\n"
    (workdir / "eval.csv").write_text(f"{header}0,1000000,{mean},9\n")
    (workdir / "evaluate-2-explore.csv").write_text(f"{header}0,7,{mean - 1},8\n")


def read(folder):
    lines = gzip.decompress((folder / "metrics.jsonl.gz").read_bytes()).decode().splitlines()
    with (folder / "episodes.csv").open() as file:
        games = list(csv.DictReader(file))
    return json.loads((folder / "runs.json").read_text()), games, [json.loads(x) for x in lines]


def test_an_archive_holds_runs_games_and_metrics(runs, tmp_path):
    found = collect([runs])
    added = archive(found, tmp_path / "kept", every=2)
    assert [tuple(key) for key in added] == [
        ("cpu", "Boxing", 0),
        ("cpu", "Boxing", 1),
        ("cpu", "Pong", 0),
        ("cpu", "Pong", 1),
    ]
    saved, games, lines = read(tmp_path / "kept")
    assert saved[3]["config"] == {"seed": 1} and saved[3]["task"] == "Pong"
    assert saved[3]["result"]["command"] == "python atari100k.py --game=Pong"
    assert saved[3]["result"]["wall_s"] == 1234.57
    mine = [(g["mode"], g["return"]) for g in games if g["task"] == "Pong" and g["run_seed"] == "1"]
    assert mine == [("greedy", "2.25"), ("2-explore", "1.25")]
    pong = [row for row in lines if row["task"] == "Pong" and row["seed"] == 1]
    assert [row["updates"] for row in pong] == [1, 3, 5]  # and the last, whatever is left out
    assert pong[0]["loss/total"] == 0.333333
    assert str(tmp_path) not in json.dumps([saved, games, lines])
    # The report says the same of both.
    again = collect([tmp_path / "kept"])
    assert {name: [run[:3] for run in runs] for name, runs in again.items()} == {
        name: [run[:3] for run in runs] for name, runs in found.items()
    }
    curves = report._metrics(again)["cpu"]["Boxing"]
    assert [[row["seed"] for row in rows] for rows in curves] == [3 * [0], 3 * [1]]


def test_games_of_other_parameters_stay_out(runs, tmp_path):
    """Of a run that was extended: its first result, and what `evaluate.py` played before."""
    workdir = runs / "Pong" / "seed0"
    result = json.loads((workdir / "result.json").read_text()) | {"updates": 900}
    (workdir / "result.json").write_text(json.dumps(result))
    game = "episode,seed,return,length\n0,7,0.5,8\n"
    for name, updates in (
        ("eval-4000", None),
        ("evaluate-2-sticky0_25", 400),
        ("evaluate-2-uniform", 900),
    ):
        (workdir / f"{name}.csv").write_text(game)
        if updates:
            (workdir / f"{name}.json").write_text(json.dumps({"updates": updates}))
    archive(collect([workdir], "cpu"), tmp_path / "kept")
    _, games, _ = read(tmp_path / "kept")
    assert [game["mode"] for game in games] == ["greedy", "2-explore", "2-uniform"]


def test_runs_are_added_and_replaced(runs, tmp_path):
    kept = tmp_path / "kept"
    archive(collect([runs]), kept)
    make(runs / "Pong" / "seed1", "Pong", 1, -4.0)
    make(tmp_path / "new", "Alien", 0, 100.0)
    archive(collect([runs / "Pong" / "seed1", tmp_path / "new"], "cpu"), kept)
    saved, games, lines = read(kept)
    scores = {(s["task"], s["seed"]): s["result"]["eval_mean"] for s in saved}
    assert len(saved) == 5 and scores["Pong", 1] == -4 and scores["Pong", 0] == 1.25
    assert scores["Alien", 0] == 100
    assert len(games) == 10 and len(lines) == 25


def test_an_archive_without_tasks_is_added_to(runs, tmp_path):
    """One that was written with one task a variant."""
    result = {"game": "Pong", "seed": 0, "eval_mean": 0.0}
    old = [{"variant": name, "seed": 0, "config": {}, "result": result} for name in ("cpu", "old")]
    (tmp_path / "runs.json").write_text(json.dumps(old))
    header = "variant,run_seed,mode,episode,seed,return,length"
    games = "".join(f"{name},0,greedy,0,5,0.0,9\n" for name in ("cpu", "old"))
    (tmp_path / "episodes.csv").write_text(f"{header}\n{games}")
    with gzip.open(tmp_path / "metrics.jsonl.gz", "wt") as file:
        for name in ("cpu", "old"):
            file.write(json.dumps({"variant": name, "seed": 0, "updates": 9}) + "\n")
    archive(collect([runs / "Pong" / "seed0"], "cpu"), tmp_path)
    saved, games, lines = read(tmp_path)
    assert [(s["variant"], s["result"]["eval_mean"]) for s in saved] == [("old", 0), ("cpu", 1.25)]
    assert [(g["variant"], g["return"]) for g in games if g["mode"] == "greedy"] == [
        ("old", "0.0"),
        ("cpu", "1.25"),
    ]
    assert {g["task"] for g in games} == {"Pong"}
    assert [row["variant"] for row in lines] == ["old"] + 5 * ["cpu"]


def test_archive_command(runs, tmp_path, capsys):
    script, kept = load_script("archive"), tmp_path / "kept"
    words = ["--sets", str(runs / "Pong"), "--variant=preset", f"--output={kept}"]
    assert script.main(words) == 0
    assert "preset: Pong, seed 1" in capsys.readouterr().out
    for bad, message in (
        (["--sets", str(kept), f"--output={tmp_path / 'other'}"], "is an archive"),
        (["--sets", str(tmp_path / "none"), f"--output={kept}"], "no finished run"),
        ([*words, "--every=0"], "at least 1"),
        ([*words, "--output=/proc/none"], "/proc/none"),
    ):
        assert script.main(bad) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other").exists() and len(read(kept)[0]) == 2
