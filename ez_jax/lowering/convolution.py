"""3x3 convolutions and their gradients on a CPU.

XLA's default on CPU leaves half of the machine's matmul rate unused for convolutions, and takes the
gradient of a strided convolution from an image of mostly zeros.
`experiments/results/speed/README.md` has the measurements.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ez_jax.lowering import pieces
from ez_jax.lowering.backend import on_cpu

Array = jax.Array
NHWC = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    x: Array, kernel: Array, strides: tuple[int, ...], padding: Any, **options
) -> Array:
    """`lax.conv_general_dilated` as `flax.linen.Conv` calls it."""
    window = kernel.shape[:2], tuple(strides), tuple(map(tuple, padding))
    simple = x.shape[-1] == kernel.shape[2] and all(
        d in (None, (1, 1)) for d in (options.get("lhs_dilation"), options.get("rhs_dilation"))
    )
    if on_cpu() and simple and window == ((1, 1), (1, 1), ((0, 0), (0, 0))):
        return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))
    for stride in (1, 2):
        even = x.shape[1] % stride == x.shape[2] % stride == 0
        if on_cpu() and simple and even and window == ((3, 3), (stride, stride), ((1, 1), (1, 1))):
            return conv3x3(x, kernel, stride)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv3x3(x: Array, kernel: Array, stride: int) -> Array:
    """Convolution with padding 1 and stride 1 or 2.

    `[B, H, W, C]` with `[3, 3, C, D]` to `[B, H/stride, W/stride, D]`.
    """
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=NHWC
    )


def _conv3x3_forward(x: Array, kernel: Array, stride: int):
    return conv3x3(x, kernel, stride), (x, kernel)


def _conv3x3_backward(stride: int, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    return _input_gradient(g, kernel, stride), _kernel_gradient(x, g, stride)


conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


def _input_gradient(g: Array, kernel: Array, stride: int) -> Array:
    """A convolution of stride 1 by 3x3 or, at stride 2, by 2x2 blocks.

    At stride 2 a pixel of g meets 2x2 of the input: blocks leave no zeros in between.
    """
    depth, features = kernel.shape[2:]
    if stride == 1:
        return conv3x3(g, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), 1)
    # Row -1 of a block is row 1 of the block before: after a zero row in front, kernel row i is row
    # i % 2 of block i // 2.
    blocks = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))).reshape(2, 2, 2, 2, depth, features)
    blocks = blocks.transpose(0, 2, 1, 3, 4, 5).reshape(2, 2, 4 * depth, features)
    transposed = jnp.flip(blocks, (0, 1)).swapaxes(2, 3)
    y = lax.conv_general_dilated(g, transposed, (1, 1), ((0, 1), (0, 1)), dimension_numbers=NHWC)
    batch, height, width, _ = y.shape
    y = y.reshape(batch, height, width, 2, 2, depth).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(batch, 2 * height, 2 * width, depth)


LARGE_IMAGE = 1 / 16
"""Share of `CACHE_BYTES` that makes an image and its gradient large.

Loops over a few images win from here on; below they cost more than they save.
"""


def _kernel_gradient(x: Array, g: Array, stride: int) -> Array:
    large = x[0].nbytes + g[0].nbytes > LARGE_IMAGE * pieces.CACHE_BYTES
    return (_large_kernel_gradient if large else _small_kernel_gradient)(x, g, stride)


def _small_kernel_gradient(x: Array, g: Array, stride: int) -> Array:
    """A convolution of x with g, in which channels are the batch and the batch is the channels."""
    # XLA would compute x anew inside the transposition, element by element; nothing is fused into a
    # matrix product.
    x = lax.dot_general(x, jnp.eye(x.shape[-1], dtype=x.dtype), (((3,), (0,)), ((), ())))
    last = 2 - stride
    y = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        (1, 1),
        ((1, last), (1, last)),
        rhs_dilation=(stride, stride),
        dimension_numbers=NHWC,
    )
    return y.transpose(1, 2, 0, 3)


def _large_kernel_gradient(x: Array, g: Array, stride: int) -> Array:
    """The shifted x times the shifted g, a few images at a time.

    The operands of the product then hardly leave the cache.
    """
    batch, height, width, depth = x.shape
    features = g.shape[-1]

    def columns(x: Array, size: int, stride: int) -> list[Array]:
        return [
            lax.slice_in_dim(x, i, i + (size - 1) * stride + 1, stride, axis=2) for i in range(3)
        ]

    def one(x: Array, g: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
        x = jnp.concatenate(
            [lax.slice_in_dim(x, i, i + height - stride + 1, stride, axis=1) for i in range(3)], -1
        )
        if stride == 1:
            # x one column to the right meets g as x meets g one to the left: shifting both lays out
            # less than all nine of x.
            g = jnp.concatenate(
                columns(jnp.pad(g, ((0, 0), (0, 0), (1, 1), (0, 0))), width, 1)[::-1], -1
            )
        else:
            x = jnp.concatenate(
                columns(jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0))), width // stride, stride), -1
            )
        x, g = x.reshape(x.shape[0], -1, x.shape[-1]), g.reshape(g.shape[0], -1, g.shape[-1])
        return jnp.sum(
            lax.dot_general(x, g, (((1,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32),
            0,
        )

    most = max(1, pieces.CACHE_BYTES // (x[0].nbytes + g[0].nbytes))
    size = next(n for n in range(min(batch, most), 0, -1) if batch % n == 0)
    # Every n-th image together: a batch that is split over devices stays where it is.
    x, g = (y.reshape(size, -1, *y.shape[1:]) for y in (x, g))
    # Row, input channel, column of the kernel; at stride 2 column, row, input channel.
    shape = (3, depth, 3, features) if stride == 1 else (3, 3, depth, features)
    total = lax.fori_loop(
        0,
        batch // size,
        lambda i, total: total + one(x[:, i], g[:, i]).reshape(shape),
        jnp.zeros(shape),
    )
    return (total.swapaxes(1, 2) if stride == 1 else total.swapaxes(0, 1)).astype(x.dtype)
