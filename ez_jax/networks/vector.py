"""Representation, dynamics and head features for vectors.

The image network's plan in dense layers.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ez_jax.actions import Actions
from ez_jax.networks.layers import BatchNorm, Norm, dense, merge, normalise, part

Array = jax.Array


def embedded(choice: Array, size: int, dtype: jnp.dtype) -> Array:
    """Actions `[B, F]` as they are, or `size` learned features (0: none); for a compact method."""
    if size:
        choice = dense(size, choice.shape[-1], dtype, name="action_embedding")(choice)
        choice = nn.relu(nn.LayerNorm(dtype=dtype)(choice))
    return choice


def standardised(observation: Array, norm: Norm, train: bool) -> Array:
    """Each entry of `[B, D]` less its mean, over its deviation; for a compact method.

    In float32 whatever the type of the entries: bytes have no fractions, and bfloat16 would round
    what is small beside an entry's mean.
    """
    layer = BatchNorm(norm.groups, momentum=0.99, affine=False, running=norm.running_input)
    return layer(observation.astype(jnp.float32), train)


class DenseBlock(nn.Module):
    """Linear-norm-ReLU-Linear-norm, plus the input, ReLU."""

    width: int
    norm: Norm = Norm()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        leading, x = merge(x, 1)
        y = dense(self.width, x.shape[-1], self.dtype)(x)
        y = nn.relu(normalise(self.norm, y, leading, train, self.dtype))
        y = dense(self.width, self.width, self.dtype)(y)
        y = normalise(self.norm, y, leading, train, self.dtype)
        return part(nn.relu(x + y), leading)


class Representation(nn.Module):
    """`[B, D]` to a non-negative latent state `[B, width]`."""

    width: int
    blocks: int
    norm: Norm = Norm()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, observation: Array, train: bool) -> Array:
        x = observation
        if self.norm.kind == "layer":
            # The entries of an observation have scales of their own; a norm over them would mix
            # these.
            x = standardised(x, self.norm, train)
        x = dense(self.width, x.shape[-1], self.dtype)(x.astype(self.dtype))
        x = nn.relu(normalise(self.norm, x, x.shape[:1], train, self.dtype))
        for _ in range(self.blocks):
            x = DenseBlock(self.width, self.norm, self.dtype)(x, train)
        return x


class Dynamics(nn.Module):
    """Next latent state, with the residual path of the image network.

    The action enters as it is, an index one-hot; or as features of that.
    """

    actions: Actions
    blocks: int
    embedding: int = 0
    norm: Norm = Norm()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, state: Array, action: Array, train: bool) -> Array:
        choice = self.actions.features(action, state.dtype)
        choice = embedded(choice, self.embedding, self.dtype)
        x = jnp.concatenate([state, choice], axis=-1)
        x = dense(state.shape[-1], x.shape[-1], self.dtype)(x)
        x = normalise(self.norm, x, x.shape[:1], train, self.dtype)
        x = nn.relu(x + state)
        for _ in range(self.blocks):
            x = DenseBlock(state.shape[-1], self.norm, self.dtype)(x, train)
        return x


class Trunk(nn.Module):
    """Residual blocks shared by the value and policy heads."""

    blocks: int
    norm: Norm = Norm()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, state: Array, train: bool) -> Array:
        for _ in range(self.blocks):
            state = DenseBlock(state.shape[-1], self.norm, self.dtype)(state, train)
        return state


class Features(nn.Module):
    """Input of a head: the whole latent state, in float32."""

    @nn.compact
    def __call__(self, state: Array, train: bool) -> Array:
        return state.astype(jnp.float32)
