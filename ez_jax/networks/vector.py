"""Representation, dynamics and head features for vector observations: the image network's plan in
dense layers.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ez_jax.networks.layers import BatchNorm, Calls, dense, normalise

Array = jax.Array


class DenseBlock(nn.Module):
    """Linear-norm-ReLU-Linear-norm, plus the input, ReLU."""

    width: int
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool | Calls) -> Array:
        y = nn.relu(
            normalise(self.norm, train, self.dtype)(dense(self.width, x.shape[-1], self.dtype)(x))
        )
        y = normalise(self.norm, train, self.dtype)(dense(self.width, self.width, self.dtype)(y))
        return nn.relu(x + y)


class Representation(nn.Module):
    """`[B, D]` to a non-negative latent state `[B, width]`."""

    width: int
    blocks: int
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, observation: Array, train: bool | Calls) -> Array:
        x = observation.astype(self.dtype)
        if self.norm == "layer":
            # The entries of an observation have scales of their own; a norm over them would mix
            # these.
            x = BatchNorm(train, momentum=0.99, affine=False)(x)
        x = dense(self.width, x.shape[-1], self.dtype)(x)
        x = nn.relu(normalise(self.norm, train, self.dtype)(x))
        for _ in range(self.blocks):
            x = DenseBlock(self.width, self.norm, self.dtype)(x, train)
        return x


class Dynamics(nn.Module):
    """Next latent state, with the residual path of the image network; the action enters one-hot, or
    as features of that.
    """

    num_actions: int
    blocks: int
    embedding: int = 0
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, state: Array, action: Array, train: bool | Calls) -> Array:
        choice = jax.nn.one_hot(action, self.num_actions, dtype=state.dtype)
        if self.embedding:
            choice = dense(self.embedding, self.num_actions, self.dtype, name="action_embedding")(
                choice
            )
            choice = nn.relu(nn.LayerNorm(dtype=self.dtype)(choice))
        x = jnp.concatenate([state, choice], axis=-1)
        x = normalise(self.norm, train, self.dtype)(
            dense(state.shape[-1], x.shape[-1], self.dtype)(x)
        )
        x = nn.relu(x + state)
        for _ in range(self.blocks):
            x = DenseBlock(state.shape[-1], self.norm, self.dtype)(x, train)
        return x


class Trunk(nn.Module):
    """Residual blocks shared by the value and policy heads."""

    blocks: int
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, state: Array, train: bool | Calls) -> Array:
        for _ in range(self.blocks):
            state = DenseBlock(state.shape[-1], self.norm, self.dtype)(state, train)
        return state


class Features(nn.Module):
    """What a head sees of a latent state: all of it, in float32."""

    @nn.compact
    def __call__(self, state: Array, train: bool | Calls) -> Array:
        return state.astype(jnp.float32)
