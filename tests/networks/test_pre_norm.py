"""Networks for vectors with LayerNorm before dense layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ez_jax import config as config_lib
from ez_jax import presets
from ez_jax.actions import Continuous
from ez_jax.networks import Network, init_variables
from ez_jax.networks.pre_norm import Block, Dynamics, Representation
from ez_jax.types import EnvSpec

WALKER = EnvSpec(0, (24,), np.float32, 1, action_size=6)


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def linear(params, name, x):
    return x @ params[name]["kernel"] + params[name]["bias"]


def initialised(module, *args):
    """Its variables as numpy, and the module applied to the arguments."""
    variables = module.init(jax.random.key(0), *args)
    return jax.tree.map(np.asarray, variables), module.apply(variables, *args)


def test_block_by_numpy():
    """x + W2 relu(W1 norm(x)), through twice the width; the sum has neither norm nor ReLU."""
    x = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    variables, y = initialised(Block(4), x)
    params = variables["params"]
    assert params["Dense_0"]["kernel"].shape == (4, 8)
    hidden = np.maximum(linear(params, "Dense_0", layer_norm(x)), 0)
    np.testing.assert_allclose(y, x + linear(params, "Dense_1", hidden), rtol=1e-4, atol=1e-5)


def test_representation_by_numpy():
    """The input normalised by running averages, which are 0 and 1 at first; tanh bounds what the
    blocks begin with.
    """
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    variables, y = initialised(Representation(4, 0), x, False)
    first = linear(variables["params"], "Dense_0", x / np.sqrt(1 + 1e-5))
    np.testing.assert_allclose(y, np.tanh(layer_norm(first)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("embedding", [0, 3])
def test_dynamics_by_numpy(embedding):
    """The state and what it and the action change; a state as large as it is."""
    rng = np.random.default_rng(0)
    state = (100 * rng.normal(size=(3, 4))).astype(np.float32)
    action = rng.uniform(-1, 1, (3, 2)).astype(np.float32)
    variables, y = initialised(Dynamics(Continuous(2), 0, embedding), state, action, False)
    params, choice = variables["params"], action
    if embedding:
        choice = np.maximum(layer_norm(linear(params, "action_embedding", action)), 0)
    x = np.concatenate([layer_norm(state), choice], axis=-1)
    change = linear(params, "Dense_1", np.maximum(linear(params, "Dense_0", x), 0))
    np.testing.assert_allclose(y, state + change, rtol=1e-4, atol=1e-4)
    assert np.abs(change).max() < 2  # and not divided by the largest of them


def test_the_preset_of_the_paper_has_it():
    """A latent state of `dmc` may be negative; heads begin at zero."""
    assert presets.DMC.network.residual == "pre"
    network = Network(config_lib.replace(presets.DMC.network, channels=16), WALKER)
    variables = jax.jit(lambda key: init_variables(network, key))(jax.random.key(0))
    observation = jnp.asarray(np.random.default_rng(0).normal(size=(4, 24)), jnp.float32)
    state = network.apply(variables, observation, method=Network.encode)
    value, policy = network.apply(variables, state, method=Network.predict)
    assert state.min() < 0
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(policy, 0)
