"""The backend that programs are compiled for, and their compiler options."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import jax

_plain = False


def on_cpu() -> bool:
    """Whether to lower for a CPU."""
    return jax.default_backend() == "cpu" and not _plain


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Lowers what is traced inside as on other backends: to compare, and to count work."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,"
    "LIBRARY_FUSION_TYPE_REDUCE"
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
    """`jax.jit` with our compiler options.

    On a CPU JAX refuses such a program inside another `jax.jit`.
    """
    return jax.jit(fn, compiler_options=compiler_options(little_memory), **options)


def loop_unrolling(steps: int) -> int:
    """Number of a loop's steps that become one.

    On a CPU one, which leaves less to compile; elsewhere, and to count work, all.
    """
    return 1 if on_cpu() else steps
