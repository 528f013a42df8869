"""Layers and blocks of the networks, each against an explicit computation."""

import jax
import jax.numpy as jnp
import numpy as np

from ez_jax.actions import Discrete
from ez_jax.agent.unroll import fold_moments
from ez_jax.networks.image import Dynamics, ResBlock, average_pool, space_to_depth
from ez_jax.networks.layers import LSTM, BatchNorm, conv, dense


def test_space_to_depth():
    """Channels of a place: the pixels of its square, row by row, each with its own channels."""
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    out = space_to_depth(x, 2)
    assert out.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(
        out[1, 1, 2], np.concatenate([x[1, 2, 4], x[1, 2, 5], x[1, 3, 4], x[1, 3, 5]])
    )
    np.testing.assert_array_equal(space_to_depth(x, 1), x)


def test_strided_convolution_pads_both_sides():
    """Output (i, j) is centred on pixel (2i, 2j)."""
    x = np.random.default_rng(0).normal(size=(1, 6, 6, 2)).astype(np.float32)
    layer = conv(3, stride=2)
    variables = layer.init(jax.random.key(0), x)
    assert set(variables["params"]) == {"kernel"}  # no bias
    kernel = np.asarray(variables["params"]["kernel"])
    padded = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
    expected = np.array(
        [
            [
                np.tensordot(padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3], kernel, 3)
                for j in range(3)
            ]
            for i in range(3)
        ]
    )
    np.testing.assert_allclose(layer.apply(variables, x)[0], expected, atol=1e-5)
    # The same by one pixel: an image of a single dot at (2, 4), a kernel that only looks at its
    # centre.
    dot, centre = np.zeros((1, 6, 6, 2), np.float32), np.zeros((3, 3, 2, 3), np.float32)
    dot[0, 2, 4], centre[1, 1] = 1, 1
    out = layer.apply({"params": {"kernel": centre}}, dot)[0, :, :, 0]
    np.testing.assert_array_equal(out, [[0, 0, 0], [0, 0, 2], [0, 0, 0]])


def test_average_pool_counts_the_padding():
    """Of ones, a corner sees 4 of 9 and an edge 6 of 9."""
    out = average_pool(jnp.ones((1, 6, 6, 1)))[0, :, :, 0]
    np.testing.assert_allclose(out, np.array([[4, 6, 6], [6, 9, 9], [6, 9, 9]]) / 9, rtol=1e-6)
    # Windows are centred on the even pixels.
    x = np.zeros((1, 6, 6, 1), np.float32)
    x[0, 2, 2] = 9
    np.testing.assert_allclose(average_pool(x)[0, :, :, 0], np.diag([0, 1, 0]), atol=1e-6)


def test_residual_blocks():
    """With kernels of zeros the identity path is left: the input, or its bare strided convolution,
    and a ReLU.
    """
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    for channels, stride in ((3, 1), (5, 2)):
        block = ResBlock(channels, stride)
        variables = jax.tree.map(jnp.zeros_like, block.init(jax.random.key(0), x, False))
        expected = np.maximum(x, 0)
        if stride == 2:
            skip = np.random.default_rng(1).normal(size=(3, 3, 3, channels)).astype(np.float32)
            variables["params"]["skip"]["kernel"] = skip
            expected = np.maximum(
                conv(channels, stride=2).apply({"params": {"kernel": skip}}, x), 0
            )
        np.testing.assert_allclose(block.apply(variables, x, False), expected, atol=1e-6)


