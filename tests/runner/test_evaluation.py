"""Evaluation: games that never end, actions that stick or are uniform, scores that cannot be
compared, videos.
"""

import itertools
import json

import imageio.v2 as imageio
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import BREAKOUT, CATCH, ROOT, load_script

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


class Uneven(Endless):
    """Pays one a step and ends after three to eight steps."""

    def reset(self, key):
        return Reset((jax.random.randint(key, (), 3, 9), jnp.int32(0)), jnp.zeros(3))

    def step(self, state, action, key):
        length, at = state[0], state[1] + 1
        over, no = at >= length, jnp.zeros((), bool)
        return Step((length, at), jnp.zeros(3), jnp.ones(()), over, no)


class Corridor:
    """Step k allows all actions but k % 3; an illegal one ends the game with -1."""

    num_actions, time_limit = 3, 7

    def legal_actions(self, state):
        return jnp.arange(3) != state % 3

    def reset(self, key):
        return Reset(jnp.zeros((), jnp.int32), jnp.zeros(2))

    def step(self, state, action, key):
        wrong = action == state % 3
        return Step(state + 1, jnp.zeros(2), jnp.where(wrong, -1.0, 0.0), wrong, state >= 6)


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
    said = capsys.readouterr().out
    assert "test/Endless has no limit that is known: games end after 12 steps" in said
    assert "2 games did not end by themselves: cut after 12 steps" in said
    network, config, variables = endless
    # A limit of the task's own counts, whatever its length.
    register("test/Endless", lambda: Long())
    assert [e.length for e in evaluate(network, config, variables, episodes=2).episodes] == [20, 20]
    assert "no limit" not in capsys.readouterr().out
    config = replace(config, env__eval_max_episode_steps=5)
    found = evaluate(network, config, variables, episodes=2)
    assert [episode.length for episode in found.episodes] == [5, 5]
    assert not capsys.readouterr().out


def bare(task, **changes):
    """A network of a task for uniform play, which asks nothing of its variables."""
    config = replace(CATCH, env__id=task, env__eval_max_episode_steps=0, **changes)
    return Network(config.network, describe(config.env, config.env.stack).spec), config, None


def test_games_that_the_environment_should_have_ended(monkeypatch, capsys):
    """A limit that a task says it has and does not keep: cut one step later; tables without one."""
    register("test/Endless", lambda: Endless())
    monkeypatch.setattr(evaluation, "time_limit", lambda env: 6)
    found = evaluate(*bare("test/Endless"), episodes=2, uniform=True)
    assert [episode.length for episode in found.episodes] == [7, 7]
    said = capsys.readouterr().out
    assert "2 games did not end by themselves: cut after 7 steps" in said and "known" not in said
    monkeypatch.undo()
    monkeypatch.setattr(evaluation, "DEFAULT_LIMIT", 12)
    for limit, length in ((0, 12), (5, 5)):
        network, config, _ = bare("CliffWalking-v1")
        config = replace(config, env__eval_max_episode_steps=limit)
        found = evaluate(network, config, None, episodes=2, uniform=True)
        assert [episode.length for episode in found.episodes] == [length] * 2


def test_what_follows_a_game_is_not_counted():
    """Environments begin again by themselves while the longest game goes on."""
    register("test/Uneven", Uneven)
    found = evaluate(*bare("test/Uneven"), episodes=8, uniform=True)
    lengths = [episode.length for episode in found.episodes]
    assert len(set(lengths)) > 1 and min(lengths) >= 3 and max(lengths) <= 8
    assert found.scores.tolist() == lengths and len(found.actions) == lengths[0] < max(lengths)


def test_a_summary():
    games = [Episode(i, 1_000_000 + i, score, 9) for i, score in enumerate([1.0, 1.0, 4.0])]
    told = summary(CATCH, Evaluation(games, [0], 8))
    assert (told["eval_mean"], told["eval_median"]) == (2, 1)
    assert (told["eval_episodes"], told["eval_distinct"]) == (3, 2)


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
    assert free.simulations == stuck.simulations == config.search.num_simulations


