"""One device against four simulated ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_four_devices_agree_with_one():
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"
    }
    done = subprocess.run(
        [sys.executable, "-m", "helpers.mesh_worker"],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=900,
    )
    assert done.returncode == 0 and done.stdout.strip().endswith("ok"), done.stderr[-3000:]
