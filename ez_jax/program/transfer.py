"""Time steps on their way from the host to the devices: a transfer costs by array, not by byte."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ez_jax.types import Array, TimeStep

SMALL = ("reward", "discount", "last", "first", "score", "game_over")
"""Fields of a `TimeStep` with one number for each environment; float32 holds each of them."""


class Packed(NamedTuple):
    """A time step in two arrays, three where there are masks."""

    frame: Any  # [N, ...]
    small: Any  # [N, 6] f32, the fields `SMALL`
    legal: Any  # [N, A] bool or None


def pack(timestep: TimeStep) -> Packed:
    """Of arrays of the host."""
    fields = [np.asarray(getattr(timestep, name), np.float32) for name in SMALL]
    return Packed(timestep.frame, np.stack(fields, axis=-1), timestep.legal)


def unpack(packed: Packed) -> TimeStep:
    """The inverse, in a compiled program."""

    def field(name: str) -> Array:
        value = packed.small[..., SMALL.index(name)]
        return value > 0 if name in ("last", "first", "game_over") else value

    small = {name: field(name) for name in SMALL}
    return TimeStep(frame=jnp.asarray(packed.frame), legal=packed.legal, **small)
