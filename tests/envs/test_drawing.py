"""Frames of DeepMind Control: the task as from its state, and clear words where none are drawn."""

import numpy as np
import pytest
from helpers.tiny import load_script

from ez_jax.config import EnvConfig, replace
from ez_jax.envs import check_task, describe, drawing, make
from ez_jax.presets import dmc
from ez_jax.presets.control import IMAGES_CPU


@pytest.fixture
def checked_anew():
    drawing.check.cache_clear()
    yield
    drawing.check.cache_clear()


def test_frames_of_the_same_task():
    try:
        drawing.check()
    except ValueError as error:
        pytest.skip(str(error))
    config = EnvConfig(
        id="CartpoleSwingup-v1",
        pixels=True,
        height=32,
        width=48,
        action_repeat=2,
        clip_rewards=False,
    )
    shape = describe(config, 3).spec.frame_shape
    assert shape == (32, 48, 3)
    drawn = make(config, [1, 2], training=True)
    state = make(replace(config, pixels=False), [1, 2], training=True)
    frames = [np.asarray(drawn.reset().frame)]
    state.reset()
    for action in np.linspace(-1, 1, 6, dtype=np.float32):
        actions = np.full((2, 1), action)
        seen, felt = drawn.step(actions), state.step(actions)
        np.testing.assert_array_equal(seen.reward, felt.reward)
        frames.append(np.asarray(seen.frame))
    assert frames[0].shape == (2, *shape) and frames[0].dtype == np.uint8
    assert np.ptp(frames[0]) > 100  # not blank
    assert np.any(frames[0] != frames[-1]) and np.any(frames[0][0] != frames[0][1])


@pytest.mark.parametrize("why", ["missing", "failing"])
def test_where_nothing_can_be_drawn(monkeypatch, checked_anew, why):
    """MuJoCo would end the process."""
    probe = "import sys; print('ERROR: gladLoadGL error', file=sys.stderr); sys.exit(1)"
    monkeypatch.setattr(drawing, "UNLOADED", "no libEGL" if why == "missing" else "")
    monkeypatch.setattr(drawing, "PROBE", probe)
    said = "no libEGL" if why == "missing" else "ERROR: gladLoadGL error"
    with pytest.raises(ValueError, match=f"^env.pixels=True, but MuJoCo cannot draw here: {said}$"):
        check_task(EnvConfig(id="CartpoleSwingup-v1", pixels=True))
    check_task(EnvConfig(id="CartpoleSwingup-v1"))


def test_egl_has_to_come_first():
    assert drawing.load() == "envpool was imported before ez_jax, which has to load EGL first"


@pytest.mark.parametrize("task", ["Pong-v5", "HalfCheetah-v5", "jax/Catch"])
def test_other_tasks_have_no_such_frames(task):
    with pytest.raises(ValueError, match=f"is for tasks of DeepMind Control, which {task} is not"):
        check_task(EnvConfig(id=task, pixels=True))


def test_settings_of_frames():
    parse = load_script("dmc100k").parse
    config = parse(["--task=cartpole-swingup", "--preset=dmc-cpu", "--pixels"]).config
    assert config == dmc("CartpoleSwingup-v1", pixels=True)
    assert config.env_steps == 100_000 and config.replay.capacity == 122_000
    states = dmc("CartpoleSwingup-v1", env_steps=100_000)
    assert config == replace(states, **IMAGES_CPU, env__pixels=True)
    same = parse(["--task=cartpole-swingup", "--preset=dmc-cpu", "--env.pixels=True"])
    assert same.config == config
    with pytest.raises(ValueError, match=r"env.pixels=False beside --pixels"):
        parse(["--task=cartpole-swingup", "--preset=dmc-cpu", "--pixels", "--env.pixels=False"])
    config = parse(
        ["--task=cartpole-swingup", "--preset=dmc-cpu", "--pixels", "--no-pixels"]
    ).config
    assert config == dmc("CartpoleSwingup-v1")
