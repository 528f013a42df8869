"""From an environment's observation to the network's input: frame -> stack -> channels.

A frame is an image, `uint8 [H, W, C]`, or a vector `[D]` (float32; uint8 where it is boolean). A
stack is the newest `S` frames side by side on the last axis, oldest first: `[..., S * C]`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ez_jax.types import EnvSpec

Array = jax.Array
SMALLEST_IMAGE = 16
"""Pixels a side; smaller boards are vectors, strided convolutions would leave nothing of them."""


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether observations `[H, W, C]` of this shape go through convolutions."""
    return len(shape) == 3 and min(shape[:2]) >= SMALLEST_IMAGE


def to_frame(observation: Any) -> Any:
    """Turns observations `[N, ...]`, NumPy's or JAX's, channels last, into frames.

    Images that are not bytes are taken to lie in [0, 1].
    """
    if not is_image(observation.shape[1:]):
        flat = observation.reshape(observation.shape[0], -1)
        return flat.astype("uint8" if observation.dtype == "bool" else "float32")
    if observation.dtype == "uint8":
        return observation
    return (observation.astype("float32") * 255).round().astype("uint8")


def observation_shape(spec: EnvSpec) -> tuple[int, ...]:
    """Shape of one stacked observation."""
    return (*spec.frame_shape[:-1], spec.frame_shape[-1] * spec.stack)


def push_frame(stack: Array, frame: Array, first: Array) -> Array:
    """Appends the newest frame `[N, ..., C]` to the stacks `[N, ..., S * C]`.

    A first frame fills the whole stack.
    """
    channels = frame.shape[-1]
    moved = jnp.concatenate([stack[..., channels:], frame], axis=-1)
    repeated = jnp.tile(frame, (1,) * (frame.ndim - 1) + (stack.shape[-1] // channels,))
    return jnp.where(first.reshape(-1, *(1,) * (frame.ndim - 1)), repeated, moved)


def frames_to_channels(frames: Array) -> Array:
    """Puts consecutive frames `[B, S, ..., C]` side by side on the last axis: `[B, ..., S * C]`."""
    frames = jnp.moveaxis(frames, 1, -2)
    return frames.reshape(*frames.shape[:-2], -1)
