"""Frames of DeepMind Control, which MuJoCo draws with EGL.

EnvPool looks for EGL when it is loaded, and only among the libraries that are loaded already: the
package imports this file before EnvPool. Where nothing can be drawn MuJoCo ends the process, so
that another process tries first.
"""

import ctypes
import functools
import subprocess
import sys
import tempfile
from typing import Any

from ez_jax.config import EnvConfig

EGL = "libEGL.so.1"
PROBE = f"""
import ctypes
ctypes.CDLL({EGL!r}, ctypes.RTLD_GLOBAL)
import envpool
options = dict(from_pixels=True, render_width=16, render_height=16)
envpool.make("CartpoleBalance-v1", env_type="gymnasium", num_envs=1, **options).reset()
"""


def load() -> str:
    """Loads EGL where it is; returns why nothing can be drawn, or nothing."""
    if "envpool" in sys.modules:
        return "envpool was imported before ez_jax, which has to load EGL first"
    try:
        ctypes.CDLL(EGL, ctypes.RTLD_GLOBAL)
    except OSError as error:
        return f"{error} (Debian, Ubuntu: apt install libegl1 libgl1-mesa-dri)"
    return ""


UNLOADED = load()


@functools.cache
def check() -> None:
    """Makes sure that frames can be drawn here; takes a few seconds, once.

    Raises:
      ValueError: they cannot; says why.
    """
    reason = UNLOADED
    if not reason:
        with tempfile.TemporaryDirectory() as folder:  # MuJoCo leaves a log
            command = [sys.executable, "-c", PROBE]
            tried = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if tried.returncode:
            said = (tried.stderr + tried.stdout).split("\n")
            reason = next((line for line in said if line), f"exit status {tried.returncode}")
    if reason:
        raise ValueError(f"env.pixels=True, but MuJoCo cannot draw here: {reason}")


def options(config: EnvConfig) -> dict[str, Any]:
    """EnvPool's options for frames `[3, height, width]` of bytes in place of the state."""
    return dict(from_pixels=True, render_width=config.width, render_height=config.height)
