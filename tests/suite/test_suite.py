"""Many runs from one command: the list, what is refused, a kill, and the report of it all."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import pytest
from helpers.tiny import command, load_script

from ez_jax.config import to_dict
from ez_jax.presets import PRESETS, classic
from ez_jax.suite import jobs as jobs_lib
from ez_jax.suite import published
from ez_jax.suite.jobs import agree

SMALL = "--env-steps=150 --cycle.warmup-steps=90 --cycle.batch-size=4 --network.channels=8 "
SMALL += "--cycle.final-updates=0 --cycle.updates-per-act=2 --env.num-envs=4 --target.td-steps=2 "
SMALL += "--target.unroll-steps=2 --run.log-every=4 --run.checkpoint-every=20 "
SMALL += "--run.eval-episodes=2 --search.num-simulations=2"


@pytest.fixture
def suite(monkeypatch):
    """The command, on a machine without an accelerator."""
    script = load_script("suite")
    monkeypatch.setattr(script, "backend", lambda: "cpu")
    jax.devices()  # those of the other tests
    before = jax.config.jax_platforms
    yield script
    jax.config.update("jax_platforms", before)


def listed(suite, *words):
    mine, settings = suite.split(words)
    return list(suite.list_jobs(suite.tyro.cli(suite.Args, args=mine), settings))


def test_the_list(suite, tmp_path):
    """Seed by seed; settings go for all, switches for their variant; presets of each task's own."""
    words = f"--tasks jax/Catch walker-walk Pong --num-seeds=2 --seed=3 --workdir={tmp_path} "
    words += "--env-steps=3000 --switch loss.consistency=0 --switch network.value-prefix=False"
    found = listed(suite, *words.split())
    whole, prefix = "auto", "auto-network.value-prefix=False"
    # dmc-cpu predicts single rewards already.
    assert [job.name for job in found[:8]] == [
        f"{name}/{task}/seed3"
        for task in ("jax_Catch", "walker-walk", "Pong")
        for name in (whole, "auto-loss.consistency=0", prefix)
        if (task, name) != ("walker-walk", prefix)
    ]
    # A cluster's variables are not for the runs: each is alone.
    assert all("--local" in job.command for job in found)
    assert len(found) == 16 and {job.config.seed for job in found[8:]} == {4}
    replace = suite.replace
    catch = replace(classic("jax/Catch", env_steps=3000), seed=3)
    assert found[0].config == catch
    assert found[1].config == replace(catch, loss__consistency=0.0)
    pong = replace(PRESETS["cpu"], env__id="Pong-v5", env_steps=3000, seed=3)
    assert found[5].config == pong and found[5].workdir == tmp_path / "auto/Pong/seed3"
    assert found[3].config.env.id == "WalkerWalk-v1"
    # The command makes the run.
    script = load_script(found[1].command[0].rpartition("/")[2].removesuffix(".py"))
    args = script.parse(list(found[1].command[1:]))
    assert args.config == found[1].config and args.workdir == str(found[1].workdir)
    assert args.resume


