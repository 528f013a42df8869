"""Targets of the model, computed from windows of replay.

Names carry time as in rlax: `discount_t` is gamma times 0 after a terminal step; a time-out keeps
gamma. A window's slot k is k slots after the sampled position. Functions take one window;
`jax.vmap` makes batches of them.
"""

import jax
import jax.numpy as jnp

from ez_jax.config import Config, NetworkConfig, TargetConfig
from ez_jax.types import Batch, Targets

Array = jax.Array


def horizon(age: Array, config: Config) -> Array:
    """Steps of the value target, shortened for old data (EfficientZero, section 4.3).

    l = clip(n - floor(age / (age_fraction * env_steps)), 1, n): old actions came from another
    policy, so fewer are trusted.

    Args:
      age: environment steps since the transition, `[...]` i32.
    """
    n = config.target.td_steps
    # The mixed target trusts the search instead of few steps.
    if not config.target.off_policy_correction or config.target.value == "mixed":
        return jnp.full_like(age, n)
    lost = jnp.floor(age / (config.target.age_fraction * config.env_steps)).astype(jnp.int32)
    return jnp.clip(n - lost, 1, n)


def n_step_value(
    r_t: Array, discount_t: Array, last: Array, v: Array, steps: Array, max_steps: int
) -> Array:
    """n-step return with bootstrap: z = sum_i (prod discount) r + (prod discount) v.

    Over `steps` steps, or up to the final frame of the episode.

    A time-out bootstraps from the value of its final frame; after a terminal step the discount is
    0.

    Args:
      r_t: reward of the step taken from each slot, `[L]`.
      discount_t: its discount, gamma included, 0 if terminal; at a `last` slot that of the step
        before it, `[L]`.
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


def bootstrap_slots(last: Array, steps: Array, num_targets: int) -> Array:
    """Slots whose values `n_step_value` reads: the horizon away, or the final frame before it.

    Args:
      last: slot is the final frame of an episode, `[L]`.
      steps: horizon, `[]`.
      num_targets: the targets are of slots 0 .. `num_targets` - 1.

    Returns:
      slots `[num_targets]` i32.
    """
    slot = jnp.arange(last.shape[0])
    final = jax.lax.cummin(jnp.where(last, slot, last.shape[0]), reverse=True)
    return jnp.minimum(slot + steps, final)[:num_targets]


def progress(config: Config, updates: Array) -> Array:
    """Share of all updates of the run that are made: `[]`."""
    return jnp.minimum(updates / max(config.total_updates, 1), 1.0)


def prefix_restart(target: TargetConfig, network: NetworkConfig) -> int:
    """Model steps after which the value prefix starts anew: without LSTM each reward is its own."""
    return target.prefix_horizon if network.value_prefix else 1


def value_prefix(r_t: Array, restart: int) -> Array:
    """Undiscounted reward summed along the unroll, anew every `restart` steps: `[K]` to `[K]`."""
    total, prefix = jnp.zeros(()), []
    for k in range(r_t.shape[0]):
        total = r_t[k] if k % restart == 0 else total + r_t[k]
        prefix.append(total)
    return jnp.stack(prefix)


def td_value_target(batch: Batch, config: Config) -> Array:
    """n-step value targets of the unroll positions, `[B, K + 1]`."""
    bootstrap = batch.search_value if config.target.bootstrap == "search" else batch.network_value
    return jax.vmap(n_step_value, (0, 0, 0, 0, 0, None))(
        batch.reward,
        config.target.discount * batch.discount,
        batch.last,
        bootstrap,
        horizon(batch.age, config),
        config.target.td_steps,
    )


def search_value_target(batch: Batch, config: Config) -> Array:
    """Search-based value estimation: the mean return of the root's simulations, `[B, K + 1]`.

    EfficientZero-V2, section 4.2.
    """
    at = slice(0, config.target.unroll_steps + 1)
    terminal = batch.last[:, at] & (batch.discount[:, at] == 0)
    return jnp.where(terminal, 0.0, batch.search_value[:, at])


def mixed_value_target(
    td: Array, searched: Array, age: Array, updates: Array, config: Config
) -> Array:
    """EfficientZero-V2's mix of both, `[B, K + 1]`.

    n-step before T1 updates and for the T2 newest environment steps, otherwise the search's.

    Early the model is too bad to be searched for values, and fresh data need no correction.

    Args:
      td: n-step targets `[B, K + 1]`.
      searched: values of the search `[B, K + 1]`.
      age: environment steps since the positions were written, `[B]`.
      updates: made so far, `[]`.
    """
    trusted = (updates < config.target.search_value_after) | (age < config.target.fresh_steps)
    return jnp.where(trusted[:, None], td, searched)


def value_target(batch: Batch, config: Config, updates: Array) -> Array:
    """The value targets of `config.target.value` at the given number of updates: `[B, K + 1]`."""
    kind = config.target.value
    if kind == "td":
        return td_value_target(batch, config)
    searched = search_value_target(batch, config)
    if kind == "search":
        return searched
    return mixed_value_target(td_value_target(batch, config), searched, batch.age, updates, config)


def entropy_target(config: Config, updates: Array) -> Array | None:
    """Least mean entropy of the policy, as a share of the uniform policy's; None without one.

    It falls linearly over the updates.
    """
    first, last = config.loss.entropy_target
    if not first and not last:
        return None
    return first + (last - first) * progress(config, updates)


def make_targets(batch: Batch, config: Config, updates: Array) -> Targets:
    """Targets and masks of a batch of windows, at the given number of updates."""
    k = config.target.unroll_steps
    value = value_target(batch, config, updates)
    # Slot k belongs to the episode of slot 0 as long as no final frame lies before it.
    ends = jnp.cumsum(batch.last[:, :k], axis=1)
    same_episode = jnp.pad(ends == 0, ((0, 0), (1, 0)), constant_values=True)
    restart = prefix_restart(config.target, config.network)
    # Past the end of the episode the sum stands still.
    reward = jnp.where(same_episode[:, 1:], batch.reward[:, :k], 0.0)
    known = same_episode
    if config.target.absorbing:
        # What comes after a time-out is unknown; after a terminal state nothing comes.
        terminal = batch.last[:, :k] & (ends == 1) & (batch.discount[:, :k] == 0)
        absorbed = jnp.pad(jnp.cumsum(terminal, axis=1) > 0, ((0, 0), (1, 0)))
        value, known = jnp.where(absorbed, 0.0, value), same_episode | absorbed
    policy_mask = (same_episode & ~batch.last[:, : k + 1]).astype(jnp.float32)
    if batch.taught is not None and batch.taught.policy_weight is not None:
        policy_mask *= batch.taught.policy_weight[:, None]
    return Targets(
        value=value,
        value_prefix=jax.vmap(value_prefix, (0, None))(reward, restart),
        policy=batch.policy[:, : k + 1],
        value_mask=known.astype(jnp.float32),
        policy_mask=policy_mask,
        state_mask=same_episode.astype(jnp.float32),
        entropy=entropy_target(config, updates),
    )
