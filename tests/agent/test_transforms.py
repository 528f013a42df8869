"""Scalar transform and two-hot support, against hand-made numbers and as round trips."""

import jax.numpy as jnp
import numpy as np
import pytest

from ez_jax.agent.transforms import (
    logits_to_scalar,
    scalar_to_probs,
    signed_hyperbolic,
    signed_parabolic,
    two_hot,
)
from ez_jax.config import NetworkConfig


@pytest.mark.parametrize(
    "x, expected",
    [
        (0.0, 0.0),
        (3.0, 1.003),
        (-3.0, -1.003),
        (8.0, 2.008),
        (99.0, 9.099),
        (-9999.0, -108.999),
        (999_999.0, 1998.999),
    ],
)
def test_both_directions_by_hand(x, expected):
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + x / 1000."""
    np.testing.assert_allclose(signed_hyperbolic(jnp.array(x)), expected, rtol=1e-6)
    np.testing.assert_allclose(signed_parabolic(jnp.array(expected)), x, rtol=1e-5)


def test_round_trips_over_a_wide_range():
    """Either order of the two functions gives x back, over eight orders of magnitude and both
    signs.
    """
    x = np.concatenate([np.logspace(-2, 6, 81), np.linspace(0.05, 400, 200)]).astype(np.float32)
    x = np.concatenate([-x, x])
    np.testing.assert_allclose(signed_parabolic(signed_hyperbolic(x)), x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(signed_hyperbolic(signed_parabolic(x)), x, rtol=1e-5, atol=1e-6)


def test_round_trips_of_tiny_values():
    """The textbook inverse is off by 6e-5 around 0 in float32; this one is not."""
    x = np.concatenate([[0.0], np.logspace(-9, -2, 71)]).astype(np.float32)
    x = np.concatenate([-x, x])
    np.testing.assert_allclose(signed_parabolic(signed_hyperbolic(x)), x, rtol=0, atol=1e-6)
    # The slope of h at 0 is 1/2 + 1/1000.
    near = np.abs(x) < 1e-5
    np.testing.assert_allclose(signed_parabolic(x[near]), x[near] / 0.501, rtol=0, atol=1e-6)


def test_the_transform_is_odd_and_rising():
    x = np.linspace(-50, 50, 1001).astype(np.float32)
    for transform in (signed_hyperbolic, signed_parabolic):
        y = np.asarray(transform(x))
        np.testing.assert_allclose(y, -y[::-1], atol=1e-5)
        assert (np.diff(y) > 0).all()


@pytest.mark.parametrize("x", [-2, -1, 0, 1, 2])
def test_two_hot_is_one_hot_at_integers(x):
    """Both ends included."""
    np.testing.assert_array_equal(two_hot(jnp.array(float(x)), 2), np.arange(-2, 3) == x)


@pytest.mark.parametrize(
    "x, expected",
    [
        (0.25, [0, 0, 0.75, 0.25, 0]),
        (-0.25, [0, 0.25, 0.75, 0, 0]),
        (-1.75, [0.75, 0.25, 0, 0, 0]),
        (1.5, [0, 0, 0, 0.5, 0.5]),
        (2.5, [0, 0, 0, 0, 1]),
        (1e9, [0, 0, 0, 0, 1]),
        (-2.5, [1, 0, 0, 0, 0]),
        (-1e9, [1, 0, 0, 0, 0]),
    ],
)
def test_two_hot_between_and_beyond_the_atoms(x, expected):
    np.testing.assert_array_equal(two_hot(jnp.array(x), 2), np.array(expected, np.float32))


def test_two_hot_keeps_the_expectation():
    """Any shape; probabilities of which two at most are positive."""
    x = np.linspace(-7, 7, 60).astype(np.float32).reshape(3, 4, 5)
    probs = np.asarray(two_hot(x, 7))
    assert probs.shape == (3, 4, 5, 15)
    assert probs.min() >= 0 and ((probs > 0).sum(-1) <= 2).all()
    np.testing.assert_allclose(probs.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(probs @ np.arange(-7, 8), x, atol=1e-5)


def test_targets_are_transformed_before_they_are_spread():
    """h(3) = 1.003 lies between the atoms 1 and 2; h(-8) = -2.008 beyond the last one."""
    probs = scalar_to_probs(jnp.array([3.0, -8.0]), NetworkConfig(support=2))
    np.testing.assert_allclose(probs, [[0, 0, 0, 0.997, 0.003], [1, 0, 0, 0, 0]], atol=1e-6)


def test_logits_of_a_two_hot_give_the_scalar_back():
    """As long as it lies on the support: h(400) = 19.4 does on -20..20, h(500) = 21.9 does not."""
    x = np.array([-400, -37.5, -1, -0.01, 0, 1e-4, 0.3, 2, 19, 123.4, 400], np.float32)
    logits = jnp.log(two_hot(signed_hyperbolic(x), 20))
    np.testing.assert_allclose(logits_to_scalar(logits), x, rtol=1e-4, atol=2e-5)
    # A constant shift of all logits says nothing.
    np.testing.assert_allclose(logits_to_scalar(logits + 5.0), x, rtol=1e-4, atol=2e-5)
    clipped = logits_to_scalar(jnp.log(two_hot(signed_hyperbolic(jnp.array([500.0, -500.0])), 20)))
    bound = ((np.sqrt(1 + 0.004 * 21.001) - 1) / 0.002) ** 2 - 1
    np.testing.assert_allclose(clipped, [bound, -bound], rtol=1e-4)


@pytest.mark.parametrize(
    "scale, expected",
    [(40.0, [0, 0, 0, 0, 0.0436, 0.9564, 0]), (1.0, [0, 0, 0, 0.9511, 0.0489, 0, 0])],
)
def test_a_scale_spreads_small_scalars_over_more_atoms(scale, expected):
    """40 h(0.1) = 1.9564 lies between the atoms 1 and 2, where h(0.1) = 0.0489 hardly leaves 0."""
    network = NetworkConfig(support=3)
    probs = scalar_to_probs(jnp.float32(0.1), network, scale)
    np.testing.assert_allclose(probs, expected, atol=1e-4)
    told = logits_to_scalar(jnp.log(probs + 1e-12), network, scale)
    np.testing.assert_allclose(told, 0.1, rtol=1e-4)


@pytest.mark.parametrize("contraction, learned", [(True, 1.2507), (False, 1.5)])
def test_noise_of_targets_draws_a_contracted_value_towards_zero(contraction, learned):
    """Cross-entropy learns the mean of the two-hot targets. Of 0 and 3 that is h^-1(1.003 / 2) =
    1.2507, though the mean is 1.5; without h it is the mean, between atoms too.
    """
    network = NetworkConfig(support=8, contraction=contraction)
    probs = scalar_to_probs(jnp.array([0.0, 3.0]), network)
    logits = jnp.log(jnp.mean(probs, axis=0) + 1e-12)
    np.testing.assert_allclose(logits_to_scalar(logits, network), learned, rtol=1e-3)


def test_logits_to_scalar_is_float32_and_zero_at_the_start():
    """Uniform logits are worth 0, in whatever precision they come."""
    value = logits_to_scalar(jnp.zeros((2, 3, 41), jnp.bfloat16))
    assert value.shape == (2, 3) and value.dtype == jnp.float32
    np.testing.assert_allclose(value, 0.0, atol=1e-5)


def test_an_even_number_of_logits_is_refused():
    with pytest.raises(AssertionError):
        logits_to_scalar(jnp.zeros(4))