def test_action_plane_and_residual_path_of_the_dynamics():
    """One plane of a/|A|, here of weight 8, is added to the state; the state's own kernel is
    zero.
    """
    state = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype(np.float32)
    network = Dynamics(Discrete(4), blocks=1)
    variables = network.init(jax.random.key(0), state, np.array([1, 3]), False)
    params = jax.tree.map(jnp.zeros_like, variables["params"])
    params["Conv_0"]["kernel"] = params["Conv_0"]["kernel"].at[1, 1, 4].set(8.0)
    params["BatchNorm_0"]["scale"] = jnp.ones(4)
    assert params["Conv_0"]["kernel"].shape == (3, 3, 5, 4)
    out = network.apply(
        {"params": params, "batch_stats": variables["batch_stats"]}, state, np.array([1, 3]), False
    )
    plane = 8 * np.array([1 / 4, 3 / 4]).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(out, np.maximum(state + plane, 0), rtol=1e-4, atol=1e-5)


def test_lstm_equals_numpy():
    """Two steps of PyTorch's equations: gates i, f, g, o and two bias vectors."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    rng = np.random.default_rng(0)
    layer, inputs = LSTM(5), rng.normal(size=(2, 3, 7)).astype(np.float32)
    carry = tuple(rng.normal(size=(2, 3, 5)).astype(np.float32))
    variables = layer.init(jax.random.key(0), carry, inputs[0])
    assert {k: {n: x.shape for n, x in v.items()} for k, v in variables["params"].items()} == {
        "input": {"kernel": (7, 20), "bias": (20,)},
        "hidden": {"kernel": (5, 20), "bias": (20,)},
    }
    p = jax.tree.map(np.asarray, variables["params"])
    c, h = carry
    for x in inputs:
        carry, out = layer.apply(variables, carry, x)
        gates = (
            x @ p["input"]["kernel"]
            + p["input"]["bias"]
            + h @ p["hidden"]["kernel"]
            + p["hidden"]["bias"]
        )
        i, f, g, o = (gates[:, 5 * n : 5 * n + 5] for n in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(carry[0], c, atol=1e-6)
        np.testing.assert_allclose(carry[1], h, atol=1e-6)
        np.testing.assert_array_equal(out, carry[1])


def test_lstm_steps_made_together():
    """Three steps at once are three calls; the carry is zero again after the second, and passed on
    at the end.
    """
    rng = np.random.default_rng(0)
    layer, x = LSTM(5), rng.normal(size=(2, 3, 7)).astype(np.float32)
    first = tuple(rng.normal(size=(2, 2, 5)).astype(np.float32))
    variables = layer.init(jax.random.key(0), first, x[:, 0])
    for restart in (0, 2):
        carry, expected = first, []
        for k in range(3):
            carry, out = layer.apply(variables, carry, x[:, k])
            expected.append(out)
            if restart and k == 1:
                carry = jax.tree.map(np.zeros_like, carry)
        last, together = layer.apply(variables, first, x.reshape(6, 7), restart)
        np.testing.assert_allclose(together.reshape(2, 3, 5), np.stack(expected, 1), atol=1e-6)
        np.testing.assert_allclose(last, carry, atol=1e-6)


def test_initial_weights_are_uniform_in_pytorchs_bounds():
    """+-1/sqrt(fan in) for kernels and biases of convolutions and linear layers, +-1/sqrt(units)
    for all of an LSTM.
    """
    key, x = jax.random.key(0), jnp.zeros((1, 100))
    cases = [
        (conv(200).init(key, jnp.zeros((1, 1, 1, 4))), 1 / 6),
        (conv(400, kernel=1, fan_in=4).init(key, jnp.zeros((1, 1, 1, 4))), 1 / 2),
        (dense(200, 100).init(key, x), 1 / 10),
        (LSTM(400).init(key, (jnp.zeros((1, 400)), jnp.zeros((1, 400))), x), 1 / 20),
    ]
    for variables, bound in cases:
        for leaf in map(np.asarray, jax.tree.leaves(variables)):
            # The largest of n uniform numbers lies within a few 1/n of the bound.
            assert bound * (1 - 10 / leaf.size) < np.abs(leaf).max() <= bound
            np.testing.assert_allclose(
                [leaf.mean(), leaf.std()], [0, bound / np.sqrt(3)], atol=0.12 * bound
            )


def test_batch_norm_moves_by_a_tenth():
    """Of a batch with mean 3 and deviation 2, in training; evaluation uses the running statistics
    alone.
    """
    x = jnp.array([[1.0], [5.0]])
    module = BatchNorm()
    out, variables = module.init_with_output(jax.random.key(0), x, True)
    np.testing.assert_allclose(out[:, 0], [-1, 1], atol=1e-4)
    _, sown = module.apply(variables, x, True, mutable=["moments"])
    moved = fold_moments(variables["batch_stats"], sown["moments"], (0,), 1)
    np.testing.assert_allclose([moved["mean"][0], moved["var"][0]], [0.3, 0.9 + 0.4], rtol=1e-5)
    fixed = {"params": variables["params"], "batch_stats": moved}
    evaluated = module.apply(fixed, x, False)
    expected = (np.array([1, 5]) - 0.3) / np.sqrt(1.3)
    np.testing.assert_allclose(evaluated[:, 0], expected, rtol=1e-4)


def test_batch_norm_by_running_averages():
    """These normalise in training too, and the batch's own moments move them."""
    x = jnp.array([[1.0], [5.0]])
    module = BatchNorm(affine=False, running=True)
    variables = {"batch_stats": {"mean": jnp.array([2.0]), "var": jnp.array([9.0])}}
    for train in (False, True):
        out, sown = module.apply(variables, x, train, mutable=["moments"])
        np.testing.assert_allclose(out[:, 0], [-1 / 3, 1], rtol=1e-5)
    moved = fold_moments(variables["batch_stats"], sown["moments"], (0,), 1)
    expected = [0.9 * 2 + 0.1 * 3, 0.9 * 9 + 0.1 * 4]
    np.testing.assert_allclose([moved["mean"][0], moved["var"][0]], expected, rtol=1e-5)


