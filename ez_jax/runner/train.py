"""A whole run in a work directory: train, log, checkpoint, stop and resume, evaluate, score.

`run(config, workdir)` is what scripts and notebooks call; `run_seeds` trains several seeds in one
program.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ez_jax import hosts
from ez_jax.agent import acting
from ez_jax.agent.losses import ExtraLosses
from ez_jax.config import Config, differences
from ez_jax.program.loops import HostLoop, Loop, Update, make_loop
from ez_jax.program.loops import train as follow_schedule
from ez_jax.program.mesh import make_mesh
from ez_jax.program.stages import counters
from ez_jax.runner import watch
from ez_jax.runner.boards import open_boards
from ez_jax.runner.checkpoint import Checkpoints, newest_common, with_log, without_frames
from ez_jax.runner.finish import finish_runs
from ez_jax.runner.lock import locked
from ez_jax.runner.metrics import MetricsFile
from ez_jax.runner.progress import Progress
from ez_jax.runner.provenance import provenance, software
from ez_jax.runner.stopping import Clock, Stopped, StopRequest
from ez_jax.runner.workdir import (
    RunError,
    SeedRun,
    check,
    keep_results,
    seed_runs,
    settings,
    write_config,
)
from ez_jax.types import State


def run(
    config: Config, workdir: str | Path, *, resume: bool = False, **options: Any
) -> dict[str, Any]:
    """Trains from start or checkpoint to the end, and evaluates the final parameters.

    Args:
      config: of the run.
      workdir: `config.json, metrics.jsonl, checkpoints/, eval.csv, result.json` and TensorBoard
        events go here.
      resume: go on from the newest checkpoint of `workdir`, or begin where there is none.
      **options: of `run_together`.

    Returns:
      what `result.json` holds.

    Raises:
      RunError: `workdir` holds a run and `resume` is off, or a loss is not finite.
      ValueError: a field is out of range, the game is unknown, the checkpoint is damaged or of
        another config.
      Stopped: Ctrl-C or SIGTERM came; the run is saved.
    """
    return run_together([SeedRun(config, Path(workdir))], resume=resume, **options)[0]


def run_seeds(
    config: Config, workdir: str | Path, num_seeds: int, *, resume: bool = False, **options: Any
) -> list[dict[str, Any]]:
    """`run` for `num_seeds` seeds from `config.seed` on, trained together in one program.

    Each writes what `run` would have written to `workdir/seed<k>`. Numbers differ from those of
    single runs in rounding, and by the lock-step (see `program.loops.train`).
    """
    return run_together(seed_runs(config, workdir, num_seeds), resume=resume, **options)


def run_together(
    runs: Sequence[SeedRun],
    *,
    resume: bool,
    preset: str = "",
    command: str | None = None,
    losses: ExtraLosses | None = None,
    evaluate_after: bool = True,
    wandb: bool = False,
    mesh: Mesh | None = None,
    announce: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Trains runs that differ in their seeds alone, in one program.

    Args:
      runs: one, or several.
      resume: go on from the newest checkpoints.
      preset: its name, for `result.json`.
      command: what started the run, for `result.json`.
      losses: extra loss terms, name to `(function, weight)`.
      evaluate_after: play the evaluation games at the end.
      wandb: show the run on Weights & Biases as well as on TensorBoard.
      mesh: the devices to use, all by default.
      announce: called once everything has been checked.
    """
    runs = [one._replace(workdir=one.workdir.expanduser()) for one in runs]
    check_all = functools.partial(
        check, runs, resume=resume, losses=losses, evaluate_after=evaluate_after
    )
    mine = {"config": settings(runs[0].config, losses), "seeds": len(runs)}
    hosts.same(mine | software(), differences)
    for one in runs:
        hosts.shared_folder(one.workdir)
    hosts.together(check_all)
    with locked([one.workdir for one in runs]):
        checked = hosts.together(check_all)  # nobody else can change anything now
        announce()
        hosts.say("".join(f"{note}\n" for note in checked.notes), end="")
        made = {}
        if checked.todo:
            finish = functools.partial(
                finish_runs,
                preset=preset,
                origin=provenance(command),
                losses=losses,
                evaluate=evaluate_after,
            )
            found = _run_rest(checked.todo, checked.meta, losses, wandb, mesh, finish)
            made = {one.workdir: result for one, result in zip(checked.todo, found)}
        return [(made | checked.finished)[one.workdir] for one in runs]


