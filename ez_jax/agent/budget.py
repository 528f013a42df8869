"""What a search may spend: simulations, considered actions, candidates of a root."""

from typing import NamedTuple

from ez_jax.config import SearchConfig


class Budget(NamedTuple):
    simulations: int
    considered_actions: int  # that sequential halving starts from


def budget(config: SearchConfig, num_actions: int) -> Budget:
    """Simulations and considered actions of a search over `num_actions`, or so many candidates."""
    if not config.by_action_count or config.algorithm != "gumbel":
        return Budget(config.num_simulations, config.max_considered_actions)
    if num_actions < 4:
        return Budget(4, 2)
    return Budget(16, 4) if num_actions < 16 else Budget(16, 8)


class Draws(NamedTuple):
    """Candidates of a root whose actions are vectors."""

    number: int
    wide: int  # so many of them from a wider Gaussian


def root_draws(config: SearchConfig, allowed: Budget) -> Draws:
    """As many candidates as the search tries, of fewer than configured the same share wide.

    All have the same prior and there is no noise, so that sequential halving would take the first
    ones, and leave out the wide ones, which come last.
    """
    full = config.sampled_actions
    number = min(full, allowed.considered_actions, allowed.simulations)
    return Draws(number, config.wide_actions * number // full)
