"""The model: one interface over image and vector networks.

Paper sizes and wiring: EfficientZero, appendix A.1. The methods are called by
`network.apply(variables, ..., method=...)`.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ez_jax import lowering
from ez_jax.config import NetworkConfig
from ez_jax.networks import image, vector
from ez_jax.networks.layers import LSTM, BatchNorm, Calls, Mlp, normalise
from ez_jax.types import EnvSpec

Array = jax.Array


class Prediction(NamedTuple):
    value_logits: Array  # [B, 2 * support + 1] f32
    policy_logits: Array  # [B, A] f32


class Step(NamedTuple):
    """One step of the model."""

    state: Array  # [B, ...] next latent state
    memory: tuple[
        Array, Array
    ]  # LSTM cell and output, [B, lstm] each ([B, 0] without value prefix)
    prefix_logits: Array  # [B, 2 * support + 1] f32, reward summed since the memory was last zero


class ValuePrefix(nn.Module):
    """Summed reward since the memory was last zero (EfficientZero, section 4.2), or the single
    reward without LSTM.
    """

    features: nn.Module
    config: NetworkConfig

    @nn.compact
    def __call__(
        self, memory: tuple[Array, Array], states: Array, train: bool | Calls, restart: int
    ) -> tuple[tuple[Array, Array], Array]:
        x = self.features(states, train)
        if self.config.value_prefix:
            memory, x = LSTM(self.config.lstm)(memory, x, restart)
            x = nn.relu(normalise(self.config.norm, train)(x))
        logits = Mlp(
            (self.config.head_hidden,), 2 * self.config.support + 1, True, self.config.norm
        )(x, train)
        return memory, logits


class Network(nn.Module):
    """EfficientZero's model for one kind of observation."""

    config: NetworkConfig
    spec: EnvSpec

    def setup(self):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        if len(self.spec.frame_shape) == 3:
            self.representation = image.Representation(
                c.channels, c.pools, c.blocks, c.patch, dtype
            )
            self.dynamics = image.Dynamics(
                self.spec.num_actions,
                c.blocks,
                c.action_embedding,
                c.action_planes == "one_hot",
                dtype,
            )
            self.trunk = image.Trunk(c.blocks, dtype)
            features = lambda: image.Features(c.head_channels, dtype)
        else:
            self.representation = vector.Representation(c.channels, c.blocks, c.norm, dtype)
            self.dynamics = vector.Dynamics(
                self.spec.num_actions, c.blocks, c.action_embedding, c.norm, dtype
            )
            self.trunk = vector.Trunk(c.blocks, c.norm, dtype)
            features = vector.Features
        self.value_prefix = ValuePrefix(features(), c)
        self.value_features, self.policy_features = features(), features()
        self.value_head = Mlp((c.head_hidden,), 2 * c.support + 1, True, c.norm)
        self.policy_head = Mlp((c.head_hidden,), self.spec.num_actions, True, c.norm)
        self.projector = Mlp((c.projection, c.projection), c.projection, dtype=dtype)
        self.projector_norm = BatchNorm(dtype=dtype)
        self.predictor = Mlp((c.predictor,), c.projection, dtype=dtype)

    def encode(self, observation: Array, train: bool | Calls = False) -> Array:
        """Observation `[B, ..., S * C]` to latent state `[B, ...]`."""
        return self.representation(observation, train)

    def predict(self, state: Array, train: bool | Calls = False) -> Prediction:
        x = self.trunk(state, train)
        return Prediction(
            self.value_head(self.value_features(x, train), train),
            self.policy_head(self.policy_features(x, train), train),
        )

    def step(
        self, state: Array, memory: tuple[Array, Array], action: Array, train: bool | Calls = False
    ) -> Step:
        """One model step along `action [B]`; the caller zeroes the memory where the value prefix
        starts anew.
        """
        return self.reward(self.advance(state, action, train), memory, train)

    def advance(self, state: Array, action: Array, train: bool | Calls = False) -> Array:
        """Next latent state alone: the loss scales its gradient before any head sees it."""
        return self.dynamics(state, action, train)

    def reward(
        self,
        states: Array,
        memory: tuple[Array, Array],
        train: bool | Calls = False,
        restart: int = 0,
    ) -> Step:
        """Value prefixes on arrival in consecutive states.

        Args: states: `[B * steps, ...]`, sample by sample. memory: before the first, `[B, lstm]`
          each. train: see `Calls`. restart: the memory is zero again after so many states, the
          horizon of the value prefix; 0: never.
        """
        memory, logits = self.value_prefix(memory, states, train, restart)
        return Step(states, memory, logits)

    def project(self, state: Array, train: bool | Calls = False) -> Array:
        """SimSiam projection `[B, projection]` (Chen & He 2021): BatchNorm after the last layer
        too, without ReLU.
        """
        return self.projector_norm(self.projector(state.reshape(state.shape[0], -1), train), train)

    def predict_projection(self, projection: Array, train: bool | Calls = False) -> Array:
        """SimSiam's predictor, `[B, projection]`: on the branch of the predicted states."""
        return self.predictor(projection, train)

    def initial_memory(self, batch: int) -> tuple[Array, Array]:
        units = self.config.lstm if self.config.value_prefix else 0
        return jnp.zeros((batch, units)), jnp.zeros((batch, units))

    def everything(self, observation: Array) -> Array:
        """Touches each parameter once, for initialisation."""
        state = self.encode(observation)
        action = jnp.zeros(observation.shape[0], jnp.int32)
        step = self.step(state, self.initial_memory(observation.shape[0]), action)
        self.predict(step.state)
        return self.predict_projection(self.project(step.state))


def encode(network: Network, variables: Any, observation: Array) -> Array:
    """`Network.encode` for inference: observations `[B, ..., S * C]`, which need nothing of each
    other, to latent states.
    """

    def run(x: Array) -> Array:
        return network.apply(variables, x, method=Network.encode)

    if observation.ndim < 4:
        return run(observation)
    _, height, width, _ = observation.shape
    # The first layers write half as many channels at half the height and width, in float32.
    return lowering.map_in_cache(run, observation, height * width * network.config.channels // 2)


def observation_shape(spec: EnvSpec) -> tuple[int, ...]:
    """Shape of one stacked observation: frames on the last axis, oldest first."""
    return (*spec.frame_shape[:-1], spec.frame_shape[-1] * spec.stack)


def frames_to_channels(frames: Array) -> Array:
    """Consecutive frames `[B, F, ..., C]` side by side on the last axis: `[B, ..., F * C]`."""
    frames = jnp.moveaxis(frames, 1, -2)
    return frames.reshape(*frames.shape[:-2], -1)


def observations(frames: Array, stack: int, step: int) -> Array:
    """The stacked observation of slot `step` out of consecutive frames `[B, S - 1 + size, ..., C]`:
    `[B, ..., S * C]`.
    """
    return frames_to_channels(frames[:, step : step + stack])


def init_variables(network: Network, key: Array) -> dict:
    """`{'params', 'batch_stats'}` of a fresh network."""
    observation = jnp.zeros((1, *observation_shape(network.spec)), network.spec.frame_dtype)
    return network.init(key, observation, method=Network.everything)
