"""Layers as the original builds them.

PyTorch's default initialisation, symmetric padding, BatchNorm of momentum 0.1.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
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
    """A square convolution with symmetric padding; `fan_in` adds a bias.

    XLA's SAME samples other pixels at stride 2.
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


def merge(x: Array, rank: int) -> tuple[tuple[int, ...], Array]:
    """Steps as samples of one batch, as all layers but BatchNorm see them.

    Args:
      x: `[B, (steps,) ...]`.
      rank: axes of one sample, the channels included.

    Returns:
      the leading shape, `(B,)` or `(B, steps)`, and the merged `[B * steps, ...]`.
    """
    leading, sample = x.shape[: x.ndim - rank], x.shape[x.ndim - rank :]
    return leading, x.reshape(-1, *sample)


def part(x: Array, leading: tuple[int, ...]) -> Array:
    """The inverse of `merge`: `[B * steps, ...]` to `[B, (steps,) ...]`."""
    return x.reshape(*leading, *x.shape[1:])


def dense(features: int, fan_in: int, dtype=None, name=None) -> nn.Dense:
    """A linear layer with PyTorch's initialisation."""
    return nn.Dense(
        features,
        kernel_init=KERNEL_INIT,
        bias_init=uniform(1 / math.sqrt(fan_in)),
        dtype=dtype,
        name=name,
    )


class Norm(NamedTuple):
    """What layers normalise by."""

    kind: str = "batch"  # or "layer"
    groups: int = 1  # of a batch, each with moments of its own
    running_input: bool = False  # the entries of a vector by running averages in training too


class Moments(flax.struct.PyTreeNode):
    """Batch moments that BatchNorm layers sow into the collection "moments" in training."""

    mean: Array  # [steps, C]
    variance: Array  # [steps, C]
    momentum: float = flax.struct.field(pytree_node=False)


class BatchNorm(nn.Module):
    """BatchNorm (Ioffe & Szegedy 2015) that sows its batch's moments and moves no running average.

    Inputs are `[B, ..., C]` with `spatial` axes before the channels. In training there may be one
    axis of steps behind the batch, `[B, steps, ..., C]`: each step is normalised by its own batch.
    `agent.unroll.fold_moments` moves the running averages.

    With several groups each part of the batch is normalised by itself (Hoffer et al. 2017, arXiv
    1705.08741), and the means of their moments are sown: parts that lie on one device each need no
    sum over devices within the network.

    With `running` the running averages normalise in training too, and the moments are sown alone.
    """

    groups: int = 1
    spatial: int = 0
    momentum: float = 0.9  # one minus PyTorch's
    epsilon: float = 1e-5
    affine: bool = True
    running: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        channels = (x.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        variance = self.variable("batch_stats", "var", jnp.ones, channels)
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        scale = self.param("scale", ones, channels) if self.affine else jnp.ones(channels)
        bias = self.param("bias", zeros, channels) if self.affine else jnp.zeros(channels)
        x = x.astype(self.dtype or x.dtype)
        factor = jax.lax.rsqrt(variance.value + self.epsilon) * scale
        by_average = ((x - mean.value) * factor + bias).astype(x.dtype)
        if not train:
            return by_average

        def by_batch(x: Array) -> tuple[Array, Array, Array]:
            if not self.affine:  # entries of an observation, whose mean may be far from 0
                return exactly_normalised(x, self.epsilon)
            return lowering.normalise_by_batch(x, scale, bias, self.epsilon)

        # Without an axis of steps all is one step.
        steps = x if x.ndim > self.spatial + 2 else x[:, None]
        by_step = jax.vmap(by_batch, 1, (1, 0, 0))
        if self.groups == 1:
            y, batch_mean, batch_variance = by_step(steps)
        else:
            parts = steps.reshape(self.groups, -1, *steps.shape[1:])
            y, *moments = jax.vmap(by_step)(parts)
            batch_mean, batch_variance = (jnp.mean(moment, axis=0) for moment in moments)
        if not self.is_initializing():
            found = Moments(mean=batch_mean, variance=batch_variance, momentum=self.momentum)
            self.sow("moments", "batch", found, reduce_fn=lambda _, new: new)
        return by_average if self.running else y.reshape(x.shape)


def exactly_normalised(x: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """`[..., C]` over its batch, with mean and variance `[C]` in two passes.

    The mean of squares less the square of the mean loses a deviation that is below 1e-3 of the mean
    to float32's rounding.
    """
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    variance = jnp.mean(jnp.square(x - mean), axes)
    return (x - mean) * jax.lax.rsqrt(variance + epsilon), mean, variance


def normalise(
    norm: Norm, x: Array, leading: tuple[int, ...], train: bool, dtype: Any = None
) -> Array:
    """Applies a normalisation to merged features `[B * steps, ..., C]`.

    Call it inside a compact method: it makes a submodule there.
    """
    if norm.kind == "layer":
        return nn.LayerNorm(dtype=dtype)(x)
    norm_layer = BatchNorm(norm.groups, spatial=x.ndim - 2, dtype=dtype)
    return norm_layer(part(x, leading), train).reshape(x.shape)


class Mlp(nn.Module):
    """Linear-norm-ReLU for each hidden width, then a linear layer, by choice zero-initialised."""

    hidden: tuple[int, ...]
    features: int
    zero_last: bool = False
    norm: Norm = Norm()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        leading, x = merge(x, 1)
        for width in self.hidden:
            x = dense(width, x.shape[-1], self.dtype)(x)
            x = nn.relu(normalise(self.norm, x, leading, train, self.dtype))
        if self.zero_last:
            zeros = nn.initializers.zeros
            x = nn.Dense(self.features, kernel_init=zeros, dtype=self.dtype)(x)
        else:
            x = dense(self.features, x.shape[-1], self.dtype)(x)
        return part(x, leading)


class LSTM(nn.Module):
    """An LSTM with PyTorch's parametrisation.

    Two bias vectors, every weight U(-1/sqrt(units), 1/sqrt(units)). Takes consecutive steps at
    once, so that what comes from x is one product: `x [B, steps, D]`, or `[B * steps, D]` sample by
    sample, to outputs of the same leading shape. The carry, `[B, units]` each, is zero again after
    every `restart` steps (0: never).
    """

    units: int

    @nn.compact
    def __call__(
        self, carry: tuple[Array, Array], x: Array, restart: int = 0
    ) -> tuple[tuple[Array, Array], Array]:
        (c, h), (leading, x) = carry, merge(x, 1)
        init = uniform(1 / math.sqrt(self.units))
        inputs = nn.Dense(4 * self.units, kernel_init=init, bias_init=init, name="input")(x)
        inputs = inputs.reshape(c.shape[0], -1, 4 * self.units)  # [B, steps, 4 units]
        hidden = nn.Dense(4 * self.units, kernel_init=init, bias_init=init, name="hidden")
        outputs = []
        for k in range(inputs.shape[1]):
            i, f, g, o = jnp.split(inputs[:, k] + hidden(h), 4, axis=-1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            outputs.append(h)
            if restart and (k + 1) % restart == 0:
                c, h = jnp.zeros_like(c), jnp.zeros_like(h)
        return (c, h), jnp.stack(outputs, axis=1).reshape(*leading, self.units)
