"""Environments: N of them in lock-step behind `reset` and `step`, which return a `TimeStep`.

`make` finds a task by its id: an EnvPool id, `gymnasium/<id>`, `jax/Catch`, `gymnax/<id>` or
`pgx/<id>`; `drawn/<id>` draws the boards of a pure one.
"""

from ez_jax.envs import drawing as drawing  # before EnvPool
from ez_jax.envs.checks import ProtocolError
from ez_jax.envs.envpool import EnvPool, is_atari
from ez_jax.envs.functional import Environment, JaxEnvs, Reset, Step
from ez_jax.envs.registry import (
    Environments,
    PureEnvironments,
    UnknownTask,
    check_task,
    describe,
    dmc_task,
    is_control,
    make,
    register,
    time_limit,
)

__all__ = [
    "EnvPool",
    "Environment",
    "Environments",
    "JaxEnvs",
    "ProtocolError",
    "PureEnvironments",
    "Reset",
    "Step",
    "UnknownTask",
    "check_task",
    "describe",
    "dmc_task",
    "is_atari",
    "is_control",
    "make",
    "register",
    "time_limit",
]
