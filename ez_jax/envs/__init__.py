"""Environments: N of them in lock-step behind `reset` and `step`, which return a `TimeStep`."""

from ez_jax.envs.envpool import EnvPool, UnknownTask, check_task

__all__ = ["EnvPool", "UnknownTask", "check_task"]
