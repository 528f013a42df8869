"""Joining the other processes of a run, before JAX looks at its devices."""

import atexit
import os
import sys
import warnings

import jax
import numpy as np

from ez_jax.hosts import group as group_lib
from ez_jax.hosts.peers import HOW, Peers, answer_abort, host_name
from ez_jax.hosts.store import Group, Service

GIVEN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""Variables that name the group where no cluster does: host:port of process 0, how many, which."""
ALONE = {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_SIZE": "1"}
"""Variables of a cluster's job with a single process."""
HEARTBEAT_S = 60
"""JAX's own, behind that of `peers`."""
START_S = 300
"""Time for all processes to come: hosts of a cluster start at unlike times. One that is lost before
it came keeps the others waiting so long."""


def number_of_processes() -> int:
    """How many there are."""
    return group_lib.group.count


def connect(local: bool = False) -> None:
    """Joins the group that the variables of the environment name, or the cluster that JAX finds.

    On TPU pods, under Slurm, Open MPI and in Kubernetes nothing has to be given.

    Args:
      local: stay alone, whatever the environment says.

    Raises:
      ValueError: the variables are incomplete or no numbers, or the others did not come.
    """
    if local or group_lib.connected():
        return
    given = [os.environ.get(name) for name in GIVEN]
    if not any(given) and any(os.environ.get(name) == one for name, one in ALONE.items()):
        return
    jax.config.update("jax_enable_preemption_service", False)  # signals are ours: `meeting`
    # Else the client of JAX aborts when any process is lost, before it is known which one.
    jax.config.update("jax_enable_recoverability", True)
    put_back = answer_abort(
        f"the other processes of this run did not come within {START_S} s: start all again"
    )
    try:
        here = _connect_to(given) if any(given) else _connect_to_cluster()
    finally:
        put_back()
    if here:
        _join()


def _connect_to_cluster() -> bool:
    """Whether there is one."""
    try:
        with warnings.catch_warnings():
            # JAX asks for a package in any pod of Kubernetes.
            warnings.simplefilter("ignore")
            jax.distributed.initialize(
                initialization_timeout=START_S, heartbeat_timeout_seconds=HEARTBEAT_S
            )
        return True
    except ValueError as error:
        if "coordinator_address" in str(error):
            return False
        raise
    except RuntimeError as error:
        if "before" in str(error):  # JAX is in use already: a notebook
            if several := [f"{name}={os.environ[name]}" for name in ALONE if name in os.environ]:
                raise ValueError(
                    f"JAX is in use already, and {several[0]} speaks of other processes: join them "
                    "before (`ez_jax.setup()`), or stay alone (`ez_jax.setup(local=True)`)"
                ) from error
            return False
        raise ValueError(f"cannot join the processes of the cluster: {error}") from error


def _connect_to(given: list[str | None]) -> bool:
    if missing := [name for name, value in zip(GIVEN, given) if not value]:
        raise ValueError(f"{', '.join(missing)} must be set too, or none of {', '.join(GIVEN)}")
    address, count, index = (str(value) for value in given)
    if ":" not in address:
        raise ValueError(f"{GIVEN[0]}={address} must be of the form host:port")
    if not count.isdecimal() or not index.isdecimal() or not int(index) < int(count):
        raise ValueError(
            f"{GIVEN[1]}={count} and {GIVEN[2]}={index} must be numbers, the second "
            "less than the first"
        )
    try:
        jax.distributed.initialize(
            address,
            int(count),
            int(index),
            cluster_detection_method="deactivate",
            initialization_timeout=START_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
        )
    except RuntimeError as error:
        raise ValueError(
            f"process {index} of {count} cannot reach the others at {address}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return True


def _join() -> None:
    # JAX has no public name for the store of its service; Orbax takes this one too.
    from jax._src.distributed import global_state as service

    group = Group(service.process_id, service.num_processes, Service(service.client))
    group.store.put(f"host/{group.index}", host_name())
    peers = Peers(group)
    group_lib.become(group, peers)
    peers.start()
    atexit.register(peers.leave_in_order)
    sys.excepthook = group_lib.end_all  # of scripts, which have no `guard` around them
    # The first collective has 30 seconds (gloo), and programs are compiled at unlike speeds: so one
    # that is tiny, when all are here.
    group.exchange("here", "")
    if group.index:
        host = group.store.get("host/0")
        answer_abort(f"lost process 0 on {host}, the coordinator, or the way to it; {HOW}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from jax.experimental import multihost_utils

        multihost_utils.process_allgather(np.zeros(1, np.int32))
