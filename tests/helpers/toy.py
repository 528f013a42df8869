"""A linear model whose gradients are known."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ez_jax.networks import Moments, Prediction
from ez_jax.types import EnvSpec
from helpers.batches import (
    ACTIONS,
    STACK,
)


class Toy(nn.Module):
    """A linear scalar model: state_k = r d^k x, value h state, prefix p (sum of states), projection
    q state and state.
    """

    spec: EnvSpec

    def setup(self):
        for name, value in PARAMETERS.items():
            setattr(self, name, self.param(name, nn.initializers.constant(value), ()))

    def encode(self, observation, train):
        # A running average that counts: each call keeps it and adds a moment of 1.
        one = Moments(mean=jnp.ones((1, 1)), variance=jnp.ones((1, 1)), momentum=0.5)
        self.sow("moments", "batch", one, reduce_fn=lambda _, new: new)
        pixels = observation.reshape(observation.shape[0], -1)
        return self.r * pixels[:, -1:].astype(jnp.float32)

    def advance(self, state, action, train):
        return self.d * state

    def value_prefixes(self, states, memory, train, restart, actions):
        steps, total = states.reshape(memory.shape[0], -1), []
        for k in range(steps.shape[1]):
            memory = (0 if k % restart == 0 else memory) + steps[:, k : k + 1]
            total.append(memory)
        logits = self.p * jnp.concatenate(total, 1).reshape(-1, 1)
        return memory, jnp.pad(logits, ((0, 0), (0, 2)))

    def predict(self, state, train):
        logits = jnp.pad(self.h * state.reshape(-1, 1), ((0, 0), (0, 2)))
        return Prediction(logits, logits)

    def project(self, state, train):
        return state

    def predict_projection(self, projection, train):
        return self.q * projection

    def initial_memory(self, batch):
        return jnp.zeros((batch, 1))


STATISTICS = {"mean": jnp.zeros(1), "var": jnp.zeros(1)}


PARAMETERS = {"r": 0.7, "d": 0.9, "h": 1.3, "p": 0.6, "q": 0.4}
TOY = EnvSpec(ACTIONS, (1,), np.float32, STACK)
