"""Representation, dynamics and head features for images (EfficientZero, appendix A.1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ez_jax.actions import Actions, Continuous
from ez_jax.networks.layers import Norm, conv, merge, normalise, part

Array = jax.Array


def norm_maps(norm: Norm, x: Array, leading: tuple[int, ...], train: bool) -> Array:
    """Normalises merged feature maps `[B * steps, h, w, C]`; for a compact method."""
    if norm.kind == "layer":
        return nn.LayerNorm(reduction_axes=(1, 2, 3), feature_axes=-1, dtype=x.dtype)(x)
    return normalise(norm, x, leading, train, x.dtype)


class ResBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, plus the input, ReLU: `[B, (steps,) h, w, C]`.

    At stride 2 the input passes through a bare 3x3 convolution.
    """

    channels: int
    stride: int = 1
    dtype: jnp.dtype = jnp.float32
    norm: Norm = Norm()

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        leading, x = merge(x, 3)
        y = conv(self.channels, stride=self.stride, dtype=self.dtype)(x)
        y = nn.relu(norm_maps(self.norm, y, leading, train))
        y = norm_maps(self.norm, conv(self.channels, dtype=self.dtype)(y), leading, train)
        if self.stride > 1:
            x = conv(self.channels, stride=self.stride, dtype=self.dtype, name="skip")(x)
        return part(nn.relu(x + y), leading)


def average_pool(x: Array) -> Array:
    """3x3 window, stride 2, the zero padding counted.

    In each direction a sum of three strided slices, whose gradient is cheap.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)])
        first, second, third = (
            jax.lax.slice_in_dim(padded, d, d + size, 2, axis) for d in range(3)
        )
        x = first + second + third
    return x / 9


def space_to_depth(x: Array, size: int) -> Array:
    """Squares of `size` pixels a side as channels of one pixel.

    `[B, H, W, C]` to `[B, H/size, W/size, size * size * C]`.
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // size, width // size, -1)


def motion(observation: Array, stack: int, factor: float) -> Array:
    """The newest frame without its mean, and the amplified change from each frame to the next.

    The same numbers in other coordinates, but for the mean brightness. Consecutive frames are
    nearly alike: to a first layer with random weights what moves, a ball of a pixel or two, is
    small beside all that stands, and it finds it late.

    Args:
      observation: bytes or their multiples, `[B, H, W, S * C]`, oldest frame first.
      stack: S.
      factor: of the changes.

    Returns:
      `[B, H, W, S * C]` float32, in units of the full range: changes, oldest first, then the frame.
    """
    frames = observation.astype(jnp.float32) / 255
    channels = frames.shape[-1] // stack
    newest = frames[..., -channels:]
    changes = frames[..., channels:] - frames[..., :-channels]
    newest -= newest.mean((1, 2), keepdims=True)
    return jnp.concatenate([factor * changes, newest], axis=-1)


class Representation(nn.Module):
    """uint8 `[B, H, W, S * C]` to a non-negative latent state `[B, h, w, channels]`.

    96 px and two pools give 6x6.
    """

    channels: int
    pools: int
    blocks: int
    patch: int = 1
    stack: int = 1
    motion: float = 0.0
    dtype: jnp.dtype = jnp.float32
    norm: Norm = Norm()

    @nn.compact
    def __call__(self, observation: Array, train: bool) -> Array:
        if self.motion:
            changes = motion(observation, self.stack, self.motion)
            x = space_to_depth(changes, self.patch).astype(self.dtype)
        else:
            x = space_to_depth(observation, self.patch).astype(self.dtype) / 255
        x = conv(self.channels // 2, stride=2, dtype=self.dtype)(x)
        x = nn.relu(norm_maps(self.norm, x, x.shape[:1], train))
        x = ResBlock(self.channels // 2, dtype=self.dtype, norm=self.norm)(x, train)
        x = ResBlock(self.channels, stride=2, dtype=self.dtype, norm=self.norm)(x, train)
        x = ResBlock(self.channels, dtype=self.dtype, norm=self.norm)(x, train)
        for i in range(self.pools):
            x = average_pool(x)
            if i < self.pools - 1:
                x = ResBlock(self.channels, dtype=self.dtype, norm=self.norm)(x, train)
        for _ in range(self.blocks):
            x = ResBlock(self.channels, dtype=self.dtype, norm=self.norm)(x, train)
        return x


class Dynamics(nn.Module):
    """Next latent state.

    The action enters as one plane a/|A|, one plane for each action or each entry of a vector, or
    features of these (EfficientZero-V2); the state is added back before the ReLU (residual path).
    """

    actions: Actions
    blocks: int
    embedding: int = 0
    one_hot: bool = False
    dtype: jnp.dtype = jnp.float32
    norm: Norm = Norm()

    @nn.compact
    def __call__(self, state: Array, action: Array, train: bool) -> Array:
        if self.one_hot or isinstance(self.actions, Continuous):
            planes = self.actions.features(action, jnp.float32)
        else:
            planes = (action / self.actions.count)[:, None]
        planes = planes.astype(state.dtype)[:, None, None]
        planes = jnp.broadcast_to(planes, state.shape[:-1] + planes.shape[-1:])
        if self.embedding:
            # Without bias all planes a/|A| would be multiples of one, which LayerNorm takes for the
            # same.
            planes = conv(
                self.embedding,
                kernel=1,
                fan_in=planes.shape[-1],
                dtype=self.dtype,
                name="action_embedding",
            )(planes)
            axes = (1, 2, 3)
            norm = nn.LayerNorm(reduction_axes=axes, feature_axes=axes, dtype=self.dtype)
            planes = nn.relu(norm(planes))
        x = jnp.concatenate([state, planes], axis=-1)
        x = norm_maps(self.norm, conv(state.shape[-1], dtype=self.dtype)(x), x.shape[:1], train)
        x = nn.relu(x + state)
        for _ in range(self.blocks):
            x = ResBlock(state.shape[-1], dtype=self.dtype, norm=self.norm)(x, train)
        return x


class Trunk(nn.Module):
    """Residual blocks shared by the value and policy heads."""

    blocks: int
    dtype: jnp.dtype = jnp.float32
    norm: Norm = Norm()

    @nn.compact
    def __call__(self, state: Array, train: bool) -> Array:
        for _ in range(self.blocks):
            state = ResBlock(state.shape[-1], dtype=self.dtype, norm=self.norm)(state, train)
        return state


class Features(nn.Module):
    """Input of a head: 1x1 convolution (with bias), BN, ReLU, flattened, in float32."""

    channels: int
    dtype: jnp.dtype = jnp.float32
    norm: Norm = Norm()

    @nn.compact
    def __call__(self, state: Array, train: bool) -> Array:
        leading, x = merge(state, 3)
        x = conv(self.channels, kernel=1, fan_in=state.shape[-1], dtype=self.dtype)(x)
        x = nn.relu(norm_maps(self.norm, x, leading, train))
        return part(x.reshape(x.shape[0], -1).astype(jnp.float32), leading)
