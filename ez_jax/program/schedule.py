"""The next steps of a run, as a pure function of its progress.

Nothing but `config.cycle` decides how often each stage runs: acting and learning never race, and a
seed gives the same numbers.
"""

from typing import Literal, NamedTuple

from ez_jax.config import Config


class Plan(NamedTuple):
    """The cycles up to the next line of the log or checkpoint, or to the end of a phase."""

    cycles: int  # 0: the run is complete
    phase: Literal["warmup", "online", "final"]  # random actions, searched actions, no actions
    updates: int  # in each cycle, after its act


def schedule(config: Config, steps: int, updates: int) -> Plan:
    """The plan from `steps` environment steps and `updates` updates on.

    A plan never passes its phase: an act takes at most `num_envs` steps (less where an environment
    ignores one), so at least so many acts are still to come.
    """
    left = config.total_updates - updates
    if steps < config.cycle.warmup_steps:
        return Plan(-(-(config.cycle.warmup_steps - steps) // config.env.num_envs), "warmup", 0)
    marks = config.run.log_every, config.run.checkpoint_every
    until = min(every - updates % every for every in marks)
    if steps >= config.env_steps:
        # Each update is a cycle of its own, so that a stop is soon obeyed.
        return Plan(min(until, max(left, 0)), "final", 1)
    acts = -(-(config.env_steps - steps) // config.env.num_envs)
    per_act = min(config.cycle.updates_per_act, left)
    if per_act == 0:
        return Plan(acts, "online", 0)
    return Plan(min(acts, max(until // per_act, 1), left // per_act), "online", per_act)
