"""Evaluation: games that never end, actions that stick, scores that cannot be compared, videos."""

import itertools

import imageio.v2 as imageio
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import BREAKOUT, CATCH

from ez_jax.config import replace
from ez_jax.envs import describe, register
from ez_jax.envs.functional import Reset, Step
from ez_jax.networks import Network, init_variables
from ez_jax.presets import CPU, DEBUG, classic, continuous
from ez_jax.runner import evaluation
from ez_jax.runner.evaluation import Episode, Evaluation, evaluate, summary
from ez_jax.runner.video import check_video, enlarged, record_video


class Endless:
    """Pays the last action, for ever."""

    num_actions = 3

    def reset(self, key):
        return Reset(jnp.zeros(()), jnp.zeros(3))

    def step(self, state, action, key):
        no = jnp.zeros((), bool)
        return Step(state, jax.nn.one_hot(action, 3), action.astype(float), no, no)


class Long(Endless):
    """Ends after 20 steps."""

    time_limit = 20

    def step(self, state, action, key):
        step = super().step(state, action, key)
        return step._replace(state=state + 1, truncated=state >= 19)


class Pushed(Long):
    """The same with a vector of one entry for an action, which is paid."""

    num_actions, action_size = None, 1

    def step(self, state, action, key):
        step = super().step(state, jnp.int32(0), key)
        return step._replace(reward=action[0])


@pytest.fixture
def endless():
    register("test/Endless", Endless)
    config = replace(CATCH, env__id="test/Endless", env__eval_max_episode_steps=0)
    network = Network(config.network, describe(config.env, config.env.stack).spec)
    return network, config, init_variables(network, jax.random.key(0))


def test_a_game_that_nothing_ends_is_cut_and_this_is_said(endless, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "DEFAULT_LIMIT", 12)
    found = evaluate(*endless, episodes=2)
    assert [episode.length for episode in found.episodes] == [12, 12] and len(found.actions) == 12
    assert "test/Endless has no limit: games end after 12 steps" in capsys.readouterr().out
    network, config, variables = endless
    # A limit of the task's own counts, whatever its length.
    register("test/Endless", lambda: Long())
    assert [e.length for e in evaluate(network, config, variables, episodes=2).episodes] == [20, 20]
    assert "no limit" not in capsys.readouterr().out
    config = replace(config, env__eval_max_episode_steps=5)
    found = evaluate(network, config, variables, episodes=2)
    assert [episode.length for episode in found.episodes] == [5, 5]
    assert "no limit" not in capsys.readouterr().out


def test_a_long_evaluation_says_how_far_it_is(endless, monkeypatch, capsys):
    clock = itertools.count(step=4)
    monkeypatch.setattr(evaluation.time, "monotonic", lambda: next(clock))
    network, config, variables = endless
    config = replace(config, env__eval_max_episode_steps=6)
    evaluate(network, config, variables, episodes=2)
    said = capsys.readouterr().out
    assert "0 of 2 games are over after " in said and "2 of 2" not in said


def test_actions_that_stick(endless):
    """Each game sticks at steps of its own, the same in every evaluation; the rest is greedy."""
    network, config, variables = endless
    config = replace(config, env__eval_max_episode_steps=40)
    # A network without training takes one action; noise of the search makes others.
    free, stuck, again = (
        evaluate(network, config, variables, episodes=3, explore=True, sticky=sticky)
        for sticky in (0.0, 0.5, 0.5)
    )
    assert stuck == again != free
    repeats = np.mean(np.diff(stuck.actions) == 0)
    assert repeats > np.mean(np.diff(free.actions) == 0)


def found(score):
    return Evaluation([Episode(0, 1_000_000, score, 100)], [0])


def test_vectors_are_drawn_anew_at_each_step():
    """A network that knows nothing, with a mean of 0, pushes to either side: with the same draws at
    each step a game would be one push. Twice the same games all the same.
    """
    register("test/Pushed", Pushed)
    config = continuous("test/Pushed", debug=True)
    network = Network(config.network, describe(config.env, config.env.stack).spec)
    variables = init_variables(network, jax.random.key(0))
    games, again = (evaluate(network, config, variables, episodes=2) for _ in range(2))
    pushes = np.concatenate(games.actions)
    assert pushes.size == 20 and len(set(pushes.tolist())) == 20
    assert -0.5 < pushes.mean() < 0.5
    np.testing.assert_array_equal(pushes, np.concatenate(again.actions))
    np.testing.assert_allclose(games.scores[0], pushes.sum(), rtol=1e-5)


def test_only_whole_games_have_a_human_normalised_score():
    """Pong: (-18.6 + 20.7) / (14.6 + 20.7); 27,000 steps of 4 frames are the protocol's 108,000."""
    whole = summary(CPU, found(-18.6))
    np.testing.assert_allclose(whole["human_normalized"], 2.1 / 35.3, rtol=1e-3)
    assert summary(replace(CPU, env__eval_max_episode_steps=0), found(0.0))["human_normalized"]
    for short in (DEBUG, BREAKOUT, replace(CPU, env__frame_skip=2)):
        assert summary(short, found(0.0))["human_normalized"] is None


def test_where_a_video_goes_is_checked_before_a_game_is_played(tmp_path):
    check_video(CPU, tmp_path / "a" / "b" / "pong.mp4")
    assert (tmp_path / "a" / "b").is_dir()
    with pytest.raises(ValueError, match=r"ends in .mp4, .gif, .*, not as pong$"):
        check_video(CPU, tmp_path / "pong")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot make"):
        check_video(CPU, tmp_path / "file" / "pong.mp4")
    with pytest.raises(ValueError, match="has no images of bytes"):
        check_video(CATCH, tmp_path / "catch.mp4")


def test_a_drawn_game_as_a_video(tmp_path):
    """Nine steps of Catch: ten frames, four pixels a cell made nine times as large."""
    config = classic("drawn/jax/Catch")
    for name in ("catch.gif", "catch.mp4"):
        record_video(config, [0] * 9, tmp_path / name)
    assert (tmp_path / "catch.mp4").stat().st_size > 500
    frames = imageio.mimread(tmp_path / "catch.gif")
    assert len(frames) == 10 and frames[0].shape[:2] == (320, 160)
    assert np.abs(frames[0].astype(int) - frames[5]).max() > 100  # the ball falls


def test_what_is_shown_beside_the_frames_of_a_video(tmp_path):
    def grey(step, height):
        return np.full((height, 64, 3), 10 * step, np.uint8)

    record_video(classic("drawn/jax/Catch"), [0] * 9, tmp_path / "a.gif", beside=grey)
    frames = imageio.mimread(tmp_path / "a.gif")
    assert frames[0].shape[:2] == (320, 160 + 64)
    assert [int(frame[..., -32, 0].mean()) for frame in frames] == [10 * i for i in range(10)]


def test_frames_are_enlarged_by_whole_factors():
    frame = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    grown = enlarged(frame)
    assert grown.shape == (160, 240, 3) and grown.dtype == np.uint8
    np.testing.assert_array_equal(grown[::80, ::80], np.repeat(frame, 3, axis=-1))
    assert enlarged(np.zeros((210, 160, 3), np.uint8)).shape == (210, 160, 3)