def test_groups_of_batch_norm_are_batches_of_their_own():
    """Samples 0 and 1, and 2 and 3; the sown moments are the means of both, for each step."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 5, 2)), jnp.float32)  # 3 steps
    whole, groups = BatchNorm(spatial=1), BatchNorm(2, spatial=1)
    variables = whole.init(jax.random.key(0), x, True)

    def call(module, x):
        out, sown = module.apply(variables, x, True, mutable=["moments"])
        return out, sown["moments"]["batch"]

    found, moments = call(groups, x)
    parts = [call(whole, x[at]) for at in (slice(0, 2), slice(2, 4))]
    np.testing.assert_allclose(found, np.concatenate([part[0] for part in parts]), atol=1e-6)
    for name in ("mean", "variance"):
        expected = sum(getattr(part[1], name) for part in parts) / 2
        np.testing.assert_allclose(getattr(moments, name), expected, atol=1e-6)
    assert np.abs(found - call(whole, x)[0]).max() > 0.1


def test_one_hot_planes_of_the_dynamics():
    """Each action has a plane, and so a weight, of its own: the state's kernel is zero, action a
    adds 2 a^2.
    """
    state = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
    network, action = Dynamics(Discrete(3), blocks=1, one_hot=True), np.arange(3)
    variables = network.init(jax.random.key(0), state, action, False)
    params = jax.tree.map(jnp.zeros_like, variables["params"])
    assert params["Conv_0"]["kernel"].shape == (3, 3, 4 + 3, 4)
    params["Conv_0"]["kernel"] = (
        params["Conv_0"]["kernel"].at[1, 1, 4:].set(2.0 * action[:, None] ** 2)
    )
    params["BatchNorm_0"]["scale"] = jnp.ones(4)
    out = network.apply(
        {"params": params, "batch_stats": variables["batch_stats"]}, state, action, False
    )
    np.testing.assert_allclose(
        out, np.maximum(state + np.array([0, 2, 8]).reshape(3, 1, 1, 1), 0), rtol=1e-4, atol=1e-4
    )
