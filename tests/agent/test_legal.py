"""Actions that are not always legal: never taken, never a target, and stored for reanalysis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.loops import start, warmed_up
from helpers.tiny import CATCH

from ez_jax.agent import reanalysis
from ez_jax.agent import replay as replay_lib
from ez_jax.config import replace
from ez_jax.envs import register
from ez_jax.envs.functional import Reset, Step
from ez_jax.runner.evaluation import evaluate
from ez_jax.types import Positions


class Corridor:
    """Step k allows all actions but k % 3; an illegal one ends the episode at once with -1."""

    num_actions = 3
    time_limit = 7

    def legal_actions(self, state):
        return jnp.arange(3) != state % 3

    def _see(self, state):
        return jax.nn.one_hot(state, 8)

    def reset(self, key):
        state = jnp.zeros((), jnp.int32)
        return Reset(state, self._see(state))

    def step(self, state, action, key):
        illegal = action == state % 3
        state = state + 1
        over = illegal | (state >= 7)
        return Step(state, self._see(state), jnp.where(illegal, -1.0, 0.0), over, over & ~over)


@pytest.fixture(scope="module")
def played():
    """A run after a few updates, whose warm-up repeats actions where it may."""
    register("test/Corridor", Corridor)
    config = replace(
        CATCH, env__id="test/Corridor", cycle__warmup_repeat=0.5, reanalyse__positions=32
    )
    loop, state = warmed_up(config, updates=8)
    return config, loop, state


def allowed(offset):
    return np.arange(3) != np.asarray(offset)[..., None] % 3


@pytest.mark.slow
def test_no_illegal_action_is_ever_taken(played):
    _, _, state = played
    replay = jax.device_get(state.replay)
    written = slice(0, int(replay.cursor))
    assert int(replay.cursor) > 25
    taken = ~replay.last[:, written]
    assert (replay.reward[:, written] == 0).all() and (replay.offset[:, written] <= 7).all()
    # Slots store what was legal at their frame.
    expected = allowed(replay.offset)[:, written]
    np.testing.assert_array_equal(replay.legal[:, written][taken], expected[taken])
    chosen = np.take_along_axis(expected, replay.action[:, written][..., None], -1)[..., 0]
    assert chosen[taken].all()


@pytest.mark.slow
def test_targets_are_zero_where_illegal(played):
    """Those of the warm-up, of acting, and of reanalysis."""
    _, _, state = played
    replay = jax.device_get(state.replay)
    taken = ~replay.last[:, : int(replay.cursor)]
    policy, legal = (x[:, : int(replay.cursor)][taken] for x in (replay.policy, replay.legal))
    assert (policy[~legal] < 1e-6).all()
    np.testing.assert_allclose(policy.sum(-1), 1, rtol=1e-5)
    random = replay.refreshed[:, : int(replay.cursor)][taken] == 0
    searched = ~random
    assert searched.any()
    # Warm-up: uniform over what is legal.
    start_of_run = replay.born[:, : int(replay.cursor)][taken] < 60
    unrefreshed = start_of_run & random
    np.testing.assert_allclose(policy[unrefreshed & legal[:, 0]][:, 0], 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["gumbel", "muzero"])
def test_reanalysis_reads_the_stored_mask(played, algorithm):
    config, loop, state = played
    config = replace(config, search__algorithm=algorithm)
    network, variables = loop.stages.network, state.learner.variables
    positions = Positions(jnp.array([0, 1, 2, 3]), jnp.array([9, 10, 11, 12]))
    replay = reanalysis.search_positions(
        network, config, variables, jax.random.key(0), state.replay, positions, jnp.asarray(5)
    )
    legal = np.asarray(replay_lib.legal(replay, positions))
    policy = np.asarray(replay.policy[positions.lane, positions.time])
    assert (policy[~legal] < 1e-6).all() and (~legal).sum() == 4


@pytest.mark.slow
def test_evaluation_is_legal_too(played):
    config, loop, state = played
    found = evaluate(loop.stages.network, config, state.learner.variables, episodes=3)
    assert found.scores.tolist() == [0, 0, 0] and [e.length for e in found.episodes] == [7, 7, 7]


@pytest.mark.slow
def test_games_of_pgx_bring_their_mask():
    pytest.importorskip("pgx")
    config = replace(CATCH, env__id="pgx/2048", env__clip_rewards=True)
    loop, state = start(config)
    assert loop.stages.spec.masked
    legal = np.asarray(state.actor.legal)
    np.testing.assert_array_equal(legal, state.actor.env.inner.legal_action_mask)
    # Two tiles on 4 x 4 places: some lie at an edge, and none cannot be moved.
    assert legal.shape == (4, 4) and legal.any(axis=1).all() and not legal.all()
