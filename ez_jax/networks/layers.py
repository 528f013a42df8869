"""Layers as the original builds them: PyTorch's default initialisation, symmetric padding, BatchNorm of momentum 0.1."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from ez_jax import lowering

Array = jax.Array
# U(-1/sqrt(fan_in), 1/sqrt(fan_in)): variance 1/(3 fan_in).
KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def uniform(limit: float):
    """Initialiser U(-limit, limit)."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -limit, limit)


def conv(features: int, kernel: int = 3, stride: int = 1, fan_in: int | None = None, dtype=None, name=None) -> nn.Conv:
    """A square convolution with symmetric padding (XLA's SAME samples other pixels at stride 2); `fan_in` adds a bias."""
    pad = kernel // 2
    return nn.Conv(
        features, (kernel, kernel), (stride, stride), padding=((pad, pad), (pad, pad)), use_bias=fan_in is not None,
        kernel_init=KERNEL_INIT, bias_init=uniform(1 / math.sqrt(fan_in or 1)), dtype=dtype, name=name,
        conv_general_dilated=lowering.conv_general_dilated)  # fmt: skip


def dense(features: int, fan_in: int, dtype=None, name=None) -> nn.Dense:
    return nn.Dense(features, kernel_init=KERNEL_INIT, bias_init=uniform(1 / math.sqrt(fan_in)), dtype=dtype, name=name)


class BatchNorm(nn.Module):
    """`flax.linen.BatchNorm` with a gradient of its own: the running averages move by `1 - momentum` towards the batch's."""
    use_running_average: bool | None = None
    momentum: float = 0.9  # one minus PyTorch's
    epsilon: float = 1e-5
    affine: bool = True
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, use_running_average: bool | None = None) -> Array:
        channels = (x.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        variance = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", nn.initializers.ones, channels) if self.affine else jnp.ones(channels)
        bias = self.param("bias", nn.initializers.zeros, channels) if self.affine else jnp.zeros(channels)
        x = x.astype(self.dtype or x.dtype)
        if nn.merge_param("use_running_average", self.use_running_average, use_running_average):
            return ((x - mean.value) * (jax.lax.rsqrt(variance.value + self.epsilon) * scale) + bias).astype(x.dtype)
        x, batch_mean, batch_variance = lowering.normalise_by_batch(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
            variance.value = self.momentum * variance.value + (1 - self.momentum) * batch_variance
        return x


def batch_norm(train: bool, dtype=None) -> BatchNorm:
    """The original's BatchNorm."""
    return BatchNorm(use_running_average=not train, dtype=dtype)


def normalise(norm: str, train: bool, dtype=None) -> nn.Module:
    """The normalisation layer called `batch` or `layer`."""
    return nn.LayerNorm(dtype=dtype) if norm == "layer" else batch_norm(train, dtype)


class Mlp(nn.Module):
    """Linear-norm-ReLU for each hidden width, then a linear layer, zero-initialised where `zero_last`."""
    hidden: tuple[int, ...]
    features: int
    zero_last: bool = False
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        for width in self.hidden:
            x = nn.relu(normalise(self.norm, train, self.dtype)(dense(width, x.shape[-1], self.dtype)(x)))
        if self.zero_last:
            return nn.Dense(self.features, kernel_init=nn.initializers.zeros, dtype=self.dtype)(x)
        return dense(self.features, x.shape[-1], self.dtype)(x)


class LSTM(nn.Module):
    """One step of an LSTM with PyTorch's parametrisation: two bias vectors, every weight U(-1/sqrt(units), 1/sqrt(units))."""
    units: int

    @nn.compact
    def __call__(self, carry: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
        c, h = carry
        init = uniform(1 / math.sqrt(self.units))
        gates = (nn.Dense(4 * self.units, kernel_init=init, bias_init=init, name="input")(x)
                 + nn.Dense(4 * self.units, kernel_init=init, bias_init=init, name="hidden")(h))
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
        h = nn.sigmoid(o) * jnp.tanh(c)
        return (c, h), h
