"""The command for any task, and several seeds in one program, as a user sees them; and that a small
task is learned.
"""

import json
import os
import re
import shlex
import shutil

import jax.numpy as jnp
import pytest
from helpers.tiny import (
    ROOT,
    assert_same_bits,
    call,
    load_script,
    metrics,
    numbers,
    options,
    small_classic,
    status,
)

from ez_jax import restore, run_seeds
from ez_jax.cli import imports
from ez_jax.config import applicable, replace, to_dict, validate
from ez_jax.observations import observation_shape
from ez_jax.presets import classic, continuous
from ez_jax.runner import train
from ez_jax.runner.checkpoint import Checkpoints
from ez_jax.runner.evaluation import _act, evaluate, make_evaluation_envs
from ez_jax.runner.stopping import Stopped

# Many lines and checkpoints: a signal always finds the run between two of them.
TASKS = {
    task: replace(
        small_classic(task), run__log_every=2, run__checkpoint_every=8, run__eval_simulations=3
    )
    for task in ("CartPole-v1", "jax/Catch")
}
FILES = ("config.json", "metrics.jsonl", "eval.csv", "result.json", "checkpoints")

# The task's preset with two thirds of its environment steps.
CATCH_STEPS = 10_000


def words(task: str) -> list[str]:
    return [
        f"--env={task}",
        "--preset=debug",
        "--num-seeds=2",
        *options(TASKS[task], classic(task, debug=True)),
    ]


