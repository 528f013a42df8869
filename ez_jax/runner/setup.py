"""The settings of JAX that every command starts with."""

import os
import warnings
from pathlib import Path

import jax

from ez_jax import hosts


def quiet() -> None:
    """Leaves warnings out that no user can do anything about."""
    # Children (git, the video encoder) are started by fork and exec at once: JAX's threads are in
    # no danger.
    warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
    # Gymnasium on the bounds of EnvPool's observation spaces, each time one is looked at.
    warnings.filterwarnings(
        "ignore", message=".*precision lowered by casting", category=UserWarning
    )


def setup(cache_dir: str | None = None, *, local: bool = False) -> None:
    """Keeps compiled programs on disk, so that only the first run on a machine waits for the
    compiler, and joins the other processes of a run where there are.

    Args:
      cache_dir: by default `$JAX_COMPILATION_CACHE_DIR`, or `~/.cache/ez_jax`.
      local: stay alone, see `hosts.connect`.

    Raises:
      ValueError: the other processes cannot be reached.
    """
    quiet()
    folder = cache_dir or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder = folder or str(Path.home() / ".cache" / "ez_jax")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    hosts.connect(local)
