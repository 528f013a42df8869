"""Flax modules: representation, dynamics, value prefix, prediction, projection."""

from ez_jax.networks.layers import Calls
from ez_jax.networks.model import (
    Network,
    Prediction,
    Step,
    encode,
    frames_to_channels,
    init_variables,
    observation_shape,
    observations,
)

__all__ = [
    "Calls",
    "Network",
    "Prediction",
    "Step",
    "encode",
    "frames_to_channels",
    "init_variables",
    "observation_shape",
    "observations",
]
