"""Prioritised sampling from replay (Schaul et al. 2016, arXiv 1511.05952).

Positions are drawn without replacement. A position can be drawn once the slots that its targets
read are written: nothing is ever cut at a block's end.
"""

import jax
import jax.numpy as jnp

from ez_jax.agent.replay import slot_times, stackable
from ez_jax.config import Config
from ez_jax.types import Array, Drawn, Positions, Replay

MIN_PRIORITY = 1e-6
BLOCK = 64
"""Positions that `gumbel_top_k` first draws as one."""


def drawable(replay: Replay, config: Config) -> Array:
    """Marks the places that a window may start from: `[N, T]` bool.

    Everything that the window reads is there, and a step was taken from its position.
    """
    ahead = config.target.unroll_steps + config.target.td_steps
    ready = stackable(replay, config.env.stack) & (slot_times(replay) < replay.cursor - ahead)
    return ready[None] & (replay.priority > 0)


def sample(replay: Replay, key: Array, size: int, config: Config) -> Drawn:
    """Draws `size` positions without replacement, P(i) ~ priority_i^alpha."""
    slots = replay.action.shape[1]
    # Not `**`, which takes three times as long. log(0) is no harm: priority 0 is not drawable.
    weight = jnp.exp(config.replay.priority_exponent * jnp.log(replay.priority))
    weight = jnp.where(drawable(replay, config), weight, 0.0).ravel()
    index, probability = gumbel_top_k(key, weight, size)
    return Drawn(Positions(index // slots, slot_times(replay)[index % slots]), probability)


def gumbel_top_k(key: Array, weight: Array, size: int) -> tuple[Array, Array]:
    """Draws indices one after another without replacement, P(i) ~ weight_i, in one pass.

    The largest of log weight_i + Gumbel noise are such a draw (Vieira 2014). The largest of a block
    is itself log of its total weight + Gumbel noise, and given that, the others follow by
    truncation (Kool et al. 2019, arXiv 1903.06059, section 3): only the blocks that hold a winner
    need noise for each element.

    Args:
      key: typed PRNG key, consumed.
      weight: `[M]`, not negative.
      size: at most so many as have a positive weight.

    Returns:
      indices `[size]`, and the probability of each in a single draw `[size]`.
    """
    # A column is a block: sums of columns are fast.
    weight = jnp.pad(weight, (0, -weight.size % BLOCK)).reshape(BLOCK, -1)
    block_key, key = jax.random.split(key)
    total = jnp.sum(weight, axis=0)
    winner, block = jax.lax.top_k(
        jnp.log(total) + jax.random.gumbel(block_key, total.shape), min(size, total.size)
    )
    score = jnp.log(weight[:, block]) + jax.random.gumbel(key, (BLOCK, block.size))
    # -log(exp(-winner) - exp(-max) + exp(-score)): the largest score becomes `winner`, and the
    # others stay below it.
    below = score - jnp.max(score, axis=0)
    v = winner - score + jnp.log1p(-jnp.exp(below))
    score = jnp.where(
        jnp.isfinite(score),
        winner - jnp.maximum(v, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(v))),
        -jnp.inf,
    )
    _, place = jax.lax.top_k(score.ravel(), size)
    row, column = place // block.size, block[place % block.size]
    return row * total.size + column, weight[row, column] / jnp.sum(total)


def importance_weights(
    probability: Array, num_drawable: Array, beta: Array, least: float = 0.0
) -> Array:
    """(N P(i))^-beta, divided by the largest in the batch and raised to `least`: `[B]`."""
    weight = (num_drawable * probability) ** -beta
    return jnp.maximum(weight / jnp.max(weight), least)


def set_priority(replay: Replay, positions: Positions, priority: Array) -> Replay:
    """Sets new priorities `[B]` at drawn positions."""
    slots = replay.action.shape[1]
    return replay.replace(
        priority=replay.priority.at[positions.lane, positions.time % slots].set(priority)
    )


def prioritise_by_model_error(replay: Replay, discount: float, enabled: Array) -> Replay:
    """Gives the last but one slot the Bellman error of the network that acted as its priority.

    |r + gamma v' - v|, where `enabled []`. EfficientZero-V2's "priority precalculation" (appendix
    A), over one step, since that is known as soon as the next slot is written.
    """
    slots = replay.action.shape[1]
    at, newest = (replay.cursor - 2) % slots, (replay.cursor - 1) % slots
    target = (
        replay.reward[:, at] + discount * replay.discount[:, at] * replay.network_value[:, newest]
    )
    error = jnp.abs(target - replay.network_value[:, at]) + MIN_PRIORITY
    # A final frame is never drawn, and before the second slot there is none.
    known = ~replay.last[:, at] & (replay.cursor > 1) & enabled
    return replay.replace(
        priority=replay.priority.at[:, at].set(jnp.where(known, error, replay.priority[:, at]))
    )
