"""Mapping over the leading axis in pieces: less memory, and layers that stay in cache."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from ez_jax.lowering.backend import on_cpu

Array = jax.Array

CACHE_BYTES = 2_400_000
"""Bytes of one layer's output that two cores' second-level caches hold, about."""


def map_in_cache(fn: Callable[[Array], Array], x: Array, bytes_each: int) -> Array:
    """Maps `fn` over the leading axis of x, on CPU a few elements at a time.

    The output of a layer then stays in cache.

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
    """Maps `fn` over the leading axis of x, on CPU at most `most` elements at a time.

    This saves memory.

    Args:
      fn: a typed PRNG key and elements to results, each with the same leading axis. Each piece has
        a key of its own, so that its noise is not that of the whole.
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
    """The largest size up to `most` that divides `count`.

    `count` itself if there is none above half of `most`.
    """
    return next(
        (n for n in range(min(count, most), min(count, most) // 2, -1) if count % n == 0), count
    )
