"""BatchNorm in training (Ioffe & Szegedy 2015): the normalised x, mean and variance.

No gradient flows through the moments.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def channel_sums(x: Array) -> Array:
    """Sum over all axes but the last, in float32: `[..., C]` to `[C]`."""
    return jnp.sum(x.astype(jnp.float32), tuple(range(x.ndim - 1)))


def batch_moments(x: Array) -> tuple[Array, Array]:
    """Mean and (biased) variance of each channel."""
    count = x.size // x.shape[-1]
    mean = channel_sums(x) / count
    return mean, jnp.maximum(channel_sums(jnp.square(x.astype(jnp.float32))) / count - mean**2, 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise_by_batch(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Array, Array]:
    """BatchNorm in training (Ioffe & Szegedy 2015): the normalised x, and the moments, through
    which no gradient flows.
    """
    return _normalise_forward(x, scale, bias, epsilon)[0]


def _normalise_forward(x: Array, scale: Array, bias: Array, epsilon: float):
    mean, variance = batch_moments(x)
    rate = lax.rsqrt(variance + epsilon)
    y = ((x - mean) * (rate * scale) + bias).astype(x.dtype)
    return (y, mean, variance), (x, mean, rate, scale)


def _normalise_backward(
    epsilon: float, saved: tuple, gradients: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    x, mean, rate, scale = saved
    g, count = gradients[0], x.size // x.shape[-1]
    bias_gradient = channel_sums(g)
    scale_gradient = (
        channel_sums(g.astype(jnp.float32) * x.astype(jnp.float32)) - bias_gradient * mean
    ) * rate
    # dL/dx = rate scale (g - mean(g) - x^ mean(g x^))
    x_gradient = (
        rate * scale * (g - bias_gradient / count - (x - mean) * (rate * scale_gradient / count))
    )
    return x_gradient.astype(x.dtype), scale_gradient, bias_gradient


normalise_by_batch.defvjp(_normalise_forward, _normalise_backward)
