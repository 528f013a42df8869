"""Candidates of a search where actions are vectors (EfficientZero-V2, section 4.1).

Each node of the tree holds a few vectors, drawn from its policy; mctx searches their indices. `B`
is the number of roots, `K` of candidates, `D` of entries of a vector.
"""

import jax
import jax.numpy as jnp

from ez_jax.actions import Continuous
from ez_jax.config import SearchConfig
from ez_jax.types import Array

NEVER = -1e9
"""Prior logit of a candidate that no simulation visits."""


def chosen(candidates: Array | None, index: Array) -> Array:
    """The actions of indices `[B]`: these, or vectors `[B, D]`."""
    if candidates is None:
        return index
    return jnp.take_along_axis(candidates, index[:, None, None], axis=1)[:, 0]


def sample(
    actions: Continuous,
    config: SearchConfig,
    key: Array,
    head: Array,
    number: int,
    wide: int,
) -> tuple[Array, Array]:
    """Prior logits `[B, K]` and candidates `[B, K, D]` of a node of which `number` count.

    EfficientZero-V2 (section 4.1, and the released code) searches them without preference.
    """
    drawn = actions.draw(key, head, number, wide, config.wide_deviation)
    missing = config.sampled_actions - number
    prior = jnp.where(jnp.arange(config.sampled_actions) < number, 0.0, NEVER)
    return (
        jnp.broadcast_to(prior, (head.shape[0], prior.size)),
        jnp.pad(drawn, ((0, 0), (0, missing), (0, 0))),
    )


def policy_target(
    actions: Continuous,
    config: SearchConfig,
    head: Array,
    candidates: Array,
    weights: Array,
    best: Array,
    wide: float,
) -> Array:
    """What the policy `head [B, 2 D]` learns of a search over candidates: `[B, K (D + 1)]`.

    Args:
      actions: their kind.
      config: of the search.
      head: outputs of the policy head at the roots.
      candidates: `[B, K, D]`.
      weights: of these after the search, `[B, K]`, 0 where there was no draw.
      best: indices of the candidates that the search prefers, `[B]`.
      wide: share of the draws that came from the wider Gaussian.
    """
    if config.policy_target == "best":
        weights = jax.nn.one_hot(best, weights.shape[-1])
    elif config.policy_target == "corrected":
        log_policy = actions.log_density(head[:, None], candidates)
        log_wide = actions.log_density(head[:, None], candidates, config.wide_deviation)
        drawn = jnp.logaddexp(jnp.log1p(-wide) + log_policy, jnp.log(wide) + log_wide)
        weights = jax.nn.softmax(jnp.log(jnp.maximum(weights, 1e-30)) + log_policy - drawn)
    return actions.target(candidates, weights)
