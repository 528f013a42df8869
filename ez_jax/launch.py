"""Several processes of one run on this machine, e.g. to try what a cluster will do.

    python -m ez_jax.launch --processes=2 experiments/atari100k.py --game=Pong
    python -m ez_jax.launch --processes=2 --retries=3 experiments/classic.py --env=jax/Catch

Each line of output has the number of its process in front. When one process ends, all end. A run
that lost a process goes on from its last checkpoint, as often as `--retries` says.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

FINAL = (0, 2, 130, 143)
"""Exit statuses that no retry changes: done, refused, stopped by Ctrl-C or SIGTERM."""
PATIENCE_S = 30.0
"""Time for the others to end by themselves, which say who was lost."""


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(command: Sequence[str], processes: int) -> list[subprocess.Popen]:
    """Starts them, their output prefixed."""
    address, started = f"127.0.0.1:{free_port()}", []
    for index in range(processes):
        variables = {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(processes),
            "JAX_PROCESS_ID": str(index),
        }
        process = subprocess.Popen(
            [sys.executable, "-u", *command],
            env={"TF_CPP_MIN_LOG_LEVEL": "2"} | os.environ | variables,  # no warnings of XLA's
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C comes to them from here alone
        )
        assert process.stdout is not None
        threading.Thread(target=forward, args=(process.stdout, index), daemon=True).start()
        started.append(process)
    return started


def forward(lines: IO[str], index: int) -> None:
    """Prints lines with the number of their process."""
    for line in lines:
        print(f"[{index}] {line}", end="", flush=True)


def wait(processes: Sequence[subprocess.Popen]) -> int:
    """Waits until all have ended, and ends the rest some time after the first.

    Returns:
      the status of the first that ended with another one than 0; a signal's number makes 128 more.
    """
    first, since = 0, None
    while any(process.poll() is None for process in processes):
        ended = [process.returncode for process in processes if process.returncode is not None]
        first = first or next((status for status in ended if status), 0)
        since = since or (time.monotonic() if ended else None)
        if since is not None and time.monotonic() - since > PATIENCE_S and first:
            for process in processes:
                process.kill()
        time.sleep(0.05)
    first = first or next((process.returncode for process in processes if process.returncode), 0)
    return first if first >= 0 else 128 - first


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ez_jax.launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, default=2, help="processes to start (2)")
    parser.add_argument("--retries", type=int, default=0, help="restarts after a loss (0)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a script and its options")
    args = parser.parse_args(argv)
    if args.processes < 1 or args.retries < 0:
        parser.error("--processes must be at least 1 and --retries at least 0")
    if not args.command or not os.path.exists(args.command[0]):
        parser.error("a script must follow, e.g. experiments/classic.py")
    command = list(args.command)
    running: list[subprocess.Popen] = []
    stopped: list[int] = []

    def stop(number: int, _: object) -> None:
        stopped.append(number)
        for process in running:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for left in range(args.retries, -1, -1):
            running[:] = start(command, args.processes)
            status = wait(running)
            if status in FINAL or stopped or not left:
                return status
            print(f"ended with status {status}: starting again, {left} retries left", flush=True)
            if "--resume" not in command:
                command.append("--resume")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status


if __name__ == "__main__":
    sys.exit(main())
