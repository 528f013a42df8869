"""The page of the algorithm, called as it stands: no mesh and no stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.loops import warmed_up
from helpers.tiny import CARTPOLE, CATCH

from ez_jax.agent.agent import Agent, OneDevice
from ez_jax.config import replace
from ez_jax.networks import Network
from ez_jax.types import EnvSpec


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_one_device_needs_no_mesh():
    """Acting and an update do alone what the compiled stages do on a mesh of one device."""
    loop, state = warmed_up(CARTPOLE, updates=1, devices=1)
    agent = Agent(CARTPOLE, loop.stages.network, loop.stages.agent.terms)
    assert isinstance(agent.lanes, OneDevice)
    selected, found = jax.jit(agent.select)(state)
    updated, metrics = jax.jit(agent.update)(selected)
    assert int(updated.learner.updates) == 2

    state, expected = loop.stages.select(state)
    np.testing.assert_array_equal(found.action, expected.action)
    same(found, expected)
    state, expected = loop.stages.update(state)
    same(updated, state)
    same(metrics, expected)


@pytest.mark.slow
def test_importance_weights_of_an_update():
    """(N p)^-beta over the largest, and at least so much; beta rises from 0.4 to 1."""
    config = replace(CARTPOLE, replay__importance_exponent=0.4, replay__min_importance_weight=0.1)
    loop, state = warmed_up(config, devices=1)
    agent = Agent(config, loop.stages.network, loop.stages.agent.terms)
    priority = state.replay.priority
    uneven = jnp.where(priority > 0, 4.0 ** (jnp.arange(priority.shape[1]) % 6), 0.0)
    state = state.replace(replay=state.replay.replace(priority=uneven))
    state, drawn = jax.jit(agent.draw)(state)
    learn = jax.jit(agent.learn)
    for updates, beta in ((0, 0.4), (config.total_updates, 1.0)):
        learner = state.learner.replace(updates=jnp.int32(updates))
        _, metrics = learn(state.replace(learner=learner), drawn)
        weight = np.asarray(drawn.probability) ** -beta
        weight = np.maximum(weight / weight.max(), 0.1)
        assert np.ptp(weight) > 0.4
        np.testing.assert_allclose(metrics["replay/mean_weight"], weight.mean(), rtol=1e-4)
        np.testing.assert_allclose(metrics["replay/min_weight"], weight.min(), rtol=1e-4)


def test_values_of_the_warm_up_are_those_of_a_fresh_network():
    """0, whether the value head and the search are asked or not: without reanalysis they stay."""
    spec = EnvSpec(3, (4,), np.float32, 1)
    agent = Agent(CATCH, Network(CATCH.network, spec), {})
    state = agent.init(jax.random.key(0))
    _, random = agent.select_randomly(state)
    _, searched = jax.jit(agent.select)(state)
    for name in ("network_value", "search_value"):
        np.testing.assert_array_equal(getattr(random, name), 0)
        np.testing.assert_allclose(getattr(searched, name), 0, atol=1e-5)
