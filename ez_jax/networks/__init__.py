"""Flax modules: representation, dynamics, value prefix, prediction, projection."""

from ez_jax.networks.layers import Moments
from ez_jax.networks.model import Memory, Network, Prediction, Step, encode, infer, init_variables

__all__ = [
    "Memory",
    "Moments",
    "Network",
    "Prediction",
    "Step",
    "encode",
    "infer",
    "init_variables",
]
