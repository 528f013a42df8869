"""Representation, dynamics and head features for vector observations: the image network's plan in dense layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ez_jax.networks.layers import batch_norm, dense

Array = jax.Array


class DenseBlock(nn.Module):
    """Linear-BN-ReLU-Linear-BN, plus the input, ReLU."""
    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = nn.relu(batch_norm(train, self.dtype)(dense(self.width, x.shape[-1], self.dtype)(x)))
        y = batch_norm(train, self.dtype)(dense(self.width, self.width, self.dtype)(y))
        return nn.relu(x + y)


class Representation(nn.Module):
    """float32 `[B, D]` to a non-negative latent state `[B, width]`."""
    width: int
    blocks: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, observation: Array, train: bool) -> Array:
        x = dense(self.width, observation.shape[-1], self.dtype)(observation)
        x = nn.relu(batch_norm(train, self.dtype)(x))
        for _ in range(self.blocks):
            x = DenseBlock(self.width, self.dtype)(x, train)
        return x


class Dynamics(nn.Module):
    """Next latent state, with the residual path of the image network; the action enters one-hot."""
    num_actions: int
    blocks: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, state: Array, action: Array, train: bool) -> Array:
        x = jnp.concatenate([state, jax.nn.one_hot(action, self.num_actions, dtype=state.dtype)], axis=-1)
        x = batch_norm(train, self.dtype)(dense(state.shape[-1], x.shape[-1], self.dtype)(x))
        x = nn.relu(x + state)
        for _ in range(self.blocks):
            x = DenseBlock(state.shape[-1], self.dtype)(x, train)
        return x


class Trunk(nn.Module):
    """Residual blocks shared by the value and policy heads."""
    blocks: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, state: Array, train: bool) -> Array:
        for _ in range(self.blocks):
            state = DenseBlock(state.shape[-1], self.dtype)(state, train)
        return state


class Features(nn.Module):
    """What a head sees of a latent state: all of it, in float32."""

    @nn.compact
    def __call__(self, state: Array, train: bool) -> Array:
        return state.astype(jnp.float32)
