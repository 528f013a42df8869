"""One short run for the tests of a file."""

import pytest
from helpers.tiny import BREAKOUT_WORDS, call


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """One uninterrupted run by the command."""
    workdir = tmp_path_factory.mktemp("reference") / "run"
    done = call("atari100k.py", *BREAKOUT_WORDS, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir, done
