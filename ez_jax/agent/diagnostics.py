"""Numbers that tell a healthy run from a sick one; they change nothing.

`HEALTH` says how to read them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ez_jax.agent.replay import idle, slot_times
from ez_jax.agent.targets import n_step_value
from ez_jax.agent.transforms import logits_to_scalar, scalar_to_atoms
from ez_jax.config import Config, NetworkConfig
from ez_jax.types import Array, Batch, Replay, Targets, Unroll


class Health(NamedTuple):
    """How to read one diagnostic."""

    name: str
    healthy: str
    sick: str


HEALTH = (
    Health(
        "`search/value_bias`",
        "near 0 beside `search/return`, after an early excess",
        "stays large: the model dreams (high) or targets are stale (low)",
    ),
    Health(
        "`play/gains`, `play/losses`",
        "rewards above and below 0 a thousand steps: gains rise or losses fall",
        "constant over a third of the run: it has stopped to learn",
    ),
    Health(
        "`play/idle`",
        "0, or soon: environments without a reward for `cycle.idle-steps` steps repeat actions",
        "stays at 1: not even repeated actions find a reward",
    ),
    Health(
        "`search/value_error`",
        "falls as the policy settles",
        "grows with the return: values cannot follow",
    ),
    Health(
        "`prefix_error/<k>`",
        "all fall, later steps a little above earlier ones",
        "rises steeply with k: the dynamics forget",
    ),
    Health(
        "`projection/cosine`",
        "rises to 0.9 and more",
        "stays below 0.5: the consistency loss is off or too weak",
    ),
    Health(
        "`projection/std`",
        "0.3 to 1 (1: all directions are used alike)",
        "near 0: the projection collapsed to one point",
    ),
    Health(
        "`target/clipped`",
        "0",
        "above 0: targets lie beyond `network.support`, which should be at least `target/largest`",
    ),
    Health(
        "`policy/entropy`",
        "falls slowly from log(actions)",
        "near 0 in the first tenth of a run: it will not explore any more",
    ),
    Health(
        "`policy/kl`",
        "0.02 to 0.5: the search improves on the network",
        "0: search finds nothing; above 1: the network cannot follow",
    ),
    Health(
        "`replay/effective_samples`",
        "above a third of 1",
        "near 0: a few transitions have all the priority or weight",
    ),
    Health(
        "`replay/policy_age`, `replay/oldest_policy`",
        "constant once replay is full (`oldest` reanalysis)",
        "grow with the run: nothing is reanalysed, unless a `teacher` does it in each update",
    ),
    Health(
        "`gradient/<module>`",
        "of one order of magnitude",
        "0: a module is cut off; one far above the rest: it sets the clipping",
    ),
)


def health_table() -> str:
    """`HEALTH` as a Markdown table."""
    lines = ["| name | healthy | sick |", "|---|---|---|"]
    return "\n".join(lines + [f"| {row.name} | {row.healthy} | {row.sick} |" for row in HEALTH])


RECENT = 0.1
"""Search values are compared with the returns, and rewards are added up a thousand steps, of so
large a part of the run, the newest."""


def _mean(x: Array, mask: Array) -> Array:
    """Mean of `x` where `mask` is not 0, 0 where there is nothing."""
    return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1)


def of_unroll(
    unroll: Unroll, targets: Targets, batch: Batch, network: NetworkConfig
) -> dict[str, Array]:
    """Compares the predictions along the unroll with their targets: scalars."""
    entropy = unroll.actions.entropy(unroll.policy_logits)
    divergence = unroll.actions.divergence(unroll.policy_logits, targets.policy)
    scale = network.prefix_scale
    error = jnp.abs(logits_to_scalar(unroll.prefix_logits, network, scale) - targets.value_prefix)
    value, prefix = targets.value, targets.value_prefix
    shown = [scalar_to_atoms(value, network), scalar_to_atoms(prefix, network, scale)]
    known = jnp.concatenate([targets.value_mask, targets.value_mask[:, 1:]], axis=1)
    atoms = jnp.abs(jnp.concatenate(shown, axis=1)) * known
    found = {
        "target/clipped": _mean((atoms > network.support).astype(jnp.float32), known),
        "target/largest": jnp.max(atoms),
        "policy/entropy": _mean(entropy, targets.policy_mask),
        "policy/kl": _mean(divergence, targets.policy_mask),
        **{
            f"prefix_error/{k + 1}": _mean(error[:, k], targets.value_mask[:, k + 1])
            for k in range(error.shape[1])
        },
        # Kish's effective size of the weighted batch, as a share of it.
        "replay/effective_samples": jnp.mean(batch.weight) ** 2 / jnp.mean(batch.weight**2),
        "replay/mean_weight": jnp.mean(batch.weight),
        "replay/min_weight": jnp.min(batch.weight),
        "replay/age": jnp.mean(batch.age),
        "replay/staleness": jnp.mean(batch.staleness),
    }
    if unroll.projection is None:
        return found
    predicted, encoded = (
        unroll.projection.astype(jnp.float32),
        unroll.target_projection.astype(jnp.float32),
    )
    mask = targets.state_mask[:, 1:]
    direction = encoded / jnp.linalg.norm(encoded, axis=-1, keepdims=True).clip(1e-6)
    center = jnp.sum(direction * mask[..., None], axis=(0, 1)) / jnp.maximum(jnp.sum(mask), 1)
    # Directions spread alike over P dimensions have a standard deviation of 1 / sqrt(P) in each.
    spread = _mean(jnp.sum((direction - center) ** 2, axis=-1), mask)
    return found | {
        "projection/cosine": _mean(
            optax.cosine_similarity(predicted, encoded, epsilon=1e-10), mask
        ),
        "projection/std": jnp.sqrt(spread),
    }


def of_gradient(gradient: dict) -> dict[str, Array]:
    """Norm of the gradient of each module, before clipping."""
    return {f"gradient/{module}": optax.tree.norm(part) for module, part in gradient.items()}


def realised_returns(replay: Replay, discount: float) -> tuple[Array, Array]:
    """Discounted return that followed each slot to the end of its episode.

    A time-out ends with the value of its last search.

    Returns:
      returns `[N, T]` in the order of the ring, and whether the end is known `[N, T]`.
    """
    # From the oldest slot to the newest; slots never written have a negative time and come
    # first.
    order = jnp.argsort(slot_times(replay))
    reward, step_discount, last, value = (
        x[:, order] for x in (replay.reward, replay.discount, replay.last, replay.search_value)
    )
    offset = jnp.where(last, jnp.where(step_discount > 0, value, 0.0), reward)
    slope = jnp.where(last, 0.0, discount * step_discount)

    def compose(later, earlier):
        # x -> b + a x, the later slot's map first.
        return earlier[0] * later[0], earlier[1] + earlier[0] * later[1]

    _, returns = jax.lax.associative_scan(compose, (slope, offset), reverse=True, axis=1)
    known = jnp.flip(jax.lax.cummax(jnp.flip(last, 1).astype(jnp.int32), axis=1), 1) > 0
    back = jnp.argsort(order)
    return returns[:, back], known[:, back] & (slot_times(replay) >= 0)


def rewards_to_come(replay: Replay, discount: float, steps: int) -> Array:
    """Discounted rewards of the next `steps` steps within the episode: `[N, T - steps]`.

    For slots in the order of time: the replay has not overwritten any yet.
    """
    nothing = jnp.zeros(replay.reward.shape[1])
    return jax.vmap(
        lambda r, d, last: n_step_value(r, d, last, nothing, jnp.asarray(steps), steps)
    )(replay.reward, discount * replay.discount, replay.last)


def of_replay(replay: Replay, env_steps: Array, updates: Array, config: Config) -> dict[str, Array]:
    """The search against what came of it, and the state of priorities and reanalysis: scalars."""
    returns, known = realised_returns(replay, config.target.discount)
    recent = replay.born >= env_steps - RECENT * config.env_steps
    mask = (known & recent & ~replay.last).astype(jnp.float32)
    stored = ((slot_times(replay) >= 0) & ~replay.last).astype(jnp.float32)
    played = stored * recent
    stale, idle_steps = updates - replay.refreshed, config.cycle.idle_steps
    waiting = {"play/idle": jnp.mean(idle(replay, idle_steps))} if idle_steps else {}
    return waiting | {
        "search/value": _mean(replay.search_value, mask),
        "search/return": _mean(returns, mask),
        "search/value_bias": _mean(replay.search_value - returns, mask),
        "search/value_error": _mean(jnp.abs(replay.search_value - returns), mask),
        # Long games end rarely: their points tell sooner than their scores.
        "play/gains": 1000 * _mean(jnp.maximum(replay.reward, 0), played),
        "play/losses": 1000 * _mean(jnp.maximum(-replay.reward, 0), played),
        "network/value_bias": _mean(replay.network_value - returns, mask),
        "replay/mean_priority": _mean(replay.priority, stored),
        "replay/max_priority": jnp.max(replay.priority),
        "replay/policy_age": _mean(stale, stored),
        "replay/oldest_policy": jnp.max(jnp.where(stored > 0, stale, 0)),
    }
