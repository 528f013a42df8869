"""Bringing a run back from its work directory, or a model from a shared folder, to look at it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from ez_jax.agent.agent import Agent
from ez_jax.config import Config
from ez_jax.envs import describe
from ez_jax.networks import Network, init_variables
from ez_jax.program.loops import make_loop
from ez_jax.program.mesh import make_mesh
from ez_jax.program.stages import abstract_state
from ez_jax.runner import sharing
from ez_jax.runner.agents import make_agent
from ez_jax.runner.checkpoint import CheckpointError, Checkpoints
from ez_jax.runner.workdir import to_config
from ez_jax.types import State


@dataclass(frozen=True)
class Restored:
    """A run brought back from its work directory, or a model from a shared folder."""

    config: Config
    agent: Agent  # without the extra loss terms of the run
    variables: Any  # of the network: `network.apply(variables, ...)`
    env_steps: int
    updates: int
    state: State | None = None  # of a run; without frames, where the action log holds them

    @property
    def network(self) -> Network:
        """The model."""
        return self.agent.network


def restore(workdir: str | Path) -> Restored:
    """A finished or stopped run, or a shared model, for evaluation or a notebook, on one device of
    this machine.

    Starts no emulator.

    Args:
      workdir: work directory of the run, or the folder that `sharing.export` made of it.

    Raises:
      CheckpointError: no run and no model, or its file is missing or damaged.
    """
    workdir = Path(workdir).expanduser()
    if sharing.is_model(workdir):
        model = sharing.load(workdir)
        agent = make_agent(model.config)
        _check_fits(agent.network, model.variables, workdir)
        return Restored(model.config, agent, model.variables, model.env_steps, model.updates)
    if not (workdir / "config.json").exists():
        raise CheckpointError(f"no run in {workdir}: {workdir / 'config.json'} is missing")
    checkpoints = Checkpoints(workdir)
    try:
        config = to_config(checkpoints.restore_meta()["config"])
        agent, task = make_agent(config), describe(config.env, config.env.stack)
        # One device is enough to look; the number that trained need not be here.
        state = checkpoints.restore(abstract_state(agent, task.state), make_mesh(1))
    finally:
        checkpoints.close()
    counts = int(state.actor.env_steps), int(state.learner.updates)
    return Restored(config, agent, state.learner.variables, *counts, state)


def restore_run(workdir: str | Path, *, whole: bool = False) -> tuple[Restored, State]:
    """A run, and its state with all frames of the replay.

    Args:
      workdir: of the run.
      whole: the replay must have everything that was played.

    Raises:
      CheckpointError: no run, or a file of it is missing or damaged.
      ValueError: a model without replay, or one that has overwritten its beginning (`whole`).
    """
    restored = restore(workdir)
    if restored.state is None:
        raise ValueError(f"{workdir} holds a model without replay")
    replay = restored.state.replay
    if whole and int(replay.cursor) > replay.reward.shape[1]:
        raise ValueError("the replay has overwritten its first frames: give it room for all")
    return restored, make_loop(restored.config, make_mesh(1)).regenerate(restored.state)


def _check_fits(network: Network, variables: Any, folder: Path) -> None:
    """Raises `CheckpointError` where the arrays of a model are not those of its network."""
    wanted = jax.eval_shape(lambda: init_variables(network, jax.random.key(0)))
    wanted, found = (
        {"/".join(name): x.shape for name, x in flatten_dict(tree).items()}
        for tree in (wanted, variables)
    )
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            have, need = (str(shapes.get(name, "nothing")) for shapes in (found, wanted))
            raise CheckpointError(f"the model in {folder} is damaged: {name} is {have}, not {need}")
