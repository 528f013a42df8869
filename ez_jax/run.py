"""A whole run in a work directory: train, log, checkpoint, stop and resume, evaluate, score.

`run(config, workdir)` is what the scripts and notebooks call; `run_seeds` trains several seeds in
one program.
"""

import csv
import dataclasses
import importlib.metadata
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ez_jax import actor as actor_lib
from ez_jax import cycle as cycle_lib
from ez_jax.checkpoint import CheckpointError, Checkpoints, check_config, regenerate, slim
from ez_jax.config import Config, from_dict, replace, to_dict, validate
from ez_jax.cycle import Made, Stages
from ez_jax.envs import Environments, check_task
from ez_jax.evaluation import Evaluation, evaluate, make_env
from ez_jax.logging import MetricsFile, Progress
from ez_jax.losses import LossFn
from ez_jax.mesh import make_mesh
from ez_jax.networks import Network
from ez_jax.scores import RANDOM_HUMAN, human_normalized
from ez_jax.types import State


class RunError(ValueError):
    """The run cannot start or go on; the message is one line for the user."""


class Stopped(Exception):
    """The run was asked to stop, and is saved."""


@dataclasses.dataclass
class Restored:
    """A run brought back from its work directory."""

    config: Config
    stages: Stages
    state: State  # without frames

    @property
    def network(self) -> Network:
        return self.stages.network

    @property
    def variables(self) -> Any:
        """Of the network: `network.apply(variables, ...)`."""
        return self.state.learner.variables


def setup(cache_dir: str | None = None) -> None:
    """Keeps compiled programs on disk, so that only the first run on a machine waits for the
    compiler.
    """
    # Children (git, the video encoder) are started by fork and exec at once: JAX's threads are in
    # no danger.
    warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
    # Gymnasium on the bounds of EnvPool's observation spaces, each time one is looked at.
    warnings.filterwarnings(
        "ignore", message=".*precision lowered by casting", category=UserWarning
    )
    folder = (
        cache_dir
        or os.environ.get("JAX_COMPILATION_CACHE_DIR")
        or str(Path.home() / ".cache" / "ez_jax")
    )
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class Member(NamedTuple):
    """One seed of a run."""

    config: Config
    workdir: Path


def run(config: Config, workdir: str | Path, *, resume: bool = False, **options) -> dict[str, Any]:
    """Trains from start or checkpoint to the end and evaluates the final parameters.

    Args: config: of the run. workdir: `config.json, metrics.jsonl, checkpoints/, eval.csv,
      result.json` and TensorBoard events go here. resume: go on from the newest checkpoint of
      `workdir`, or begin where there is none. **options: of `run_members`.

    Returns:
      what `result.json` holds.

    Raises: RunError: `workdir` holds a run and `resume` is off, or a loss is not finite.
      ValueError: a field is out of range, the game is unknown, the checkpoint is damaged or of
      another config. Stopped: Ctrl-C or SIGTERM came; the run is saved.
    """
    return run_members([Member(config, Path(workdir))], resume=resume, **options)[0]


def run_seeds(
    config: Config, workdir: str | Path, num_seeds: int, *, resume: bool = False, **options
) -> list[dict[str, Any]]:
    """`run` for `num_seeds` seeds from `config.seed` on, trained together in one program.

    Each writes what `run` would have written to `workdir/seed<k>`. Numbers differ from those of
    single runs in rounding, and by the lock-step (see `cycle.cycle`).
    """
    return run_members(seed_members(config, workdir, num_seeds), resume=resume, **options)


def seed_members(config: Config, workdir: str | Path, num_seeds: int) -> list[Member]:
    """The runs that `run_seeds` makes."""
    seeds = range(config.seed, config.seed + num_seeds)
    return [Member(replace(config, seed=seed), Path(workdir) / f"seed{seed}") for seed in seeds]


