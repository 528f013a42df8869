"""Bringing a run back from its work directory, to look at it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ez_jax.agent.agent import Agent
from ez_jax.agent.losses import active_losses
from ez_jax.config import Config
from ez_jax.envs import describe
from ez_jax.networks import Network
from ez_jax.program.mesh import make_mesh
from ez_jax.program.stages import abstract_state
from ez_jax.runner.checkpoint import CheckpointError, Checkpoints
from ez_jax.runner.workdir import to_config
from ez_jax.types import State


@dataclass(frozen=True)
class Restored:
    """A run brought back from its work directory."""

    config: Config
    agent: Agent  # without the extra loss terms of the run
    state: State  # without frames, where the action log holds them

    @property
    def network(self) -> Network:
        """The model."""
        return self.agent.network

    @property
    def variables(self) -> Any:
        """Variables of the network: `network.apply(variables, ...)`."""
        return self.state.learner.variables


def restore(workdir: str | Path) -> Restored:
    """A finished or stopped run, for evaluation or a notebook, on one device of this machine.

    Starts no emulator.

    Raises:
      CheckpointError: no run, or its checkpoint is missing or damaged.
    """
    workdir = Path(workdir)
    if not (workdir / "config.json").exists():
        raise CheckpointError(f"no run in {workdir}: {workdir / 'config.json'} is missing")
    checkpoints = Checkpoints(workdir)
    try:
        config = to_config(checkpoints.restore_meta()["config"])
        task = describe(config.env, config.env.stack)
        agent = Agent(config, Network(config.network, task.spec), active_losses(config))
        # One device is enough to look; the number that trained need not be here.
        state = checkpoints.restore(abstract_state(agent, task.state), make_mesh(1))
    finally:
        checkpoints.close()
    return Restored(config, agent, state)
