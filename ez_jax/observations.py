"""From an environment's observation to the network's input: frame -> stack -> channels.

A frame is an image, `uint8 [H, W, C]`, or a vector `[D]` (float32; uint8 where it is boolean). A
stack is the newest `S` frames side by side on the last axis, oldest first: `[..., S * C]`.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ez_jax.types import EnvSpec

Array = jax.Array
SMALLEST_IMAGE = 16
"""Pixels a side; smaller boards are vectors, strided convolutions would leave nothing of them."""
COLOURS = 4
"""A first axis of at most so many in front of an image holds its channels."""
UNIT = (0.0, 1.0)
"""Bounds of images of floats, unless the environment declares others."""


def layout(shape: tuple[int, ...]) -> Literal["channels_last", "channels_first", "grey", "vector"]:
    """How observations of this shape, without the batch, become frames.

    Raises:
      ValueError: the channels of an image may be its first axis or its last.
    """
    if len(shape) == 2 and min(shape) >= SMALLEST_IMAGE:
        return "grey"
    if len(shape) != 3:
        return "vector"
    if min(shape[:2]) >= SMALLEST_IMAGE:
        return "channels_last"
    if min(shape[1:]) < SMALLEST_IMAGE:
        return "vector"
    if shape[0] <= COLOURS:
        return "channels_first"
    raise ValueError(
        f"observations of shape {list(shape)} may be images of {shape[0]} channels or boards: give "
        "images as [H, W, C] or vectors as [D]"
    )


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether observations of this shape, without the batch, go through convolutions."""
    return layout(shape) != "vector"


def to_frame(observation: Any, bounds: tuple[float, float] = UNIT) -> Any:
    """Turns observations `[N, ...]`, NumPy's or JAX's, into frames; `check_image` sees the values.

    Images of integers are bytes, those of floats lie in `bounds`, those of booleans are black and
    white. Grey images get a channel, and channels in front go behind.

    Args:
      observation: of N environments.
      bounds: the least and the largest value of an image of floats.
    """
    kind = layout(observation.shape[1:])
    if kind == "vector":
        flat = observation.reshape(observation.shape[0], -1)
        return flat.astype("uint8" if observation.dtype == "bool" else "float32")
    if kind == "grey":
        observation = observation[..., None]
    elif kind == "channels_first":
        observation = observation.transpose(0, 2, 3, 1)
    if observation.dtype == "uint8":
        return observation
    if observation.dtype == "bool":
        return observation.astype("uint8") * np.uint8(255)
    if observation.dtype.kind in "iu":
        return observation.astype("uint8")
    low, high = bounds if np.all(np.isfinite(bounds)) else UNIT
    return ((observation.astype("float32") - low) * (255 / (high - low))).round().astype("uint8")


def check_image(observation: Any, bounds: tuple[float, float] = UNIT) -> None:
    """Checks the values of observations `[N, ...]` that `to_frame` takes for images.

    Raises:
      ValueError: integers are no bytes, or floats leave their bounds; names the range found.
    """
    if not is_image(observation.shape[1:]) or observation.dtype in ("uint8", "bool"):
        return
    low, high = (0, 255) if observation.dtype.kind in "iu" else bounds
    low, high = (low, high) if np.all(np.isfinite((low, high))) else UNIT
    least, most = float(np.min(observation)), float(np.max(observation))
    if not (least >= low and most <= high):  # NaN too
        raise ValueError(
            f"images of {observation.dtype} must lie in [{low:g}, {high:g}], not in "
            f"[{least:g}, {most:g}]: an environment of one's own declares `bounds = (low, high)`"
        )


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
