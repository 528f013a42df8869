"""What the model is trained towards, computed from windows of replay.

Names carry time as in rlax: `discount_t` is gamma times 0 after a terminal step; a time-out keeps gamma. A window's slot k is k
slots after the sampled position. Functions take one window; `jax.vmap` makes batches of them.
"""

import jax
import jax.numpy as jnp

from ez_jax.config import Config
from ez_jax.types import Batch, Targets

Array = jax.Array


def horizon(age: Array, config: Config) -> Array:
    """Steps of the value target, shortened for old data (EfficientZero, section 4.3).

    l = clip(n - floor(age / (age_fraction * env_steps)), 1, n): old actions came from another policy, so fewer are trusted.

    Args:
      age: environment steps since the transition, `[...]` i32.
    """
    n = config.target.td_steps
    if not config.target.off_policy_correction:
        return jnp.full_like(age, n)
    lost = jnp.floor(age / (config.target.age_fraction * config.env_steps)).astype(jnp.int32)
    return jnp.clip(n - lost, 1, n)


def n_step_value(r_t: Array, discount_t: Array, last: Array, v: Array, steps: Array, max_steps: int) -> Array:
    """z = sum_i (prod discount) r + (prod discount) v, over `steps` steps or up to the final frame of the episode.

    A time-out bootstraps from the value of its final frame; after a terminal step the discount is 0.

    Args:
      r_t: reward of the step taken from each slot, `[L]`.
      discount_t: its discount, gamma included, 0 if terminal; at a `last` slot that of the step before it, `[L]`.
      last: slot is the final frame of an episode, `[L]`.
      v: value of each slot's frame, `[L]`.
      steps: horizon, at most `max_steps`, `[]`.
      max_steps: the static bound of `steps`.

    Returns:
      targets of the slots `[L - max_steps]`.
    """
    # The final frame after a terminal step is worth 0.
    v = jnp.where(last & (discount_t == 0), 0.0, v)
    size = r_t.shape[0] - max_steps
    z, product, running = jnp.zeros(size), jnp.ones(size), jnp.ones(size, bool)
    for i in range(max_steps + 1):
        at = slice(i, i + size)
        stop = running & (last[at] | (i >= steps))
        z += jnp.where(stop, product * v[at], 0.0)
        running &= ~stop
        z += jnp.where(running, product * r_t[at], 0.0)
        product = jnp.where(running, product * discount_t[at], product)
    return z


def value_prefix(r_t: Array, restart: int) -> Array:
    """Undiscounted reward summed along the unroll, anew every `restart` steps: `[K]` to `[K]`."""
    total, prefix = jnp.zeros(()), []
    for k in range(r_t.shape[0]):
        total = r_t[k] if k % restart == 0 else total + r_t[k]
        prefix.append(total)
    return jnp.stack(prefix)


def make_targets(batch: Batch, config: Config) -> Targets:
    """Targets and masks of a batch of windows."""
    k, n, gamma = config.target.unroll_steps, config.target.td_steps, config.target.discount
    bootstrap = batch.root_value if config.target.bootstrap == "search" else batch.value
    value = jax.vmap(n_step_value, (0, 0, 0, 0, 0, None))(
        batch.reward, gamma * batch.discount, batch.last, bootstrap, horizon(batch.age, config), n)
    # Slot k belongs to the episode of slot 0 as long as no final frame lies before it.
    ended = jnp.cumsum(batch.last[:, :k], axis=1) > 0
    same_episode = jnp.concatenate([jnp.ones_like(ended[:, :1]), ~ended], axis=1).astype(jnp.float32)
    restart = config.target.prefix_horizon if config.network.value_prefix else 1
    # Past the end of the episode the sum stands still (and is masked).
    reward = jnp.where(same_episode[:, 1:] > 0, batch.reward[:, :k], 0.0)
    return Targets(
        value=value, value_prefix=jax.vmap(value_prefix, (0, None))(reward, restart), policy=batch.policy[:, : k + 1],
        value_mask=same_episode, policy_mask=same_episode * ~batch.last[:, : k + 1])  # fmt: skip