def test_the_benchmark_and_the_studies(suite):
    found = listed(suite, "--tasks", "atari100k", "--preset=cpu", "--study=paper")
    games = sorted(published.ATARI)
    assert len(games) == 26 and len(found) == 26 * 5
    assert [job.task for job in found[::5]] == games
    # The whole and the four ablations are five different computations.
    assert len({json.dumps(to_dict(job.config)) for job in found[:5]}) == 5
    assert all(job.config.env.id == f"{job.task}-v5" for job in found)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--tasks Pnog", "the nearest are: Pong"),
        ("--tasks jax/Cath", "the nearest are: jax/Catch"),
        ("--tasks jax/Catch --switch loss.value", "must be of the form name=value"),
        ("--tasks jax/Catch --switch env.num-envs=0", "env.num-envs=0 is out of range"),
        ("--tasks jax/Catch --study=prats", "must be one of paper, parts, speed"),
        ("--tasks jax/Catch --jobs=0", "must be at least 1"),
        ("--tasks Pong --hours=1", "give --network.channels and --cycle.updates-per-act"),
        ("--tasks Pong --switch hours=1", "give --network.channels and --cycle.updates-per-act"),
        ("--tasks jax/Catch --import not_there", "cannot import not_there"),
        ("--tasks --dry-run", "at least one task"),
    ],
)
def test_bad_input_is_refused_before_any_run(suite, tmp_path, capsys, words, message):
    assert suite.main([*words.split(), f"--workdir={tmp_path / 'new'}"]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind, presets", [("cpu", ("cpu", "dmc-cpu")), ("tpu", ("paper", "dmc"))])
def test_auto_is_resolved_once(suite, monkeypatch, kind, presets):
    """From the devices that the runs will have, which this process leaves alone."""
    asked = []
    monkeypatch.setattr(suite, "backend", lambda: asked.append(0) or kind)

    def never():
        raise AssertionError("the accelerator was opened")

    monkeypatch.setattr(jax, "default_backend", never)
    found = listed(suite, "--tasks", "Pong", "walker-walk", "jax/Catch", "--switch", "loss.value=1")
    assert {job.set for job in found} == {"auto", "auto-loss.value=1"} and asked
    for job in found:
        chosen = [word for word in job.command if word.startswith("--preset")]
        names = dict(zip(("Pong", "walker-walk"), presets))
        assert chosen == [f"--preset={names[job.task]}"] if job.task in names else not chosen
    pong = suite.replace(PRESETS[presets[0]], env__id="Pong-v5")
    assert found[0].config == pong


def test_another_process_tells_which_devices_there_are(monkeypatch):
    script = load_script("suite")
    assert script.backend() == jax.default_backend()
    script.backend.cache_clear()
    monkeypatch.setenv("JAX_PLATFORMS", "none_such")
    with pytest.raises(ValueError, match=r"cannot find out which devices there are: .*none_such"):
        script.backend()


def test_tasks_of_ones_own_are_imported_first(suite, monkeypatch, tmp_path, capsys):
    (tmp_path / "mine_of_the_suite.py").write_text(
        "from ez_jax.envs import register\n"
        "from ez_jax.envs.catch import Catch\n"
        'register("mine/Small", lambda: Catch(6, 3))\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    words = ["--import", "mine_of_the_suite", "--tasks", "mine/Small", "--dry-run"]
    assert suite.main(words) == 0
    assert jax.config.jax_platforms == "cpu"  # this process leaves accelerators to the runs
    told = capsys.readouterr().out
    assert "--env=mine/Small --import mine_of_the_suite --seed=0" in told


def test_a_switch_that_changes_nothing_is_left_out(suite, tmp_path, capsys):
    """The mixed target of CartPole has no off-policy correction; EfficientZero-V2 counts its
    simulations by the actions.
    """
    words = ["--tasks", "CartPole-v1", "--study=paper", f"--workdir={tmp_path}"]
    assert len(listed(suite, *words)) == 4
    said = "left out: target.off-policy-correction=False changes nothing for CartPole-v1"
    assert said in capsys.readouterr().out
    words = ["--tasks", "Pong", "--preset=v2", "--switch", "search.num-simulations=8"]
    assert len(listed(suite, *words, f"--workdir={tmp_path}")) == 1


def test_what_no_new_run_may_have_is_refused_before_it_is_written_down(suite, tmp_path, capsys):
    words = ["--tasks", "Pong", "--preset=v2", f"--workdir={tmp_path / 'suite'}"]
    assert suite.main([*words, "--reanalyse.ratio=0.5"]) == 2
    assert "reanalyse.ratio=0.5 is out of range" in capsys.readouterr().err
    parts = ["--tasks", "Pendulum-v1", "--study=parts", f"--workdir={tmp_path / 'suite'}"]
    assert suite.main(parts) == 2
    assert "search.algorithm='muzero'" in capsys.readouterr().err
    assert not (tmp_path / "suite").exists()


def test_a_task_named_twice_is_one(suite, tmp_path):
    words = ["--tasks", "jax/Catch", "jax/Catch", f"--workdir={tmp_path}"]
    assert listed(suite, *words) == listed(suite, words[0], words[1], words[3])


def test_a_folder_that_is_none(suite, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert suite.main(["--tasks", "jax/Catch", f"--workdir={tmp_path / 'file'}"]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_other_settings_are_refused(suite, tmp_path, capsys):
    words = ["--tasks", "jax/Catch", f"--workdir={tmp_path}"]
    agree(listed(suite, *words))
    agree(listed(suite, *words, "--num-seeds=3", "--run.log-every=7"))  # no number changes
    for option, message in (
        ("--loss.value=0.5", "loss.value: 0.25 -> 0.5"),
        ("--run.eval-simulations=50", "run.eval_simulations: 0 -> 50"),  # other scores
        ("--run.eval-episodes=8", "run.eval_episodes: 32 -> 8"),
    ):
        assert suite.main([*words, option]) == 2
        assert f"holds runs with other settings: {message}" in capsys.readouterr().err
    (path,) = tmp_path.rglob("settings.json")
    settings = json.loads(path.read_text())
    # Begun before a setting existed, which then has its default; or before scores were agreed on.
    del settings["loss"]["amplitude"]
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"settings: loss.amplitude: 0.0 -> 0.1"):
        agree(listed(suite, *words, "--loss.amplitude=0.1"))
    agree(listed(suite, *words))
    path.write_text(json.dumps({k: v for k, v in settings.items() if k != "run"}))
    agree(listed(suite, *words, "--run.eval-episodes=8"))
    assert json.loads(path.read_text())["run"] == {"eval_episodes": 8, "eval_simulations": 0}
    path.write_text(json.dumps(settings | {"gone": 1}))
    with pytest.raises(ValueError, match="gone: 1 -> None"):
        agree(listed(suite, *words))
    path.write_text("{")
    assert suite.main(words) == 2
    assert f"cannot read {path}" in capsys.readouterr().err


@pytest.mark.parametrize("ended, status", [((15, {}), 143), ((2, {}), 130), ((0, {"a": 1}), 1)])
def test_the_status_of_a_suite(suite, tmp_path, monkeypatch, ended, status):
    monkeypatch.setattr(suite, "work", lambda *_, **__: jobs_lib.Ended(ended[1], ended[0]))
    assert suite.main(["--tasks", "jax/Catch", f"--workdir={tmp_path}"]) == status


@pytest.mark.slow
def test_a_suite_that_is_killed_goes_on_and_is_reported(tmp_path):
    """Two tasks, two seeds, the whole and two switches; SIGKILL in the middle; two processes share
    the rest.
    """
    words = "--tasks jax/Catch CartPole-v1 --num-seeds=2 "
    words += "--switch loss.consistency=0 --switch network.value-prefix=False "
    words += f"--workdir={tmp_path} {SMALL}"
    start = command("suite.py", *words.split())
    first = subprocess.Popen(start, stdout=subprocess.DEVNULL)
    results = lambda: sorted(tmp_path.glob("*/*/seed*/result.json"))
    while len(results()) < 3 and first.poll() is None:
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = {path: path.stat().st_mtime_ns for path in results()}
    assert 3 <= len(kept) < 12
    for path in (tmp_path / ".owners").iterdir():  # a minute passes
        os.utime(path, (time.time() - 120,) * 2)
    both = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("12 of 12 runs are finished" in text for text in said)
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    begun = [line.split()[0] for text in said for line in text.splitlines() if "begins" in line]
    assert len(begun) == len(set(begun)) == 12 - len(kept)

    sets = sorted(path for path in tmp_path.iterdir() if not path.name.startswith("."))
    report = load_script("report")
    assert report.main(["--sets", *map(str, sets), f"--output={tmp_path / '.report'}"]) == 0
    page = (tmp_path / ".report" / "README.md").read_text()
    for path in results():
        result = json.loads(path.read_text())
        name = "/".join(path.parts[-4:])
        (row,) = [line for line in page.splitlines() if line.endswith(f"| {name} |")]
        assert f"{result['eval_mean']:.4g}" in row and result["game"] in row
