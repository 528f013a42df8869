"""What a run would be, before it is begun: settings, updates, FLOP, time."""

import json

from ez_jax.config import Config, applicable, validate, validate_new
from ez_jax.envs import check_task, is_atari
from ez_jax.runner import spending
from ez_jax.runner.agents import make_agent

SHARES = 0.15, 0.5
"""Shares of the matmul rate that whole runs reach on a CPU: small nets, and wide ones."""


def preview(config: Config, num_seeds: int = 1) -> str:
    """The settings that apply to the task as JSON, and lines about what the run costs.

    Raises:
      ValueError: a field is out of range, or the task is unknown.
    """
    validate(config)
    check_task(config.env)
    spec = make_agent(config).network.spec
    validate_new(config, image=spec.image)
    shown = applicable(
        config, image=spec.image, atari=is_atari(config.env.id), vectors=spec.action_size > 0
    )
    cost = spending.of_config(config, spec)
    acts = spending.searched_acts(config)
    updates, rate = config.total_updates, spending.matmul_rate()
    acting, reanalysis = acts * cost.act, updates * cost.reanalysis
    flop = num_seeds * cost.total(acts, updates)
    act, again = (num_seeds * part / flop if flop else 0.0 for part in (acting, reanalysis))
    slow, fast = (_time(flop / rate / share) for share in SHARES)
    together = f" of {num_seeds} seeds" if num_seeds > 1 else ""
    return "\n".join(
        [
            json.dumps(shown, indent=2),
            f"{config.env_steps:,} steps, {updates:,} updates{together}",
            f"{flop:.2g} FLOP: acting {act:.0%}, reanalysis {again:.0%}, the rest gradients",
            f"{fast} to {slow} at {SHARES[1]:.0%} to {SHARES[0]:.0%} of the {rate / 1e9:,.0f} "
            "GFLOP/s of matrix products here, without compilation and evaluation",
        ]
    )


def _time(seconds: float) -> str:
    for size, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {name}"
    return f"{seconds:.2g} seconds"
