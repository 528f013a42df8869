"""What is looked at during a run: rows of metrics, losses that are no numbers, FLOP spent."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ez_jax.agent import acting
from ez_jax.config import replace
from ez_jax.hosts import own_part
from ez_jax.program.loops import Update
from ez_jax.program.stages import Stages
from ez_jax.runner import spending
from ez_jax.runner.workdir import RunError
from ez_jax.sections import RunConfig
from ez_jax.types import Actor, State


def small(actor: Actor) -> Actor:
    """What every process has of an actor: counters and scores, no lanes."""
    lanes = "env", "stack", "legal", "last", "discount", "offset", "score", "action_log"
    return actor.replace(**dict.fromkeys(lanes))


def of_seed(tree: Any, index: int, several: bool) -> Any:
    """The part of one of several seeds; all of it where there is a single one."""
    return jax.tree.map(lambda x: x[index], tree) if several else tree


def average(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of metrics for several seeds: the least of counters, the mean of the rest."""

    def one(values: list) -> Any:
        return min(values) if isinstance(values[0], int) else float(np.mean(values))

    return {name: one([row[name] for row in rows]) for name in rows[0]}


def check_finite(updates: Sequence[Update]) -> None:
    """Raises `RunError` at the first update whose losses are not finite, and names them."""
    for update in updates:
        watched = {
            name: value
            for name, value in update.metrics.items()
            if name.startswith("loss/") or name == "gradient_norm"
        }
        values = jax.device_get(watched)
        bad = [name for name, value in sorted(values.items()) if not np.all(np.isfinite(value))]
        if bad:
            named = ", ".join(f"{name} = {values[name]}" for name in bad)
            raise RunError(f"update {update.number} is not finite: {named}")


def blame(state: State) -> str:
    """Says so, as a part of a sentence, where it was the environment that gave no number."""
    replay = state.replay
    # Actions that follow from no numbers are none either, nor is what is paid for them.
    for name, values in (("observations", replay.frame), ("rewards", replay.reward)):
        if values.dtype.kind == "f" and not np.all(np.isfinite(own_part(values, -values.ndim))):
            return f"the environment gave {name} that are not finite; "
    return ""


def spent(stages: Stages, actor: Any, updates: int, seeds: int, trained_s: float) -> dict[str, Any]:
    """FLOP of one seed, and all seeds' share of what the devices could have done meanwhile."""
    flop, peak = flops(stages, actor, updates), peak_rate(stages)
    share = seeds * flop / max(trained_s, 1e-9) / peak
    return {"flop": flop, "peak_flop_per_s": peak, "peak_share": round(share, 4)}


def flops(stages: Stages, actor: Any, updates: int) -> float:
    """FLOP that one seed has spent on searches in acting and on updates."""
    config = stages.config
    random = -(-config.cycle.warmup_steps // config.env.num_envs)  # lock-steps
    acts = max(int(actor.acts) - random, 0)
    cost = spending.of_config(replace(config, seed=0, run=RunConfig()), stages.spec)
    return cost.total(acts, updates)


def peak_rate(stages: Stages) -> float:
    """FLOP a second that matrix products reach on all devices of a run."""
    return spending.matmul_rate() * stages.mesh.size


def row(
    stages: Stages, actor: Any, metrics: dict[str, Any], update: Update, seconds: float
) -> dict[str, Any]:
    """A line of metrics of one seed."""
    return {
        "env_steps": int(actor.env_steps),
        "updates": update.number,
        "wall_s": round(seconds, 2),
        "episode_return": float(acting.recent_score(actor)),
        "games": int(actor.games),
        "flop": flops(stages, actor, update.number),
        **{name: float(value) for name, value in sorted(metrics.items())},
    }


def clipped(rows: Sequence[dict[str, Any]]) -> str:
    """A warning where targets leave the support, else nothing."""
    if not any(row["target/clipped"] > 0 for row in rows):
        return ""
    needed = math.ceil(max(row["target/largest"] for row in rows))
    return (
        "warning: values or value prefixes lie beyond the support and are clipped to it; "
        f"--network.support={needed} would hold those seen so far"
    )
