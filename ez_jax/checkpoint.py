"""Checkpoints that resume to the bit.

EnvPool is deterministic for a seed and a sequence of actions, so a checkpoint holds the small
things (parameters, optimiser, statistics of replay, keys, the action log) and no frame: stepping
the emulators through the log brings them and every frame back. Environments that are pure functions
are part of the state, and their checkpoints hold all of it.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ez_jax import actor as actor_lib
from ez_jax import cycle as cycle_lib
from ez_jax.config import Config, differences, from_dict, to_dict
from ez_jax.cycle import Stages
from ez_jax.envs import Environments
from ez_jax.mesh import state_shardings
from ez_jax.types import State, TimeStep


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another run; the message names the file and what is
    wrong.
    """


class Checkpoints:
    """The checkpoints of one work directory: the two newest are kept, and only complete ones are
    ever seen.
    """

    def __init__(self, workdir: Path):
        self.path = Path(workdir).absolute() / "checkpoints"
        self._manager: ocp.CheckpointManager | None = None

    @property
    def manager(self) -> ocp.CheckpointManager:
        if self._manager is None:
            # Renaming a finished folder is what makes a save atomic: a run killed while writing
            # leaves no such folder.
            options = ocp.CheckpointManagerOptions(
                max_to_keep=2, create=True, enable_async_checkpointing=False
            )
            self._manager = ocp.CheckpointManager(self.path, options=options)
        return self._manager

    def latest(self) -> int | None:
        """Number of the newest complete checkpoint."""
        if not self.path.is_dir():
            return None
        return self.manager.latest_step()

    def steps(self) -> set[int]:
        """Numbers of all complete checkpoints."""
        return set(self.manager.all_steps()) if self.path.is_dir() else set()

    def save(self, step: int, state: State, meta: dict[str, Any]) -> None:
        """Saves the state of one seed, without what can be regenerated, under the number `step`;
        `meta` must be JSON.
        """
        if step in self.steps():
            return
        self.manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(slim(state)), meta=ocp.args.JsonSave(meta)
            ),
        )
        self.manager.wait_until_finished()

    def restore_meta(self, step: int | None = None) -> dict[str, Any]:
        """The `meta` of the newest checkpoint, or of `step`.

        Raises:
          CheckpointError: there is none, or it cannot be read.
        """
        return self._read(self._require() if step is None else step, meta=ocp.args.JsonRestore())[
            "meta"
        ]

    def restore(self, stages: Stages, step: int | None = None) -> State:
        """The newest state of one seed, or that of `step`, as it was saved; see `regenerate`.

        Raises:
          CheckpointError: there is none, or it cannot be read.
        """
        shape = slim(stages.abstract)
        abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shape,
            state_shardings(shape, stages.mesh, seeds=False),
        )
        return self._read(
            self._require() if step is None else step, state=ocp.args.StandardRestore(abstract)
        )["state"]

    def close(self) -> None:
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _require(self) -> int:
        step = self.latest()
        if step is None:
            raise CheckpointError(f"no complete checkpoint in {self.path}")
        return step

    def _read(self, step: int, **args):
        try:
            return self.manager.restore(step, args=ocp.args.Composite(**args))
        except Exception as error:  # Orbax and TensorStore raise many kinds
            reason = (
                str(error).strip().splitlines()[0][:200]
                if str(error).strip()
                else type(error).__name__
            )
            raise CheckpointError(
                f"cannot read the checkpoint {self.path / str(step)}: {reason}"
            ) from error


def slim(state: State) -> State:
    """What a checkpoint holds."""
    if state.actor.env is not None:
        return state
    return state.replace(
        replay=state.replay.replace(frame=None), actor=state.actor.replace(stack=None)
    )


def check_config(saved: dict, config: Config, path: Path) -> None:
    """Refuses to go on with another config than the run was started with.

    Raises:
      CheckpointError: names the fields that differ.
    """
    try:
        saved = to_dict(from_dict(saved))  # a field that is newer than the run has its default
    except ValueError:
        pass  # of another version: the fields tell
    found = differences(json.loads(json.dumps(saved)), json.loads(json.dumps(to_dict(config))))
    if found:
        raise CheckpointError(f"{path} holds a run with another config: " + "; ".join(found))


def regenerate(stages: Stages, env: Environments, state: State) -> State:
    """Brings fresh environments on the host, and all frames, to where the action log ends.

    Raises: CheckpointError: the environments do not repeat what they did (another EnvPool version,
      for one).
    """
    if stages.pure:
        return state
    fresh = cycle_lib.start(stages, env, 0)
    acts = np.asarray(state.actor.acts)  # [] or [seeds]
    log = np.moveaxis(np.asarray(state.actor.action_log), -2, 0)  # [M, N] or [M, seeds, N]

    def put(
        frames: jax.Array,
        stack: jax.Array,
        index: jax.Array,
        running: jax.Array,
        timestep: TimeStep,
    ):
        kept = jax.lax.dynamic_index_in_dim(frames, index, axis=1, keepdims=False)
        newest = jnp.where(running, stack[..., -timestep.frame.shape[-1] :], kept)
        return (
            jax.lax.dynamic_update_index_in_dim(frames, newest, index, axis=1),
            jnp.where(running, actor_lib.push_frame(stack, timestep.frame, timestep.first), stack),
        )

    if stages.seeds:
        put = jax.vmap(put, (0, 0, None, 0, 0))
    put = jax.jit(
        put,
        donate_argnums=(0, 1),
        out_shardings=(fresh.replay.frame.sharding, fresh.actor.stack.sharding),
    )
    frames, stack = fresh.replay.frame, fresh.actor.stack
    slots, last = frames.shape[-len(stages.spec.frame_shape) - 1], np.asarray(fresh.actor.last)
    for i in range(int(acts.max())):
        running = i < acts  # a seed that had taken all its steps waits for the others
        timestep = stages.put(env.step(log[i].reshape(-1)))
        frames, stack = put(
            frames, stack, jnp.asarray(i % slots, jnp.int32), jnp.asarray(running), timestep
        )
        last = np.where(running[..., None], np.asarray(timestep.last), last)
    if not np.array_equal(last, state.actor.last):
        raise CheckpointError(
            "the environments did not repeat the recorded run: is this another EnvPool version?"
        )
    return state.replace(
        replay=state.replay.replace(frame=frames), actor=state.actor.replace(stack=stack)
    )