def run_members(
    members: list[Member],
    *,
    resume: bool,
    preset: str = "",
    command: str | None = None,
    losses: Mapping[str, tuple[LossFn, float]] | None = None,
    evaluate_after: bool = True,
    mesh: Mesh | None = None,
) -> list[dict[str, Any]]:
    """Runs that differ in their seeds (one after another) alone, together.

    Args:
      members: one, or several consecutive seeds.
      resume: go on from the newest checkpoints.
      preset: its name, for `result.json`.
      command: what started the run, for `result.json`.
      losses: extra loss terms, name to `(function, weight)`.
      evaluate_after: play the evaluation games at the end.
      mesh: the devices to use, all by default.
    """
    config, many = members[0].config, len(members) > 1
    meta = check(members, resume=resume)
    origin = provenance(command)
    for member in members:
        member.workdir.mkdir(parents=True, exist_ok=True)
        (member.workdir / "config.json").write_text(
            json.dumps(to_dict(member.config), indent=2) + "\n"
        )
    checkpoints = [Checkpoints(member.workdir) for member in members]

    env = cycle_lib.make_env(config, len(members))
    stages = Stages(config, env, mesh or make_mesh(), losses, len(members) if many else None)
    if meta is None:
        state = cycle_lib.start(stages, env, config.seed)
    else:
        step = newest_common(checkpoints)
        states = [c.restore(stages, step) for c in checkpoints]
        state = regenerate(stages, env, stages.stack(states) if many else states[0])
        print(
            "resumed at {:,} steps and {:,} updates".format(*cycle_lib.counters(state)), flush=True
        )
    clock = Clock(meta["wall_s"] if meta else 0.0)
    state = train(stages, env, state, members, checkpoints, clock)
    for saved in checkpoints:
        saved.close()
    trained_s, results = clock(), []
    # Compiled once for all seeds; emulators cannot be started over.
    played = make_env(config, config.run.eval_episodes) if evaluate_after and stages.pure else None
    for i, member in enumerate(members):
        learner, actor = pick((state.learner, state.actor), i, many)
        result = {
            "game": game_name(config),
            "preset": preset,
            "seed": member.config.seed,
            "env_steps": int(actor.env_steps),
            "updates": int(learner.updates),
            "seeds_together": len(members),
            "train_wall_s": round(trained_s, 1),
        }
        if evaluate_after:
            result |= _evaluate_into(stages, member, learner.variables, played)
        results.append(result)
    for member, result in zip(members, results):
        result |= {"wall_s": round(clock(), 1), **origin}
        _write_atomically(member.workdir / "result.json", json.dumps(result, indent=2) + "\n")
    return results


def pick(tree: Any, index: int, many: bool) -> Any:
    """What belongs to one of several seeds."""
    return jax.tree.map(lambda x: x[index], tree) if many else tree


def newest_common(checkpoints: list[Checkpoints]) -> int | None:
    """Number of the newest checkpoint that every seed has: a kill may have come between two of
    them.

    Raises:
      CheckpointError: there are checkpoints, but no such one.
    """
    steps = [saved.steps() for saved in checkpoints]
    common = set.intersection(*steps)
    if not common and all(steps):
        raise CheckpointError(
            f"the seeds have no checkpoint in common: {[saved.path.parent.name for saved in checkpoints]} have "
            f"{[sorted(s) for s in steps]}"
        )
    return max(common, default=None)


def check(members: list[Member], *, resume: bool) -> dict[str, Any] | None:
    """Everything that can be wrong with a command, before any work starts; raises as `run` does.

    Returns:
      what the newest common checkpoint says of itself, None where there is none.
    """
    validate(members[0].config)
    check_task(members[0].config.env.id)
    for member in members:
        if not resume and (member.workdir / "config.json").exists():
            raise RunError(
                f"{member.workdir} holds a run already: go on with --resume, or choose another --workdir"
            )
    checkpoints = [Checkpoints(member.workdir) for member in members]
    meta = None
    try:
        if (step := newest_common(checkpoints)) is not None:
            for saved, member in zip(checkpoints, members):
                meta = saved.restore_meta(step)
                check_config(meta["config"], member.config, member.workdir)
    finally:
        for saved in checkpoints:
            saved.close()
    return meta


def train(
    stages: Stages,
    env: Environments,
    state: State,
    members: list[Member],
    checkpoints: list[Checkpoints],
    clock: "Clock",
) -> State:
    """Cycles to the end of the schedule, with metrics, checkpoints and an orderly stop."""
    config, many = stages.config, len(members) > 1
    files = [MetricsFile(member.workdir, cycle_lib.counters(state)[1]) for member in members]
    pending: list[Made] = []

    def save() -> None:
        check_finite(pending)
        step = int(np.max(state.actor.acts)) + cycle_lib.counters(state)[1]
        for i, (member, saved) in enumerate(zip(members, checkpoints)):
            saved.save(
                step,
                pick(slim(state), i, many),
                {"config": to_dict(member.config), "wall_s": clock()},
            )

    def log(made: Made) -> None:
        check_finite(pending)
        pending.clear()
        small = state.actor.replace(env=None, stack=None, action_log=None)
        actor, metrics = jax.device_get((small, made.metrics | stages.diagnose(state)))
        rows = []
        for i, file in enumerate(files):
            mine, values = pick(actor, i, many), pick(metrics, i, many)
            rows.append(
                {
                    "env_steps": int(mine.env_steps),
                    "updates": made.update,
                    "wall_s": round(clock(), 2),
                    "episode_return": float(actor_lib.recent_score(mine)),
                    "games": int(mine.games),
                    **{name: float(x) for name, x in sorted(values.items())},
                }
            )
            file.write(rows[-1])
        progress.show(average(rows))

    with Progress(config.env_steps, config.total_updates) as progress, StopRequest() as stop:
        try:
            while not cycle_lib.finished(config, state):
                logged = saved = cycle_lib.counters(state)[1]
                state, made = cycle_lib.cycle(stages, env, state)
                for one in made:
                    pending.append(one)
                    if one.update // config.run.log_every > logged // config.run.log_every:
                        log(one)
                        logged = one.update
                steps, after = cycle_lib.counters(state)
                if stop.requested:
                    save()
                    raise Stopped(
                        f"stopped and saved at {steps:,} steps and {after:,} updates; "
                        "go on with the same command and --resume"
                    )
                if after // config.run.checkpoint_every > saved // config.run.checkpoint_every:
                    save()
            save()
        finally:
            for file in files:
                file.close()
    return state


