"""What an observation becomes: an image, `uint8 [N, H, W, C]`, or a vector `[N, D]`, float32 (uint8
of what is boolean).
"""

from typing import Any

SMALLEST_IMAGE = 16
"""Pixels a side; smaller boards are vectors, a stack of strided convolutions would leave nothing of
them.
"""


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether observations `[H, W, C]` of this shape go through convolutions."""
    return len(shape) == 3 and min(shape[:2]) >= SMALLEST_IMAGE


def to_frame(observation: Any) -> Any:
    """Observations `[N, ...]`, NumPy's or JAX's, channels last, as frames.

    Images that are no bytes are taken to lie in [0, 1].
    """
    if not is_image(observation.shape[1:]):
        return observation.reshape(observation.shape[0], -1).astype(
            "uint8" if observation.dtype == "bool" else "float32"
        )
    return (
        observation
        if observation.dtype == "uint8"
        else (observation.astype("float32") * 255).round().astype("uint8")
    )