def _run_rest(
    runs: Sequence[SeedRun],
    meta: dict[str, Any] | None,
    losses: ExtraLosses | None,
    wandb: bool,
    mesh: Mesh | None,
    finish: Callable[..., list[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """Trains and finishes what is not finished; arguments as those of `run_together`."""
    config, seeds = runs[0].config, [one.config.seed for one in runs]
    together = seeds if len(runs) > 1 else ()
    loop = hosts.together(
        lambda: make_loop(config, mesh or make_mesh(), losses=losses, seeds=together)
    )
    checkpoints = [Checkpoints(one.workdir) for one in runs]
    # Nothing is written before: a state that cannot be gone on with leaves the files as they are.
    if meta is None:
        state = loop.start(*seeds)
    else:
        state = _restore(loop, checkpoints, meta["config"]["env_steps"])
        hosts.say("resumed at {:,} steps and {:,} updates".format(*counters(state)))
    for one in runs:
        if meta is not None and meta["config"]["env_steps"] != config.env_steps:
            keep_results(one, meta["config"]["env_steps"])
        write_config(one, losses, loop.stages.spec)
    clock = Clock(meta["wall_s"] if meta else 0.0)
    with contextlib.ExitStack() as stack:
        files, updates = [], counters(state)[1]
        for one in runs:
            opening = functools.partial(open_boards, one.workdir, updates, wandb)
            boards = hosts.together(lambda: opening(settings(one.config, losses)))
            files.append(stack.enter_context(MetricsFile(one.workdir, updates, boards)))
        state = train(loop, state, runs, checkpoints, files, clock, losses)
        for saved in checkpoints:
            saved.close()
        return finish(loop, runs, state, files, clock)


def train(
    loop: Loop,
    state: State,
    runs: Sequence[SeedRun],
    checkpoints: Sequence[Checkpoints],
    files: Sequence[MetricsFile],
    clock: Clock,
    losses: ExtraLosses | None = None,
) -> State:
    """Follows the schedule to its end, with metrics, checkpoints and an orderly stop."""
    config, several = loop.stages.config, len(runs) > 1
    pending: list[Update] = []  # whose losses were not looked at yet
    warned: list[str] = []
    read_back = False

    def check_losses(state: State) -> None:
        try:
            watch.check_finite(pending)
        except RunError as error:
            kept = checkpoints[0].steps()
            rest = "the last checkpoint is kept" if kept else "no checkpoint was written"
            raise RunError(f"{error}; {watch.blame(state)}{rest}") from None

    def save(state: State) -> None:
        nonlocal read_back
        check_losses(state)
        step = int(np.max(state.actor.acts)) + counters(state)[1]
        for i, (one, saved) in enumerate(zip(runs, checkpoints)):
            meta = {
                "config": settings(one.config, losses),
                "wall_s": clock(),
                "extended": one.extended,
            }
            saved.save(step, watch.of_seed(without_frames(state), i, several), meta)
            if not read_back:
                saved.restore(loop.stages.abstract, loop.stages.mesh, step)
        read_back = True  # a run whose checkpoints cannot be read ends at the first one

    def log(state: State, update: Update) -> None:
        check_losses(state)
        pending.clear()
        measured = update.metrics | loop.stages.diagnose(state)
        actor, metrics = jax.device_get((watch.small(state.actor), measured))
        rows = []
        for i, file in enumerate(files):
            one, measured = (watch.of_seed(x, i, several) for x in (actor, metrics))
            rows.append(watch.row(loop.stages, one, measured, update, clock()))
            file.write(rows[-1])
        row = watch.average(rows)
        progress.show(row | {"flop": row["flop"] * len(rows)})
        if not warned and (warning := watch.clipped(rows)):
            progress.console.print(warning)
            warned.append(warning)

    def status(state: State) -> None:
        steps, done = counters(state)
        if steps < config.cycle.warmup_steps:
            progress.status(f"warm-up: {steps:,}/{config.cycle.warmup_steps:,} random steps")
        elif not pending and done == logged:
            progress.status("the first updates: compiling")

    goal = config.env_steps, config.total_updates, watch.peak_rate(loop.stages)
    logged = saved = counters(state)[1]
    with Progress(*goal) as progress, StopRequest(config.run.stuck_after) as stop:
        status(state)
        for state, updates in follow_schedule(loop, state):  # noqa: B020 (consumed in turn)
            for update in updates:
                pending.append(update)
                if update.number // config.run.log_every > logged // config.run.log_every:
                    log(state, update)
                    logged = update.number
            status(state)
            steps, done = counters(state)
            if stop.end_of_cycle():
                save(state)
                raise Stopped(
                    f"stopped and saved at {steps:,} steps and {done:,} updates; "
                    "go on with the same command and --resume",
                    stop.status,
                )
            if done // config.run.checkpoint_every > saved // config.run.checkpoint_every:
                save(state)
            saved = done
        save(state)
    return state


def _restore(loop: Loop, checkpoints: Sequence[Checkpoints], env_steps: int) -> State:
    """The newest state, of a run that was to take `env_steps`, perhaps fewer than now.

    Raises:
      RunError: seeds whose emulators are out of step cannot go on together.
    """
    stages, step = loop.stages, newest_common(checkpoints)
    abstract = with_log(stages.abstract, acting.longest(loop.stages.config, env_steps))
    states = [saved.restore(abstract, stages.mesh, step) for saved in checkpoints]
    length = stages.abstract.actor.action_log.shape[0]
    states = [with_log(state, length) for state in states]
    if stages.config.env_steps > env_steps and isinstance(loop, HostLoop):
        # Some had taken all their steps while others still acted, and cannot be stepped apart.
        acts = {int(state.actor.acts) for state in states}
        if len(acts) > 1:
            folder = checkpoints[0].path.parent
            raise RunError(
                f"seeds that took {min(acts):,} to {max(acts):,} lock-steps of {env_steps:,} steps "
                f"cannot be extended together; each can alone: --workdir={folder} "
                f"--seed={folder.name.removeprefix('seed')}"
            )
    # Those of a seed that was saved before a kill came and the others were not.
    for saved in checkpoints:
        saved.delete_after(step)
    return loop.regenerate(stages.stack_seeds(states) if stages.seeds else states[0])
