"""Layers as the original builds them: PyTorch's default initialisation, symmetric padding,
BatchNorm of momentum 0.1.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ez_jax import lowering

Array = jax.Array
# U(-1/sqrt(fan_in), 1/sqrt(fan_in)): variance 1/(3 fan_in).
KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def uniform(limit: float):
    """Initialiser U(-limit, limit)."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -limit, limit
    )


def conv(
    features: int,
    kernel: int = 3,
    stride: int = 1,
    fan_in: int | None = None,
    dtype=None,
    name=None,
) -> nn.Conv:
    """A square convolution with symmetric padding (XLA's SAME samples other pixels at stride 2);
    `fan_in` adds a bias.
    """
    pad = kernel // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        padding=((pad, pad), (pad, pad)),
        use_bias=fan_in is not None,
        kernel_init=KERNEL_INIT,
        bias_init=uniform(1 / math.sqrt(fan_in or 1)),
        dtype=dtype,
        name=name,
        conv_general_dilated=lowering.conv_general_dilated,
    )


def dense(features: int, fan_in: int, dtype=None, name=None) -> nn.Dense:
    return nn.Dense(
        features,
        kernel_init=KERNEL_INIT,
        bias_init=uniform(1 / math.sqrt(fan_in)),
        dtype=dtype,
        name=name,
    )


class Calls(NamedTuple):
    """Several calls of a module in training as one: its input holds those of all, `[B * len(turns),
    ...]`, sample by sample.

    Each call has batch statistics of its own. Running averages move as if the calls of an update
    came in their turns, whichever are made together; those with the first turn have to be made
    first.
    """

    turns: tuple[int, ...]  # which ones these are
    total: int  # calls of the module in an update

    def split(self, x: Array) -> Array:
        """`[B * calls, ...]` to `[B, calls, ...]`."""
        return x.reshape(-1, len(self.turns), *x.shape[1:])

    def average(self, old: Array, new: Array, momentum: float) -> Array:
        """The running average `[C]` after these calls' `new [calls, C]`: the old one fades with the
        first turn.
        """
        weights = (1 - momentum) * momentum ** (self.total - 1 - jnp.array(self.turns))
        return (momentum**self.total if 0 in self.turns else 1.0) * old + weights @ new


class BatchNorm(nn.Module):
    """`flax.linen.BatchNorm` with a gradient of its own: the running averages move by `1 -
    momentum` towards the batch's.
    """

    train: bool | Calls | None = None
    momentum: float = 0.9  # one minus PyTorch's
    epsilon: float = 1e-5
    affine: bool = True
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool | Calls | None = None) -> Array:
        train = nn.merge_param("train", self.train, train)
        channels = (x.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        variance = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = (
            self.param("scale", nn.initializers.ones, channels)
            if self.affine
            else jnp.ones(channels)
        )
        bias = (
            self.param("bias", nn.initializers.zeros, channels)
            if self.affine
            else jnp.zeros(channels)
        )
        x = x.astype(self.dtype or x.dtype)
        if not train:
            return (
                (x - mean.value) * (jax.lax.rsqrt(variance.value + self.epsilon) * scale) + bias
            ).astype(x.dtype)
        calls = train if isinstance(train, Calls) else Calls((0,), 1)
        y, means, variances = jax.vmap(
            lambda x: lowering.normalise_by_batch(x, scale, bias, self.epsilon), 1, (1, 0, 0)
        )(calls.split(x))
        if not self.is_initializing():
            mean.value = calls.average(mean.value, means, self.momentum)
            variance.value = calls.average(variance.value, variances, self.momentum)
        return y.reshape(x.shape)


def batch_norm(train: bool | Calls, dtype=None) -> BatchNorm:
    """The original's BatchNorm."""
    return BatchNorm(train, dtype=dtype)


def normalise(norm: str, train: bool | Calls, dtype=None) -> nn.Module:
    """The normalisation layer called `batch` or `layer`."""
    return nn.LayerNorm(dtype=dtype) if norm == "layer" else batch_norm(train, dtype)


class Mlp(nn.Module):
    """Linear-norm-ReLU for each hidden width, then a linear layer, zero-initialised where
    `zero_last`.
    """

    hidden: tuple[int, ...]
    features: int
    zero_last: bool = False
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool | Calls) -> Array:
        for width in self.hidden:
            x = nn.relu(
                normalise(self.norm, train, self.dtype)(dense(width, x.shape[-1], self.dtype)(x))
            )
        if self.zero_last:
            return nn.Dense(self.features, kernel_init=nn.initializers.zeros, dtype=self.dtype)(x)
        return dense(self.features, x.shape[-1], self.dtype)(x)


class LSTM(nn.Module):
    """An LSTM with PyTorch's parametrisation: two bias vectors, every weight U(-1/sqrt(units),
    1/sqrt(units)).

    Takes consecutive steps at once, `x [B * steps, D]` sample by sample to outputs `[B * steps,
    units]`: what comes from x is one product. The carry, `[B, units]` each, is zero again after
    every `restart` steps (0: never).
    """

    units: int

    @nn.compact
    def __call__(
        self, carry: tuple[Array, Array], x: Array, restart: int = 0
    ) -> tuple[tuple[Array, Array], Array]:
        c, h = carry
        init = uniform(1 / math.sqrt(self.units))
        inputs = nn.Dense(4 * self.units, kernel_init=init, bias_init=init, name="input")(x)
        inputs = inputs.reshape(c.shape[0], -1, 4 * self.units)
        hidden = nn.Dense(4 * self.units, kernel_init=init, bias_init=init, name="hidden")
        outputs = []
        for k in range(inputs.shape[1]):
            i, f, g, o = jnp.split(inputs[:, k] + hidden(h), 4, axis=-1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            outputs.append(h)
            if restart and (k + 1) % restart == 0:
                c, h = jnp.zeros_like(c), jnp.zeros_like(h)
        return (c, h), jnp.stack(outputs, axis=1).reshape(-1, self.units)
