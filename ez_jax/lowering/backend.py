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

GPU_OPTIONS = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,"
    "DYNAMIC_SLICE_FUSION,WHILE,CONDITIONAL"
}
"""Whole loops as CUDA graphs, not their bodies alone: a search is many small kernels, which a GPU
otherwise waits for (26.1 updates a second for 20.3 on an H100).
"""


def compiler_options(little_memory: bool = False) -> dict[str, str]:
    """XLA's options for our programs: those that this version knows."""
    if on_cpu():
        wanted = CPU_OPTIONS | (LITTLE_MEMORY if little_memory else {})
    elif jax.default_backend() == "gpu":
        wanted = GPU_OPTIONS
    else:
        wanted = {}
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

    JAX refuses a program with options inside another `jax.jit`.
    """
    return jax.jit(fn, compiler_options=compiler_options(little_memory), **options)


def loop_unrolling(steps: int) -> int:
    """Number of a loop's steps that become one.

    On a CPU one, which leaves less to compile; elsewhere, and to count work, all.
    """
    return 1 if on_cpu() else steps
