"""The page of the algorithm, called as it stands: no mesh and no compiled stages."""

import jax
import numpy as np
from helpers.loops import warmed_up
from helpers.tiny import CARTPOLE

from ez_jax.agent.agent import Agent, OneDevice


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_one_device_needs_no_mesh():
    """Each stage does alone what it does on a mesh of one device."""
    loop, state = warmed_up(CARTPOLE, updates=1, devices=1)
    stages = loop.stages
    agent = Agent(CARTPOLE, stages.network, stages.agent.terms)
    assert isinstance(agent.lanes, OneDevice)
    state, selected = jax.jit(agent.select)(state)
    copy = jax.tree.map(lambda x: x + 0 if x.dtype != state.key.dtype else x, state)
    del selected

    alone, found = jax.jit(agent.select)(copy)
    meshed, expected = stages.select(state.replace(learner=jax.tree.map(np.copy, state.learner)))
    np.testing.assert_array_equal(found.action, expected.action)
    same(found, expected)

    alone, drawn = jax.jit(agent.draw)(alone)
    meshed, expected = stages.draw(meshed)
    same(drawn, expected)
    alone, meshed = jax.jit(agent.reanalyse)(alone, drawn), stages.reanalyse(meshed, expected)
    same(alone.replay, meshed.replay)
    (alone, found), (meshed, metrics) = (
        jax.jit(agent.learn)(alone, drawn),
        stages.learn(meshed, expected),
    )
    same(alone.learner, meshed.learner)
    same(found, metrics)


def test_update_is_draw_reanalyse_learn():
    loop, state = warmed_up(CARTPOLE, devices=1)
    agent = Agent(CARTPOLE, loop.stages.network, loop.stages.agent.terms)

    def by_hand(state):
        state, drawn = agent.draw(state)
        return agent.learn(agent.reanalyse(state, drawn), drawn)

    same(jax.jit(agent.update)(state), jax.jit(by_hand)(state))
    assert int(jax.jit(agent.update)(state)[0].learner.updates) == 1
