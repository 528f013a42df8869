"""How the heavy operations are lowered on a CPU: the same numbers up to rounding, and the only
place that asks for the backend.

One thing differs: what is searched in pieces has other noise.

XLA's default on CPU leaves half of the machine's matmul rate on the floor for convolutions, and
takes the gradient of a strided convolution from an image of mostly zeros.
`experiments/results/speed/log.md` has the measurements.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
NHWC = ("NHWC", "HWIO", "NHWC")


_plain = False


def on_cpu() -> bool:
    """Whether to lower for a CPU."""
    return jax.default_backend() == "cpu" and not _plain


@contextlib.contextmanager
def plain():
    """What is traced inside is lowered as on other backends: to compare, and to count work."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
}
"""YNNPACK for matrix products and sums, where it is the fastest, but not for convolutions: Eigen's
are up to twice as fast.
"""
LITTLE_MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
"""An order of operations that keeps little alive: an update needs a third less memory, but a search
takes a tenth longer.
"""


def compiler_options(little_memory: bool = False) -> dict[str, str]:
    """XLA's options for our programs: those that this version knows."""
    if not on_cpu():
        return {}
    wanted = CPU_OPTIONS | (LITTLE_MEMORY if little_memory else {})
    return {name: value for name, value in wanted.items() if is_known(name, value)}


@functools.cache
def is_known(name: str, value: str) -> bool:
    """Whether this version of XLA has an option."""
    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def jit(fn: Callable, *, little_memory: bool = False, **options) -> Callable:
    """`jax.jit` with our compiler options; on a CPU JAX refuses such a program inside another
    `jax.jit`.
    """
    return jax.jit(fn, compiler_options=compiler_options(little_memory), **options)


def loop_unrolling(steps: int) -> int:
    """How many of a loop's steps become one: on a CPU one, which leaves less to compile; elsewhere,
    and to count work, all.
    """
    return 1 if on_cpu() else steps


# IMAGES IN CACHE

CACHE_BYTES = 2_400_000
"""What two cores' second-level caches hold of one layer, about."""


def map_in_cache(fn: Callable[[Array], Array], x: Array, bytes_each: int) -> Array:
    """`fn` over the leading axis of x, on CPU a few elements at a time, such that what a layer
    writes of them stays in cache.

    Args:
      fn: `[b, ...]` to `[b, ...]`, element by element.
      x: `[B, ...]`.
      bytes_each: what a typical layer writes of one element.
    """
    size = max(1, CACHE_BYTES // bytes_each)
    if not on_cpu() or x.shape[0] <= 2 * size:
        return fn(x)
    return lax.map(lambda one: fn(one[None])[0], x, batch_size=size)


def map_in_pieces(fn: Callable[[Array, Any], Any], key: Array, x: Any, most: int) -> Any:
    """`fn` over the leading axis of x, on CPU at most `most` elements at a time, for less memory.

    Args: fn: a typed PRNG key and elements to results, each with the same leading axis. Each piece
      has a key of its own, so that its
        noise is not that of the whole.
      key: typed PRNG key, consumed.
      x: pytree of `[B, ...]`.
      most: elements of a piece. A batch that cannot be cut into equal pieces of more than half of
        this stays whole.
    """
    count = jax.tree.leaves(x)[0].shape[0]
    size = equal_pieces(count, most)
    if not on_cpu() or size == count:
        return fn(key, x)
    pieces = jax.tree.map(lambda y: y.reshape(-1, size, *y.shape[1:]), x)
    results = lax.map(lambda args: fn(*args), (jax.random.split(key, count // size), pieces))
    return jax.tree.map(lambda y: y.reshape(count, *y.shape[2:]), results)


def equal_pieces(count: int, most: int) -> int:
    """The largest size up to `most` that divides `count`, or `count` if there is none above half of
    `most`.
    """
    return next(
        (n for n in range(min(count, most), min(count, most) // 2, -1) if count % n == 0), count
    )


# CONVOLUTION


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
    """Convolution with padding 1 and stride 1 or 2: `[B, H, W, C]` with `[3, 3, C, D]` to `[B,
    H/stride, W/stride, D]`.
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
    """A convolution of stride 1 by 3x3, or, where a pixel of g meets 2x2 of the input, by 2x2
    blocks: no zeros in between.
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
"""Of `CACHE_BYTES`, for an image and its gradient: from here on loops over a few images win, below
they cost more than they save (log, 8)."""


def _kernel_gradient(x: Array, g: Array, stride: int) -> Array:
    large = x[0].nbytes + g[0].nbytes > LARGE_IMAGE * CACHE_BYTES
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
    """The shifted x times the shifted g, a few images at a time: what is laid out for the product
    hardly leaves the cache.
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

    most = max(1, CACHE_BYTES // (x[0].nbytes + g[0].nbytes))
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


# BATCH NORMALISATION


def channel_sums(x: Array) -> Array:
    """Sum over all axes but the last, in float32: `[..., C]` to `[C]`."""
    return jnp.sum(x.astype(jnp.float32), tuple(range(x.ndim - 1)))


def batch_moments(x: Array) -> tuple[Array, Array]:
    """Mean and (biased) variance of each channel."""
    count = x.size // x.shape[-1]
    mean = channel_sums(x) / count
    return mean, jnp.maximum(channel_sums(jnp.square(x.astype(jnp.float32))) / count - mean**2, 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise_by_batch(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Array, Array]:
    """BatchNorm in training (Ioffe & Szegedy 2015): the normalised x, and the moments, through
    which no gradient flows.
    """
    return _normalise_forward(x, scale, bias, epsilon)[0]


def _normalise_forward(x: Array, scale: Array, bias: Array, epsilon: float):
    mean, variance = batch_moments(x)
    rate = lax.rsqrt(variance + epsilon)
    y = ((x - mean) * (rate * scale) + bias).astype(x.dtype)
    return (y, mean, variance), (x, mean, rate, scale)


def _normalise_backward(
    epsilon: float, saved: tuple, gradients: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    x, mean, rate, scale = saved
    g, count = gradients[0], x.size // x.shape[-1]
    bias_gradient = channel_sums(g)
    scale_gradient = (
        channel_sums(g.astype(jnp.float32) * x.astype(jnp.float32)) - bias_gradient * mean
    ) * rate
    # dL/dx = rate scale (g - mean(g) - x^ mean(g x^))
    x_gradient = (
        rate * scale * (g - bias_gradient / count - (x - mean) * (rate * scale_gradient / count))
    )
    return x_gradient.astype(x.dtype), scale_gradient, bias_gradient


normalise_by_batch.defvjp(_normalise_forward, _normalise_backward)
