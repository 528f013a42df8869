"""Random shift and intensity of observations.

Yarats et al. 2021 (arXiv 2004.13649), as used by SPR and EfficientZero; of vectors the amplitude
alone (Laskin et al. 2020, arXiv 2004.14990).
"""

import jax
import jax.numpy as jnp

from ez_jax import lowering

Array = jax.Array


def random_shift(key: Array, frames: Array, pad: int) -> Array:
    """Crops each `[B, F, H, W, C]` clip at a random place of its edge-padded self.

    The F frames of a clip move together.
    """
    size, _, height, width, _ = frames.shape
    offset = jax.random.randint(key, (2, size, 1), -pad, pad + 1)
    rows = jnp.clip(jnp.arange(height) + offset[0], 0, height - 1)  # [B, H]
    columns = jnp.clip(jnp.arange(width) + offset[1], 0, width - 1)  # [B, W]
    if not lowering.on_cpu() and frames.dtype == jnp.uint8:
        return _moved_by_products(frames, rows, columns)
    batch = jnp.arange(size)
    frames = frames.swapaxes(1, 2)[batch[:, None], rows]  # [B, H, F, W, C]
    return frames.transpose(0, 3, 2, 1, 4)[batch[:, None], columns].transpose(0, 2, 3, 1, 4)


def _moved_by_products(frames: Array, rows: Array, columns: Array) -> Array:
    """Rows `[B, H]` and columns `[B, W]` of clips, by one-hot products: exact for bytes.

    A gather would pad the channels of each pixel to the width of an accelerator's vectors.
    """
    planes = jnp.moveaxis(frames, -1, 2).astype(jnp.bfloat16)  # [B, F, C, H, W], as in replay
    down = jax.nn.one_hot(rows, planes.shape[-2], dtype=jnp.bfloat16)
    across = jax.nn.one_hot(columns, planes.shape[-1], dtype=jnp.bfloat16)
    planes = jnp.einsum("bhi,bfciw->bfchw", down, planes)
    planes = jnp.einsum("bvw,bfchw->bfchv", across, planes)
    return jnp.moveaxis(planes.astype(jnp.uint8), 2, -1)


def random_intensity(key: Array, frames: Array, scale: float) -> Array:
    """Multiplies each clip `[B, F, ...]` by 1 + scale * clip(N(0, 1), -2, 2), in float32."""
    one = (frames.shape[0], *(1,) * (frames.ndim - 1))
    noise = jnp.clip(jax.random.normal(key, one), -2.0, 2.0)
    return frames * (1 + scale * noise)


def augment(key: Array, frames: Array, shift: int, intensity: float) -> Array:
    """Both, on uint8 or float clips `[B, F, H, W, C]`, without clipping afterwards.

    Vectors `[B, F, D]` have no shift.
    """
    shift_key, intensity_key = jax.random.split(key)
    if shift:
        frames = random_shift(shift_key, frames, shift)
    if intensity:
        frames = random_intensity(intensity_key, frames, intensity)
    return frames
