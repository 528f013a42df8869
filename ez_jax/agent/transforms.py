"""Scalar transform and categorical (two-hot) support of value and value prefix.

MuZero (Schrittwieser et al. 2020), appendix F; the contraction h is from Pohlen et al. 2018 (arXiv
1805.11593), proposition A.2.
"""

import chex
import jax
import jax.numpy as jnp

from ez_jax.config import NetworkConfig

Array = jax.Array

EPSILON = 0.001
PAPER = NetworkConfig()


def signed_hyperbolic(x: Array, epsilon: float = EPSILON) -> Array:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x, elementwise."""
    return jnp.sign(x) * (jnp.sqrt(jnp.abs(x) + 1) - 1) + epsilon * x


def signed_parabolic(x: Array, epsilon: float = EPSILON) -> Array:
    """h^-1(x), the exact inverse of `signed_hyperbolic`, elementwise."""
    # (sqrt(1+z) - 1) = z / (sqrt(1+z) + 1): the textbook form loses every digit of float32 at small
    # |x|.
    z = 4 * epsilon * (jnp.abs(x) + 1 + epsilon)
    root = z / (jnp.sqrt(1 + z) + 1) / (2 * epsilon)
    return jnp.sign(x) * (root - 1) * (root + 1)


def two_hot(x: Array, support: int) -> Array:
    """Spreads a scalar over its two neighbouring integer atoms -support..support.

    Args:
      x: transformed scalars `[...]`, clipped to the support.
      support: largest atom.

    Returns:
      probabilities `[..., 2 * support + 1]` whose expectation is x.
    """
    x = jnp.clip(x, -support, support)
    low = jnp.floor(x)
    high_weight = x - low
    index = (low + support).astype(jnp.int32)
    size = 2 * support + 1
    low_hot = jax.nn.one_hot(index, size) * (1 - high_weight)[..., None]
    # At x = support the upper neighbour does not exist; its weight is 0 and one_hot gives zeros out
    # of range.
    return low_hot + jax.nn.one_hot(index + 1, size) * high_weight[..., None]


def scalar_to_atoms(x: Array, network: NetworkConfig = PAPER, scale: float = 1.0) -> Array:
    """h(x) times the scale, elementwise: where scalars lie among the atoms.

    What is learned of noisy targets is the mean of h, which lies nearer to 0 than h of the mean, by
    about var(x) h''(x) / 2, and each bootstrap adds to that: without the contraction the mean
    itself is learned.

    An error of e atoms between two of them costs about e^2 / (2 p (1 - p)), p the weight of the
    nearer one: scalars much smaller than an atom weigh next to nothing in the loss, and a scale
    above 1 brings them out.

    Args:
      x: scalars.
      network: its contraction.
      scale: atoms in a unit of h; `network.prefix_scale` for value prefixes.
    """
    return scale * (signed_hyperbolic(x) if network.contraction else x)


def scalar_to_probs(x: Array, network: NetworkConfig = PAPER, scale: float = 1.0) -> Array:
    """Untransformed scalars `[...]` to the categorical target `[..., 2 * support + 1]`."""
    return two_hot(scalar_to_atoms(x, network, scale), network.support)


def logits_to_scalar(logits: Array, network: NetworkConfig = PAPER, scale: float = 1.0) -> Array:
    """Expectation of categorical logits, untransformed and in float32.

    `[..., 2 * support + 1]` to `[...]`; the scale is that of `scalar_to_atoms`.
    """
    chex.assert_is_divisible(logits.shape[-1] - 1, 2)
    support = logits.shape[-1] // 2
    atoms = jnp.arange(-support, support + 1, dtype=jnp.float32)
    mean = jnp.sum(jax.nn.softmax(logits.astype(jnp.float32)) * atoms, axis=-1) / scale
    return signed_parabolic(mean) if network.contraction else mean
