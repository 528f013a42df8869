"""The page of the algorithm, called as it stands: no mesh and no stages."""

import jax
import numpy as np
import pytest
from helpers.loops import warmed_up
from helpers.tiny import CARTPOLE

from ez_jax.agent.agent import Agent, OneDevice


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
