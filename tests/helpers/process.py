"""Run by `hosts/test_processes.py`: a process of several that meets the others again and again.

    python -m helpers.process FOLDER [fail | refuse]

With `fail` process 1 raises an error after some cycles, with `refuse` it ends before them as a
parser does.
"""

import sys
import time
from pathlib import Path

import numpy as np
from jax.experimental import multihost_utils

from ez_jax import hosts
from ez_jax.config import differences
from ez_jax.runner.setup import setup
from ez_jax.runner.stopping import Stopped, StopRequest


def cycles(folder: Path, fail: bool):
    hosts.shared_folder(folder)
    hosts.same({"fail": fail}, differences)
    rank = hosts.group.group.index
    assert hosts.agree(lambda: {"of": rank}) == {"of": 0}
    with StopRequest(stuck_after=600.0) as stop:
        for number in range(1, 600):
            total = multihost_utils.process_allgather(np.array([number]))
            assert total.ravel().tolist() == hosts.number_of_processes() * [number]
            (folder / f"cycle-{rank}").write_text(str(number))
            if fail and rank and number == 20:
                raise RuntimeError("a fault of its own")
            if stop.end_of_cycle():
                (folder / f"stopped-{rank}").write_text(str(number))
                raise Stopped(f"stopped at {number}", stop.status)
            time.sleep(0.02)


if __name__ == "__main__":
    setup()
    code = 0
    try:
        with hosts.guard(Stopped):
            if "refuse" in sys.argv and not hosts.first():
                sys.exit(2)
            cycles(Path(sys.argv[1]), "fail" in sys.argv)
    except Stopped as stopped:
        hosts.say(str(stopped))
        code = stopped.status
    sys.exit(hosts.finish(code))
