"""Where a result comes from: device, versions, commit and command; and files that say so."""

import functools
import hashlib
import importlib.metadata
import json
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
    # The cores that this process may use, where the system tells.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}, {cores} CPU cores",
        "versions": versions | {package: _version(package) for package in PACKAGES},
        "commit": _commit(),
        "command": command or shlex.join(["python", *sys.argv]),
    }


def make_folders(*paths: Path | None) -> None:
    """Makes the folders of files to be written, before the work whose results they hold.

    The commit that `provenance` tells is that of this moment.

    Raises:
      OSError: a folder cannot be made, or a path is one.
    """
    _commit()
    for path in paths:
        if path:
            if path.is_dir():
                raise IsADirectoryError(f"{path} is a folder: name a file")
            path.parent.mkdir(parents=True, exist_ok=True)


def write_result(path: Path | None, found: dict[str, Any]) -> None:
    """Writes a JSON file of `found` after its `provenance`, where there is a file to write."""
    if path:
        path.write_text(json.dumps(provenance() | found, indent=1) + "\n")


def software() -> dict[str, Any]:
    """What must be the same in all processes of a run: versions, and the package's own code."""
    digest = hashlib.sha256()
    folder = Path(__file__).parents[1]
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    versions = {package: _version(package) for package in PACKAGES}
    python = platform.python_version()
    return {"versions": {"python": python} | versions, "code": digest.hexdigest()[:12]}


def _version(package: str) -> str | None:
    """None where a package was copied rather than installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _commit() -> str | None:
    """Of the checkout that holds this file, when it was first asked for; None where none does."""
    here = Path(__file__)

    def git(*words: str) -> str | None:
        done = subprocess.run(
            ["git", *words], cwd=here.parent, capture_output=True, text=True, timeout=10
        )
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        # The package may be installed below a repository of another project.
        if git("ls-files", "--error-unmatch", here.name) is None:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") or None
    except (OSError, subprocess.TimeoutExpired):
        return None
