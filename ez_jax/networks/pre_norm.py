"""Representation, dynamics and head features for vectors, with LayerNorm before dense layers.

As EfficientZero-V2 has them for states (Wang et al. 2024, arXiv 2403.00564, appendix, and its
released sizes). Nothing normalises a sum of state and change: a step may change a state by little,
and what one action does in a hundredth of a second is not lost beside the rest. Only the input's
norm knows of training; the other modules take `train` as those of `vector` do.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ez_jax.actions import Actions
from ez_jax.networks.layers import Norm, dense, merge, part
from ez_jax.networks.vector import embedded, standardised

Array = jax.Array


def change(x: Array, width: int, dtype: jnp.dtype) -> Array:
    """Linear-ReLU-Linear, through twice the width; for a compact method."""
    hidden = nn.relu(dense(2 * width, x.shape[-1], dtype)(x))
    return dense(width, 2 * width, dtype)(hidden)


class Block(nn.Module):
    """Norm-Linear-ReLU-Linear, plus the input."""

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        leading, x = merge(x, 1)
        y = change(nn.LayerNorm(dtype=self.dtype)(x), self.width, self.dtype)
        return part(x + y, leading)


class Representation(nn.Module):
    """`[B, D]` to a latent state `[B, width]`."""

    width: int
    blocks: int
    norm: Norm = Norm()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, observation: Array, train: bool) -> Array:
        x = standardised(observation, self.norm, train)
        x = dense(self.width, x.shape[-1], self.dtype)(x.astype(self.dtype))
        x = jnp.tanh(nn.LayerNorm(dtype=self.dtype)(x))
        for _ in range(self.blocks):
            x = Block(self.width, self.dtype)(x)
        return x


class Dynamics(nn.Module):
    """Next latent state: this one, and what the action changes in it.

    The action enters as it is, an index one-hot; or as features of that.
    """

    actions: Actions
    blocks: int
    embedding: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, state: Array, action: Array, train: bool) -> Array:
        choice = self.actions.features(action, state.dtype)
        choice = embedded(choice, self.embedding, self.dtype)
        x = jnp.concatenate([nn.LayerNorm(dtype=self.dtype)(state), choice], axis=-1)
        x = state + change(x, state.shape[-1], self.dtype)
        for _ in range(self.blocks):
            x = Block(state.shape[-1], self.dtype)(x)
        return x


class Trunk(nn.Module):
    """Residual blocks shared by the value and policy heads."""

    blocks: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, state: Array, train: bool) -> Array:
        for _ in range(self.blocks):
            state = Block(state.shape[-1], self.dtype)(state)
        return state


class Features(nn.Module):
    """Input of a head: the latent state, normalised, in float32."""

    @nn.compact
    def __call__(self, state: Array, train: bool) -> Array:
        return nn.LayerNorm()(state.astype(jnp.float32))
