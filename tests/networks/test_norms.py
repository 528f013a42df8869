"""Who sees the rest of a batch: LayerNorm, BatchNorm and the statistics that they leave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny_networks import TINY, VECTOR, count, shapes

from ez_jax import config as config_lib
from ez_jax.networks import Network, init_variables


def others_shuffled(x, seed):
    """The batch with the entries of all samples but the first shuffled among them: each entry keeps
    its mean and variance.
    """
    rng, x = np.random.default_rng(seed), np.array(x)
    x[1:] = rng.permuted(x[1:], axis=0)
    return x


@pytest.mark.parametrize(
    "norm, residual, inputs, alone",
    [
        ("layer", "post", "batch", True),
        ("layer", "pre", "batch", True),
        ("layer", "post", "running", True),
        ("layer", "pre", "running", True),
        ("batch", "post", "batch", False),
    ],
)
def test_layer_norm_does_not_care_about_the_rest_of_a_batch(norm, residual, inputs, alone):
    """Training on a batch, the first sample's outputs are its own; the input's BatchNorm sees only
    mean and variance, or not even these.
    """
    config = config_lib.replace(TINY, norm=norm, residual=residual, input_norm=inputs)
    network = Network(config, VECTOR)
    variables = jax.jit(lambda key: init_variables(network, key))(jax.random.key(0))
    rng = np.random.default_rng(0)
    # Zero-initialised heads would hide everything.
    variables["params"] = jax.tree.map(
        lambda x: x + rng.normal(0, 0.3, x.shape).astype(np.float32), variables["params"]
    )

    def forward(net, observation, state, memory, action):
        return (
            net.encode(observation, True),
            net.predict(state, True),
            net.step(state, memory, action, True),
        )

    def run(observation, others):
        state, memory = jnp.abs(others[:, :4]), (others[:, 4:9], others[:, 9:14])
        return network.apply(
            variables,
            observation,
            state,
            memory,
            jnp.arange(6) % 3,
            method=forward,
            mutable=["moments"],
        )[0]

    observation, others = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 8), (6, 14)))
    replaced = np.concatenate([others[:1], 3 * others[:0:-1] + 1])
    compiled = jax.jit(run)
    before, after = (
        compiled(observation, others),
        compiled(others_shuffled(observation, 1), replaced),
    )
    outputs = [
        (np.asarray(a)[0], np.asarray(b)[0])
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after))
    ]
    assert len(outputs) == 7  # state; value and policy; next state, cell, output and prefix
    if alone:
        for a, b in outputs:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        # The input does see its batch, but by running averages.
        moved = compiled(observation * np.arange(1, 7, dtype=np.float32)[:, None], others)
        assert (np.abs(moved[0][0] - before[0][0]).max() > 1e-3) == (inputs == "batch")
    else:
        for i in (0, 1, 2, 3, 6):
            assert np.abs(outputs[i][0] - outputs[i][1]).max() > 1e-3


def test_where_layer_norm_leaves_statistics():
    """In the input's BatchNorm, which has no parameters, and in the projections; not in dynamics,
    trunk or heads.
    """
    statistics, params = {}, {}
    for norm in ("batch", "layer"):
        variables = shapes(config_lib.replace(TINY, norm=norm), VECTOR)[1]
        statistics[norm], params[norm] = variables["batch_stats"], variables["params"]
    assert set(statistics["batch"]) == {
        "representation",
        "dynamics",
        "trunk",
        "value_prefix",
        "value_head",
        "policy_head",
        "projector",
        "projector_norm",
        "predictor",
    }
    assert set(statistics["layer"]) == {
        "representation",
        "projector",
        "projector_norm",
        "predictor",
    }
    assert jax.tree.map(jnp.shape, statistics["layer"]["representation"]) == {
        "BatchNorm_0": {"mean": (8,), "var": (8,)}
    }
    assert not any("BatchNorm" in name for name in params["layer"]["representation"])
    assert count(params["layer"]) == count(params["batch"])
