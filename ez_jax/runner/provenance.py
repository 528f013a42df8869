"""Where a result comes from: device, versions, commit and command."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

import ez_jax

PACKAGES = ("jax", "flax", "optax", "mctx", "envpool", "orbax-checkpoint", "numpy")


def provenance(command: str | None = None) -> dict[str, Any]:
    """Device, versions, commit and command (that of this process by default)."""
    versions = {"python": platform.python_version(), "ez_jax": ez_jax.__version__}
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}, "
        f"{os.cpu_count()} CPU cores",
        "versions": versions | {package: _version(package) for package in PACKAGES},
        "commit": _commit(),
        "command": command or shlex.join(["python", *sys.argv]),
    }


def _version(package: str) -> str | None:
    """None where a package was copied rather than installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    here = Path(__file__).parent
    try:
        out = subprocess.run(describe, cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None