def test_actions_stick_with_their_probability():
    """Each game's dice are those of its own seed; the first step has nothing to repeat."""
    register("test/Long", Long)
    found = evaluate(*bare("test/Long"), episodes=3, uniform=True, sticky=0.5)
    dice = [np.random.default_rng(1_000_000 + game) for game in range(3)]
    before, taken = np.zeros(3, int), []
    for step in range(20):
        drawn = jax.random.randint(jax.random.fold_in(jax.random.key(0), step), (3,), 0, 3)
        stuck = np.array([one.random() < 0.5 for one in dice]) & (step > 0)
        before = np.where(stuck, before, drawn)
        taken.append(before)
    assert found.scores.tolist() == np.sum(taken, axis=0).tolist()
    assert np.array(found.actions).tolist() == [actions[0] for actions in taken]


def test_uniform_actions():
    """Those of a fixed key at each step; a reward is an action of 0, 1 or 2."""
    register("test/Long", Long)
    found = evaluate(*bare("test/Long"), episodes=3, uniform=True)
    keys = [jax.random.fold_in(jax.random.key(0), step) for step in range(20)]
    drawn = np.stack([jax.random.randint(key, (3,), 0, 3) for key in keys])
    assert found.scores.tolist() == drawn.sum(axis=0).tolist()
    assert np.array(found.actions).tolist() == drawn[:, 0].tolist()
    assert found.simulations == 0 and summary(CPU, found)["eval_simulations"] == 0
    register("test/Pushed", Pushed)
    pushes = np.array(evaluate(*bare("test/Pushed"), episodes=2, uniform=True).actions)
    assert pushes.shape == (20, 1) and len(set(pushes.ravel())) == 20
    assert np.abs(pushes).max() < 1 and np.ptp(pushes) > 1
    for asked in (dict(explore=True), dict(simulations=4)):
        with pytest.raises(ValueError, match="uniform actions need no search"):
            evaluate(*bare("test/Long"), episodes=1, uniform=True, **asked)


@pytest.mark.parametrize("sticky", [0.0, 0.9])
def test_only_legal_actions_are_drawn_and_stick(sticky):
    register("test/Corridor", Corridor)
    found = evaluate(*bare("test/Corridor"), episodes=16, uniform=True, sticky=sticky)
    assert [(episode.score, episode.length) for episode in found.episodes] == [(0.0, 7)] * 16
    assert all(action != step % 3 for step, action in enumerate(found.actions))


def test_simulations_that_were_made():
    """EfficientZero-V2's budget by the number of actions, 4 for three; or what is asked for."""
    register("test/Long", Long)
    counted = dict(search__by_action_count=True, search__num_simulations=2)
    network, config, _ = bare("test/Long", **counted)
    variables = init_variables(network, jax.random.key(0))
    for asked, made in ((None, 4), (3, 3)):
        played = evaluate(network, config, variables, episodes=1, simulations=asked)
        assert played.simulations == made == summary(config, played)["eval_simulations"]


def test_the_score_of_chance_by_command(tmp_path, capsys):
    script, model = load_script("evaluate"), ROOT / "experiments" / "models" / "catch"
    words = [f"--workdir={model}", "--episodes=4", "--uniform"]
    assert script.main([*words, f"--output={tmp_path / 'chance0.5'}"]) == 0
    told = json.loads((tmp_path / "chance0.5.json").read_text())
    assert told["uniform"] and told["simulations"] == told["eval_simulations"] == 0
    games = (tmp_path / "chance0.5.csv").read_text().splitlines()[1:]
    returns = [float(game.split(",")[2]) for game in games]
    assert len(returns) == 4 and told["eval_mean"] == np.mean(returns) < 1
    args = script.tyro.cli(script.Args, args=[*words, "--episodes=32"])
    assert script.default_name(args) == "evaluate-32-uniform"
    for more in ("--explore", "--simulations=8"):
        assert script.main([*words, more]) == 2
        assert "leave out --explore and --simulations" in capsys.readouterr().err


def found(score):
    return Evaluation([Episode(0, 1_000_000, score, 100)], [0], 8)


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
