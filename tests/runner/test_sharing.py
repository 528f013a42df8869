"""A model in a folder of its own: the same numbers as the run that it comes from."""

import json

import jax
import numpy as np
import pytest
from helpers.tiny import CATCH, load_script

from ez_jax import restore, run
from ez_jax.runner.checkpoint import CheckpointError
from ez_jax.runner.sharing import MODEL, VARIABLES, Model, export, shareable


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A work directory, and the folder made of it."""
    folder = tmp_path_factory.mktemp("sharing")
    run(CATCH, folder / "run")
    words = [f"--workdir={folder / 'run'}", f"--output={folder / 'model'}"]
    assert load_script("export").main(words) == 0
    return folder / "run", folder / "model"


def test_a_model_is_its_run(folders):
    whole, shared = map(restore, folders)
    assert shared.config == whole.config == CATCH
    assert (shared.env_steps, shared.updates) == (CATCH.env_steps, CATCH.total_updates)
    assert shared.state is None and whole.state is not None
    assert jax.tree.structure(shared.variables) == jax.tree.structure(whole.variables)
    jax.tree.map(np.testing.assert_array_equal, shared.variables, whole.variables)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(shared.variables))


@pytest.mark.slow
def test_it_plays_the_same_games(folders, tmp_path):
    script = load_script("evaluate")
    found = []
    for folder in folders:
        words = [f"--workdir={folder}", "--episodes=3", f"--output={tmp_path / folder.name}.csv"]
        assert script.main(words) == 0
        found.append((tmp_path / f"{folder.name}.csv").read_text())
    assert found[0] == found[1] and len(found[0].splitlines()) == 4


def test_the_card_tells_the_score(folders):
    result = json.loads((folders[0] / "result.json").read_text())
    card = (folders[1] / "README.md").read_text()
    assert f"Mean return {result['eval_mean']:.6g}" in card and "# jax/Catch" in card
    assert f"commit {result['commit'] or '-'}" in card and "jax 0." in card
    assert sum(path.stat().st_size for path in folders[1].iterdir()) < 100_000


def test_a_run_that_was_not_evaluated(folders, tmp_path):
    whole = restore(folders[0])
    model = Model(whole.config, whole.variables, whole.env_steps, whole.updates)
    export(model, {"env_steps": 150, "command": "python train.py"}, tmp_path / "model")
    assert "Not evaluated." in (tmp_path / "model" / "README.md").read_text()
    assert restore(tmp_path / "model").updates == CATCH.total_updates


def test_the_command_names_no_folder():
    for where in ("--workdir=/home/me/runs/x", "--workdir '/home/me/my runs/x'"):
        command = f"python experiments/atari100k.py --game=Pong {where} --resume --seed=1"
        found = shareable({"command": command, "eval_mean": 1.0})
        wanted = "python experiments/atari100k.py --game=Pong --seed=1"
        assert found == {"command": wanted, "eval_mean": 1.0}
    suite = (
        "python /home/me/ez_jax/experiments/classic.py --env=jax/Catch --workdir=/home/me/runs/x"
    )
    wanted = "python experiments/classic.py --env=jax/Catch"
    assert shareable({"command": suite}) == {"command": wanted}


def test_refusals(folders, tmp_path, capsys):
    words = [f"--workdir={folders[0]}", f"--output={folders[1]}"]
    assert load_script("export").main(words) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert load_script("export").main([f"--workdir={tmp_path}", f"--output={tmp_path / 'x'}"]) == 2
    assert "no run in" in capsys.readouterr().err and not (tmp_path / "x").exists()
    about = json.loads((folders[1] / MODEL).read_text())
    (tmp_path / MODEL).write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=r"cannot read the model in .*variables.npz"):
        restore(tmp_path)
    (tmp_path / VARIABLES).write_bytes(b"not a zip file")
    with pytest.raises(CheckpointError, match="cannot read the model"):
        restore(tmp_path)
    with np.load(folders[1] / VARIABLES) as arrays:
        whole = dict(arrays)
    name = next(iter(whole))
    for damaged, message in (
        ({k: v for k, v in whole.items() if k != name}, f"damaged: {name} is nothing, not"),
        (whole | {name: np.zeros((7, 5))}, rf"damaged: {name} is \(7, 5\), not"),
        (whole | {"params/more": np.zeros(3)}, r"params/more is \(3,\), not nothing"),
    ):
        np.savez(tmp_path / VARIABLES, **damaged)
        with pytest.raises(CheckpointError, match=message):
            restore(tmp_path)
    for damaged, message in (({}, "holds no 'format'"), ([1], "holds no model")):
        (tmp_path / MODEL).write_text(json.dumps(damaged))
        with pytest.raises(CheckpointError, match=message):
            restore(tmp_path)
    (tmp_path / "file").write_text("")
    words = [f"--workdir={folders[0]}", f"--output={tmp_path / 'file'}"]
    assert load_script("export").main(words) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
    words = [f"--workdir={folders[1]}", f"--output={tmp_path / 'file' / 'scores'}"]
    assert load_script("evaluate").main(words) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
    (tmp_path / MODEL).write_text(json.dumps(about | {"format": 7}))
    with pytest.raises(CheckpointError, match="has format 7 of another version"):
        restore(tmp_path)
