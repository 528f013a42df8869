"""The same numbers, up to rounding, computed faster on a CPU.

The only package that asks for the backend. One thing differs in more than rounding: what
`map_in_pieces` cuts into pieces draws other noise than the whole would.
"""

from ez_jax.lowering.backend import compiler_options, jit, loop_unrolling, on_cpu, plain
from ez_jax.lowering.convolution import conv3x3, conv_general_dilated
from ez_jax.lowering.normalisation import batch_moments, normalise_by_batch
from ez_jax.lowering.pieces import CACHE_BYTES, equal_pieces, map_in_cache, map_in_pieces

__all__ = [
    "CACHE_BYTES",
    "batch_moments",
    "compiler_options",
    "conv3x3",
    "conv_general_dilated",
    "equal_pieces",
    "jit",
    "loop_unrolling",
    "map_in_cache",
    "map_in_pieces",
    "normalise_by_batch",
    "on_cpu",
    "plain",
]