def average(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of metrics for several seeds: the least of what is counted, the mean of the rest."""

    def one(values: list) -> Any:
        return min(values) if isinstance(values[0], int) else float(np.mean(values))

    return {name: one([row[name] for row in rows]) for name in rows[0]}


def check_finite(pending: list[Made]) -> None:
    """Raises `RunError` at the first update whose losses are not finite, and names them."""
    for made in pending:
        values = jax.device_get(
            {k: v for k, v in made.metrics.items() if k.startswith("loss/") or k == "gradient_norm"}
        )
        bad = [name for name, value in sorted(values.items()) if not np.all(np.isfinite(value))]
        if bad:
            raise RunError(
                f"update {made.update} is not finite: "
                + ", ".join(f"{b} = {values[b]}" for b in bad)
                + "; the last good checkpoint is kept"
            )


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a flag; a second Ctrl-C interrupts at once."""

    def __init__(self):
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        except ValueError:  # not the main thread: signals are not ours
            pass
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


class Clock:
    """Seconds since the run began, over all its processes."""

    def __init__(self, before: float):
        self._before, self._start = before, time.monotonic()

    def __call__(self) -> float:
        return self._before + time.monotonic() - self._start


def restore(workdir: str | Path) -> Restored:
    """A finished or stopped run, for evaluation or a notebook, on whatever devices are here.

    Raises:
      CheckpointError: no run, or its checkpoint is missing or damaged.
    """
    workdir = Path(workdir)
    if not (workdir / "config.json").exists():
        raise CheckpointError(f"no run in {workdir}: {workdir / 'config.json'} is missing")
    checkpoints = Checkpoints(workdir)
    config = from_dict(checkpoints.restore_meta()["config"])
    # One device is enough to play; the number that trained need not be here.
    stages = Stages(config, cycle_lib.make_env(config), make_mesh(1))
    state = checkpoints.restore(stages)
    checkpoints.close()
    return Restored(config, stages, state)


def _evaluate_into(
    stages: Stages, member: Member, variables: Any, env: Environments | None
) -> dict[str, Any]:
    config = member.config
    print(f"evaluating {config.run.eval_episodes} episodes of seed {config.seed}", flush=True)
    # Away from the mesh: evaluation is one batch on one device.
    variables = jax.device_put(jax.device_get(variables), jax.local_devices()[0])
    found = evaluate(
        stages.network,
        config,
        variables,
        episodes=config.run.eval_episodes,
        simulations=config.run.eval_simulations or None,
        env=env,
    )
    write_episodes(member.workdir / "eval.csv", found)
    return summary(config, found)


def summary(config: Config, evaluation: Evaluation) -> dict[str, Any]:
    """Mean, median and human-normalised score of an evaluation."""
    game, scores = game_name(config), evaluation.scores
    random, human = RANDOM_HUMAN.get(game, (None, None))
    return {
        "eval_mean": float(scores.mean()),
        "eval_median": float(np.median(scores)),
        "eval_episodes": len(scores),
        "eval_distinct": len(set(scores.tolist())),
        "human_normalized": human_normalized(game, float(scores.mean())),
        "random_score": random,
        "human_score": human,
    }


def write_episodes(path: Path, evaluation: Evaluation) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["episode", "seed", "return", "length"])
        writer.writerows(evaluation.episodes)


def game_name(config: Config) -> str:
    return config.env.id.removesuffix("-v5")


def provenance(command: str | None = None) -> dict[str, Any]:
    """Device, versions, commit and command of this process."""
    packages = ("ez_jax", "jax", "flax", "optax", "mctx", "envpool", "orbax-checkpoint", "numpy")
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores",
        "versions": {"python": platform.python_version()}
        | {p: importlib.metadata.version(p) for p in packages},
        "commit": _commit(),
        "command": command or shlex.join(["python", *sys.argv]),
    }


def _commit() -> str | None:
    here = Path(__file__).parent
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)