@pytest.fixture(scope="module", params=TASKS, ids=lambda task: task.rpartition("/")[2])
def finished(request, tmp_path_factory):
    """Uninterrupted runs of two seeds by the command: on the host, and in compiled cycles."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    done = call("classic.py", *words(request.param), f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return request.param, workdir, done


def only(task: str):
    """Takes the finished runs of one task alone."""
    return pytest.mark.parametrize("finished", [task], indirect=True, ids=[task.rpartition("/")[2]])


def assert_same_run(workdir, reference):
    for seed in ("seed0", "seed1"):
        assert metrics(workdir / seed) == metrics(reference / seed)
        assert_same_bits(workdir / seed, reference / seed)


@pytest.mark.slow
def test_each_seed_writes_everything(finished):
    task, workdir, done = finished
    config = TASKS[task]
    assert sorted(p.name for p in workdir.iterdir()) == ["seed0", "seed1"]
    for seed in (0, 1):
        folder = workdir / f"seed{seed}"
        assert all((folder / name).exists() for name in FILES) and list(
            folder.glob("events.out.tfevents*")
        )
        shown = applicable(replace(config, seed=seed), image=False, atari=False, vectors=False)
        assert json.loads((folder / "config.json").read_text()) == shown
        result = json.loads((folder / "result.json").read_text())
        assert (result["seed"], result["seeds_together"], result["game"], result["preset"]) == (
            seed,
            2,
            task,
            "debug",
        )
        assert (result["env_steps"], result["updates"]) == (config.env_steps, config.total_updates)
        assert (
            result["eval_episodes"] == config.run.eval_episodes
            and result["eval_simulations"] == 3
            and result["human_normalized"] is None
        )
        rows = metrics(folder)
        assert (rows[-1]["env_steps"], rows[-1]["updates"]) == (
            config.env_steps,
            config.total_updates - config.total_updates % 2,
        )
        assert {"episode_return", "games", "loss/policy", "loss/value"} <= rows[0].keys()
        lines = (folder / "eval.csv").read_text().splitlines()
        assert (
            lines[0] == "episode,seed,return,length" and len(lines) == 1 + config.run.eval_episodes
        )
        assert f"final score of seed {seed}" in done.stdout
    # Both seeds have the same checkpoints.
    assert Checkpoints(workdir / "seed0").steps() == Checkpoints(workdir / "seed1").steps()
    assert "2 seeds at once" in done.stdout


@pytest.mark.slow
def test_each_seed_is_restored_with_numbers_of_its_own(finished):
    task, workdir, _ = finished
    for seed in (0, 1):
        restored = restore(workdir / f"seed{seed}")
        assert restored.config == replace(TASKS[task], seed=seed)
        assert int(restored.state.actor.env_steps) == TASKS[task].env_steps
        assert int(restored.state.learner.updates) == TASKS[task].total_updates
    assert metrics(workdir / "seed0") != metrics(workdir / "seed1")
    same = [
        (a == b).all()
        for a, b in zip(numbers(workdir / "seed0"), numbers(workdir / "seed1"), strict=True)
    ]
    assert sum(same) < len(same) / 2


@pytest.mark.slow
def test_evaluate_command_plays_a_seeds_games_again(finished, tmp_path):
    task, workdir, _ = finished
    episodes = TASKS[task].run.eval_episodes
    done = call(
        "evaluate.py",
        f"--workdir={workdir / 'seed1'}",
        f"--episodes={episodes}",
        "--simulations=3",
        f"--output={tmp_path / 'scores'}",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scores.csv").read_text() == (workdir / "seed1" / "eval.csv").read_text()


@only("jax/Catch")
@pytest.mark.slow
def test_exploring_games_draw_their_actions_and_come_again(finished):
    _, workdir, _ = finished
    restored = restore(workdir / "seed1")
    network, config, variables = restored.network, restored.config, restored.variables
    greedy, exploring, again = (
        evaluate(network, config, variables, episodes=4, explore=explore)
        for explore in (False, True, True)
    )
    assert exploring == again and exploring.actions != greedy.actions
    # The noise is another one at each step, and none when greedy.
    stack = jnp.zeros(
        (64, *observation_shape(make_evaluation_envs(config, 1).spec(config.env.stack)))
    )

    def actions(explore, step):
        return _act(network, config, None, explore, variables, stack, step)

    assert (actions(True, 0) != actions(True, 1)).any() and (
        actions(False, 0) == actions(False, 1)
    ).all()


@pytest.mark.slow
def test_resumes_from_what_both_seeds_have(finished, tmp_path):
    """A kill between the two saves of a checkpoint leaves one seed behind, and lines of metrics
    that are written again.
    """
    task, reference, _ = finished
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    older, newest = sorted(Checkpoints(workdir / "seed1").steps())
    shutil.rmtree(workdir / "seed1" / "checkpoints" / str(newest))
    for seed in ("seed0", "seed1"):
        (workdir / seed / "result.json").unlink()
    run_seeds(TASKS[task], workdir, 2, resume=True, evaluate_after=False)
    assert Checkpoints(workdir / "seed1").steps() == {older, newest}
    assert_same_run(workdir, reference)


@only("jax/Catch")
@pytest.mark.slow
def test_refuses_to_overwrite_and_to_resume_other_seeds(finished):
    task, workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    with pytest.raises(ValueError, match="seed0 holds a run already: go on with --resume"):
        run_seeds(TASKS[task], workdir, 2)
    with pytest.raises(ValueError, match=r"another config: search.num_simulations: 4 -> 5$"):
        run_seeds(replace(TASKS[task], search__num_simulations=5), workdir, 2, resume=True)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


@pytest.mark.parametrize(
    "word, message",
    [
        ("--env=LqrLqr21-v1", "LqrLqr21-v1 has unbounded actions (up to 1e+10)"),
        ("--env=CartPol-v1", "unknown task 'CartPol-v1'; the nearest are: CartPole-v1"),
        ("--env=", "unknown task ''"),
        (
            "--env=Pendulum-v1 --search.algorithm=muzero",
            "search.algorithm='muzero': actions that are vectors need gumbel",
        ),
        (
            "--env=drawn/jax/Catch --network.patch=3",
            "network.patch=3 is out of range: it must divide the images' 40 pixels",
        ),
        (
            "--search.wide-deviation=inf",
            "search.wide-deviation=inf is out of range: it must be finite",
        ),
        ("--loss.entropy-target nan 0", "loss.entropy-target=(nan, 0.0) is out of range"),
        ("--env=jax/Cath", "unknown task 'jax/Cath'; the nearest are: jax/Catch"),
        ("--num-seeds=0", "num-seeds=0 is out of range: it must be at least 1"),
        ("--env.id=Acrobot-v1", "env.id=Acrobot-v1 is set by --env: give the task there"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, capfd, word, message):
    workdir = f"--workdir={tmp_path / 'run'}"
    assert status("classic", "--preset=debug", workdir, *word.split()) == 2
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err.strip().splitlines()[-1].startswith(
        f"error: {message}"
    )
    assert "Traceback" not in printed.err and not list(tmp_path.iterdir())


def test_folders_of_one_and_of_several_seeds(monkeypatch, tmp_path):
    """Where nothing is said of a folder, task, preset and seeds name it."""
    monkeypatch.chdir(tmp_path)
    script, started = load_script("classic"), []

    def run_together(runs, **_):
        started.append([(str(one.workdir), one.config.seed) for one in runs])
        raise Stopped("enough")

    monkeypatch.setattr(train, "run_together", run_together)
    for more in (
        [],
        ["--seed=3"],
        ["--seed=3", "--num-seeds=2"],
        ["--num-seeds=2", "--workdir=here"],
    ):
        assert script.main(["--env=jax/Catch", "--preset=debug", *more]) == 0
    assert started == [
        [("runs/jax-Catch-debug-seed0", 0)],
        [("runs/jax-Catch-debug-seed3", 3)],
        [("runs/jax-Catch-debug-seeds3-4/seed3", 3), ("runs/jax-Catch-debug-seeds3-4/seed4", 4)],
        [("here/seed0", 0), ("here/seed1", 1)],
    ]


def test_options_start_from_the_preset_of_the_task():
    script = load_script("classic")
    assert script.parse(["--env=jax/Catch"]).config == classic("jax/Catch")
    assert script.parse(["--env", "CartPole-v1", "--preset", "debug"]).config == classic(
        "CartPole-v1", debug=True
    )
    args = script.parse(
        ["--preset=debug", "--search.algorithm=muzero", "--env=Acrobot-v1", "--num-seeds=3"]
    )
    assert (
        args.config == replace(classic("Acrobot-v1", debug=True), search__algorithm="muzero")
        and args.num_seeds == 3
    )
    assert classic("jax/Catch") != replace(classic("CartPole-v1"), env__id="jax/Catch")


def test_settings_of_continuous_tasks_follow_from_their_actions():
    script = load_script("classic")
    lander = script.parse(["--env=LunarLanderContinuous-v3", "--env-steps=50000"]).config
    assert lander == continuous("LunarLanderContinuous-v3", env_steps=50_000)
    assert (lander.env.action_repeat, lander.reanalyse.mode) == (1, "teacher")
    assert lander.replay.capacity == 62_000
    # Their own settings, indices of a grid, and ids that nothing has.
    for words in (["Pendulum-v1"], ["LunarLanderContinuous-v3", "--env.action-slots=3"], ["None"]):
        config = script.parse(["--env", *words]).config
        slots = config.env.action_slots
        assert config == replace(classic(words[0]), env__action_slots=slots)


def test_settings_of_images_are_for_images():
    """Those of vectors would take months."""
    script = load_script("classic")
    racing = script.parse(["--env=CarRacing-v3"]).config
    assert racing == continuous("CarRacing-v3", image=True)
    assert (racing.network.patch, racing.env.stack, racing.env.pixels) == (2, 4, False)
    walker = script.parse(["--env=WalkerWalk-v1", "--env.pixels=True"]).config
    assert walker == replace(continuous("WalkerWalk-v1", image=True), env__pixels=True)
    pong = script.parse(["--env=Pong-v5", "--preset=debug"]).config
    assert pong == classic("Pong-v5", image=True, debug=True)
    assert (pong.network.patch, pong.env.stack, pong.env.clip_rewards) == (4, 4, False)


def test_settings_of_continuous_tasks_of_ones_own(tmp_path, monkeypatch):
    """A module that `--import` names, among other options, may register the task."""
    (tmp_path / "my_vectors.py").write_text(
        "from ez_jax.envs import register\nfrom ez_jax.envs.catch import Catch\n"
        "class Reach(Catch):\n    num_actions, action_size = None, 2\n"
        "    def step(self, state, action, key):\n"
        "        return super().step(state, 1 * (action[0] > 0), key)\n"
        "register('mine/Reach', lambda: Reach(6, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert imports(["--import", "a", "b", "--seed", "1", "--imports", "c"]) == ("a", "b")
    assert imports(["--import=a", "--import", "b"]) == ("b",)
    words = ["--env=mine/Reach", "--import", "my_vectors"]
    assert load_script("classic").parse([*words, "--seed=1"]).config == replace(
        continuous("mine/Reach"), seed=1
    )
    # One that is not there is refused by `launch`, with the rest.
    assert load_script("classic").parse([*words, "no_such_module"]).imports[1] == "no_such_module"


@pytest.mark.parametrize(
    "words",
    [
        ["--env-steps=20000"],
        ["--env-steps", "20000"],
        ["--env_steps=20_000"],
        ["--env-steps=5000", "--env-steps=20000"],
    ],
)
def test_shares_of_the_budget_follow_the_command_line(words):
    """20,000 steps of 4 environments with 2 updates each are 10,000 updates: T1 is 0.3 of these, T2
    0.05 of the steps.
    """
    config = load_script("classic").parse(["--env=CartPole-v1", *words]).config
    assert (config.env_steps, config.target.search_value_after, config.target.fresh_steps) == (
        20_000,
        3000,
        1000,
    )
    assert config.replay.capacity == 26_000


def test_drawn_tasks_learn_from_a_teacher():
    for more in ({}, {"debug": True}, {"env_steps": 100_000}):
        config = classic("drawn/jax/Catch", **more)
        validate(config)
        assert config.reanalyse.mode == "teacher" and config.env.id == "drawn/jax/Catch"
        assert config.replay.capacity >= 1.2 * config.env_steps


def test_every_command_of_the_texts_is_understood():
    script = load_script("classic")
    commands = re.findall(
        r"python experiments/classic.py (.*)", script.__doc__ + (ROOT / "README.md").read_text()
    )
    configs = [script.parse(shlex.split(line, comments=True)).config for line in commands]
    for config in configs:
        validate(config)
    assert len({json.dumps(to_dict(config)) for config in configs}) >= 3


@pytest.mark.slow
def test_learns_catch(tmp_path):
    """From noise to the best policy: the whole algorithm works, not just its parts. A random policy
    returns about -0.6.
    """
    # In a process of its own: a thousand updates are worth the compiler's optimisation, which is
    # off in the other tests.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = call(
        "classic.py",
        "--env=jax/Catch",
        f"--env-steps={CATCH_STEPS}",
        f"--workdir={tmp_path / 'run'}",
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["env_steps"] == CATCH_STEPS and result["eval_mean"] >= 0.9
