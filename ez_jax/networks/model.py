"""The model: one interface over image and vector networks.

Paper sizes and wiring: EfficientZero, appendix A.1. The methods are called by
`network.apply(variables, ..., method=...)`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ez_jax import lowering
from ez_jax.config import NetworkConfig
from ez_jax.networks import image, pre_norm, vector
from ez_jax.networks.layers import LSTM, BatchNorm, Mlp, Norm, merge, normalise, part
from ez_jax.observations import observation_shape
from ez_jax.types import EnvSpec

Array = jax.Array
Memory = tuple[Array, Array]
"""LSTM cell and output, `[B, lstm]` each (`[B, 0]` without value prefix)."""


class Prediction(NamedTuple):
    value_logits: Array  # [B, 2 * support + 1] f32
    policy_logits: Array  # [B, A] f32, or [B, 2 D] where actions are vectors


class Step(NamedTuple):
    """One step of the model."""

    state: Array  # [B, ...] next latent state
    memory: Memory
    prefix_logits: Array  # [B, 2 * support + 1] f32, reward summed since the memory was last zero


class ValuePrefix(nn.Module):
    """Summed reward since the memory was last zero (EfficientZero, section 4.2).

    Without LSTM (`network.value_prefix` off) the single reward.
    """

    features: nn.Module
    config: NetworkConfig

    @nn.compact
    def __call__(
        self, memory: Memory, states: Array, train: bool, restart: int, choice: Array | None
    ) -> tuple[Memory, Array]:
        x, c = self.features(states, train), self.config
        if choice is not None:
            x = jnp.concatenate([x, choice], axis=-1)
        norm = Norm(c.norm, c.norm_groups)
        if c.value_prefix:
            memory, x = LSTM(c.lstm)(memory, x, restart)
            leading, x = merge(x, 1)
            x = part(nn.relu(normalise(norm, x, leading, train)), leading)
        head = Mlp((c.head_hidden,), 2 * c.support + 1, zero_last=True, norm=norm)
        return memory, head(x, train)


class Network(nn.Module):
    """EfficientZero's model for one kind of observation.

    The methods are for `network.apply(variables, ..., method=...)`. With `train=True` BatchNorm
    takes the statistics of the batch and sows them (`layers.BatchNorm`); latent states may then
    have an axis of steps behind the batch, `[B, steps, ...]`, each step with statistics of its own.
    """

    config: NetworkConfig
    spec: EnvSpec

    def __post_init__(self) -> None:
        """Raises `ValueError` where patches do not divide images."""
        super().__post_init__()
        for size in self.spec.frame_shape[:2] if self.spec.image else ():
            if size % self.config.patch:
                raise ValueError(
                    f"network.patch={self.config.patch} is out of range: it must divide the "
                    f"images' {size} pixels"
                )

    @property
    def state_rank(self) -> int:
        """Number of axes of one latent state."""
        return len(self.spec.frame_shape)

    def setup(self) -> None:
        c, dtype, actions = self.config, jnp.dtype(self.config.dtype), self.spec.actions
        norm, trunk_norm, batch_norm = (
            Norm(kind, c.norm_groups, c.input_norm == "running")
            for kind in (c.norm, c.trunk_norm, "batch")
        )
        features: Callable[[], nn.Module]
        if self.state_rank == 3:
            self.representation: nn.Module = image.Representation(
                c.channels, c.pools, c.blocks, c.patch, self.spec.stack, c.motion, dtype, trunk_norm
            )
            self.dynamics: nn.Module = image.Dynamics(
                actions,
                c.blocks,
                c.action_embedding,
                c.action_planes == "one_hot",
                dtype,
                trunk_norm,
            )
            self.trunk: nn.Module = image.Trunk(c.blocks, dtype, trunk_norm)
            features = functools.partial(image.Features, c.head_channels, dtype, trunk_norm)
        elif c.residual == "post":
            self.representation = vector.Representation(c.channels, c.blocks, norm, dtype)
            self.dynamics = vector.Dynamics(actions, c.blocks, c.action_embedding, norm, dtype)
            self.trunk = vector.Trunk(c.blocks, norm, dtype)
            features = vector.Features
        else:
            self.representation = pre_norm.Representation(c.channels, c.blocks, norm, dtype)
            self.dynamics = pre_norm.Dynamics(actions, c.blocks, c.action_embedding, dtype)
            self.trunk = pre_norm.Trunk(c.blocks, dtype)
            features = pre_norm.Features
        self.value_prefix = ValuePrefix(features(), c)
        self.value_features, self.policy_features = features(), features()
        self.value_head = Mlp((c.head_hidden,), 2 * c.support + 1, True, norm)
        self.policy_head = Mlp((c.head_hidden,), actions.head_size, True, norm)
        self.projector = Mlp((c.projection, c.projection), c.projection, False, batch_norm, dtype)
        self.projector_norm = BatchNorm(c.norm_groups, dtype=dtype)
        self.predictor = Mlp((c.predictor,), c.projection, False, batch_norm, dtype)
        self.standardised = nn.LayerNorm(use_bias=False, use_scale=False)

    def encode(self, observation: Array, train: bool = False) -> Array:
        """Observation `[B, ..., S * C]` to latent state `[B, ...]`."""
        return self.representation(observation, train)

    def predict(self, state: Array, train: bool = False) -> Prediction:
        """Value and policy of latent states."""
        x = self.trunk(state, train)
        return Prediction(
            self.value_head(self.value_features(x, train), train),
            self.policy_head(self.policy_features(x, train), train),
        )

    def step(self, state: Array, memory: Memory, action: Array, train: bool = False) -> Step:
        """One model step along `action [B]`, or `[B, D]`.

        The caller zeroes the memory where the value prefix starts anew.
        """
        state = self.advance(state, action, train)
        return Step(state, *self.value_prefixes(state, memory, train, actions=action))

    def advance(self, state: Array, action: Array, train: bool = False) -> Array:
        """Next latent state alone: the loss scales its gradient before any head sees it."""
        return self.dynamics(state, action, train)

    def value_prefixes(
        self,
        states: Array,
        memory: Memory,
        train: bool = False,
        restart: int = 0,
        actions: Array | None = None,
    ) -> tuple[Memory, Array]:
        """Value prefixes on arrival in consecutive states.

        Args:
          states: `[B, steps, ...]`, or `[B * steps, ...]` sample by sample.
          memory: before the first, `[B, lstm]` each.
          train: use the statistics of the batch.
          restart: the memory is zero again after so many states, the horizon of the value prefix;
            0: never.
          actions: that led to the states, read with `network.reward_action` alone.

        Returns:
          the memory after the last state, and logits `[B, steps, 2 * support + 1]` (or merged, as
          the states).
        """
        choice = None
        if self.config.reward_action and actions is not None:
            choice = self.spec.actions.features(actions, jnp.float32)
        return self.value_prefix(memory, states, train, restart, choice)

    def project(self, state: Array, train: bool = False) -> Array:
        """SimSiam projection `[B, (steps,) projection]` (Chen & He 2021, arXiv 2011.10566).

        BatchNorm, without ReLU, comes after the last layer too. With `network.projection` 0 the
        state itself, of mean 0 and variance 1, `[B, (steps,) D]`.
        """
        flat = state.reshape(*state.shape[: state.ndim - self.state_rank], -1)
        if not self.config.projection:
            return self.standardised(flat.astype(jnp.float32))
        return self.projector_norm(self.projector(flat, train), train)

    def predict_projection(self, projection: Array, train: bool = False) -> Array:
        """SimSiam's predictor, `[B, projection]`: on the branch of the predicted states."""
        return self.predictor(projection, train) if self.config.projection else projection

    def initial_memory(self, batch: int) -> Memory:
        """A memory of zeros."""
        units = self.config.lstm if self.config.value_prefix else 0
        return jnp.zeros((batch, units)), jnp.zeros((batch, units))

    def everything(self, observation: Array) -> Array:
        """Touches each parameter once, for initialisation."""
        state = self.encode(observation)
        actions = self.spec.actions
        action = jnp.zeros((observation.shape[0], *actions.shape), actions.dtype)
        step = self.step(state, self.initial_memory(observation.shape[0]), action)
        self.predict(step.state)
        return self.predict_projection(self.project(step.state))


def infer(network: Network, variables: Any, method: str, *args: Any) -> Any:
    """Calls a method of the network with its running averages."""
    return network.apply(variables, *args, method=method)


def encode(network: Network, variables: Any, observation: Array) -> Array:
    """Encodes observations `[B, ..., S * C]` for inference, a few at a time on a CPU."""

    def run(x: Array) -> Array:
        return infer(network, variables, "encode", x)

    if observation.ndim < 4:
        return run(observation)
    _, height, width, _ = observation.shape
    # The first layers write half as many channels at half the height and width, in float32.
    return lowering.map_in_cache(run, observation, height * width * network.config.channels // 2)


def init_variables(network: Network, key: Array) -> dict:
    """`{'params', 'batch_stats'}` of a fresh network."""
    observation = jnp.zeros((1, *observation_shape(network.spec)), network.spec.frame_dtype)
    return dict(network.init(key, observation, method="everything"))
