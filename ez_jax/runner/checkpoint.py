"""Checkpoints that resume to the bit.

EnvPool is deterministic for a seed and a sequence of actions, so a checkpoint holds the small
things (parameters, optimiser, statistics of replay, keys, the action log) and no frame: stepping
the emulators through the log brings them and every frame back. Environments that are pure functions
are part of the state, and their checkpoints hold all of it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from ez_jax.program.mesh import state_shardings
from ez_jax.types import State

FORMAT = 2
"""Version of the saved state; in version 1 the values in replay had other names."""


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another run; the message names file and fault."""


class Checkpoints:
    """The checkpoints of one work directory.

    The two newest are kept, and only complete ones are ever seen.
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
        """Saves the state of one seed, without what can be regenerated, under the number `step`.

        Args:
          step: rises from save to save; nothing is done if it is there already.
          state: of one seed.
          meta: JSON.

        Raises:
          CheckpointError: it was not saved.
        """
        if step in self.steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(without_frames(state)),
            meta=ocp.args.JsonSave(meta | {"format": FORMAT}),
        )
        try:
            saved = self.manager.save(step, args=items)
            self.manager.wait_until_finished()
        except OSError as error:
            raise CheckpointError(f"cannot save to {self.path}: {error}") from error
        if not saved:
            raise CheckpointError(
                f"the checkpoint {step} was not saved: {self.path} has newer ones, "
                f"{sorted(self.steps())}"
            )

    def restore_meta(self, step: int | None = None) -> dict[str, Any]:
        """The `meta` of the newest checkpoint, or of `step`.

        Raises:
          CheckpointError: there is none, it cannot be read, or an earlier version wrote it.
        """
        step = self._require() if step is None else step
        meta = self._read(step, meta=ocp.args.JsonRestore())["meta"]
        if (found := meta.get("format", 1)) != FORMAT:
            raise CheckpointError(
                f"{self.path / str(step)} has format {found} of another version of ez_jax; this "
                f"one reads format {FORMAT}"
            )
        return meta

    def restore(self, abstract: State, mesh: Mesh, step: int | None = None) -> State:
        """The newest state of one seed, or that of `step`, as it was saved.

        `Loop.regenerate` brings back what was left out.

        Args:
          abstract: shapes of the state.
          mesh: to restore to.
          step: None for the newest.

        Raises:
          CheckpointError: there is none, or it cannot be read.
        """
        shape = without_frames(abstract)
        placed = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shape,
            state_shardings(shape, mesh),
        )
        step = self._require() if step is None else step
        return self._read(step, state=ocp.args.StandardRestore(placed))["state"]

    def delete_after(self, step: int | None) -> None:
        """Deletes checkpoints that are newer than `step`; Orbax saves none before them."""
        for newer in self.steps():
            if step is not None and newer > step:
                self.manager.delete(newer)

    def close(self) -> None:
        """Ends Orbax's threads."""
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


def without_frames(state: State) -> State:
    """Drops what the action log brings back: frames of environments on the host."""
    if state.actor.env is not None:
        return state
    return state.replace(
        replay=state.replay.replace(frame=None), actor=state.actor.replace(stack=None)
    )


def with_log(state: State, length: int) -> State:
    """A state, or its shapes, with room for `length` lock-steps in the log of actions."""
    log = state.actor.action_log
    if log.shape[0] == length:
        return state
    shape = (length, *log.shape[1:])
    if isinstance(log, jax.ShapeDtypeStruct):
        longer: Any = jax.ShapeDtypeStruct(shape, log.dtype)
    else:
        longer = jnp.zeros(shape, log.dtype).at[: log.shape[0]].set(log)
    return state.replace(actor=state.actor.replace(action_log=longer))


def newest_common(checkpoints: Sequence[Checkpoints]) -> int | None:
    """Number of the newest checkpoint that every seed has: a kill may have come between two.

    Raises:
      CheckpointError: there are checkpoints, but no such one.
    """
    steps = [saved.steps() for saved in checkpoints]
    common = set.intersection(*steps) if steps else set()
    if not common and any(steps):
        found = ", ".join(
            f"{saved.path.parent.name} has {sorted(s) or 'none'}"
            for saved, s in zip(checkpoints, steps)
        )
        raise CheckpointError(
            f"the seeds have no checkpoint in common: {found}; train those that have none apart, "
            "with --seed, or in another --workdir"
        )
    return max(common, default=None)
