"""Loss terms by name.

A term is a function of the model's predictions and their targets; its weight is
`config.loss.<name>`. A term of one's own is an argument of `run`: `losses={name: (function,
weight)}`. EfficientZero, equation 7 and appendix A.
"""

import functools
import operator
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from ez_jax.agent.transforms import scalar_to_probs
from ez_jax.config import Config
from ez_jax.types import Array, Targets, Unroll

LossFn = Callable[[Unroll, Targets, Config], Array]
"""`(unroll, targets, config) -> [B]`, summed over the unroll steps."""
ExtraLosses = Mapping[str, tuple[LossFn, float]]
"""Loss terms by name, each with its weight."""


def policy_loss(unroll: Unroll, targets: Targets, config: Config) -> Array:
    """Cross-entropy with the policy of the search."""
    loss = unroll.actions.cross_entropy(unroll.policy_logits, targets.policy)
    return jnp.sum(loss * targets.policy_mask, axis=1)


def value_loss(unroll: Unroll, targets: Targets, config: Config) -> Array:
    """Cross-entropy with the two-hot transformed value."""
    probs = scalar_to_probs(targets.value, config.network)
    return jnp.sum(
        optax.softmax_cross_entropy(unroll.value_logits, probs) * targets.value_mask, axis=1
    )


def value_prefix_loss(unroll: Unroll, targets: Targets, config: Config) -> Array:
    """Cross-entropy with the two-hot transformed value prefix."""
    network = config.network
    probs = scalar_to_probs(targets.value_prefix, network, network.prefix_scale)
    return jnp.sum(
        optax.softmax_cross_entropy(unroll.prefix_logits, probs) * targets.value_mask[:, 1:], axis=1
    )


def consistency_loss(unroll: Unroll, targets: Targets, config: Config) -> Array:
    """Negative cosine between predicted and encoded next states.

    EfficientZero, section 4.1; SimSiam (Chen & He 2021, arXiv 2011.10566).
    """
    projection, target = (
        unroll.projection.astype(jnp.float32),
        unroll.target_projection.astype(jnp.float32),
    )
    # Norms are floored at 1e-5, the root of epsilon; without it the gradient at a zero vector is
    # NaN.
    cosine = optax.cosine_similarity(projection, target, epsilon=1e-10)
    return jnp.sum(-cosine * targets.state_mask[:, 1:], axis=1)


def entropy_loss(unroll: Unroll, targets: Targets, config: Config) -> Array:
    """Negative entropy of the policy (EfficientZero-V2, appendix).

    With a target (`loss.entropy_target`) it pushes in proportion to what the batch's mean entropy
    lacks, and not at all above: control of the entropy as in Soft Actor-Critic (Haarnoja et al.
    2018, arXiv 1812.05905, section 5), without a state of its own.
    """
    negative = -unroll.actions.entropy(unroll.policy_logits) * targets.policy_mask
    loss = jnp.sum(negative, axis=1)
    if targets.entropy is None:
        return loss
    mean = -jnp.sum(negative) / jnp.maximum(jnp.sum(targets.policy_mask), 1)
    full = unroll.actions.uniform_entropy
    lack = (targets.entropy * full - mean) / (0.1 * full)
    return jax.lax.stop_gradient(jnp.clip(lack, 0, 1)) * loss


LOSSES: Mapping[str, LossFn] = {
    "policy": policy_loss,
    "value": value_loss,
    "value_prefix": value_prefix_loss,
    "consistency": consistency_loss,
    "entropy": entropy_loss,
}


def active_losses(
    config: Config, extra: ExtraLosses | None = None
) -> dict[str, tuple[LossFn, float]]:
    """All terms of a run with their weights: those of `config.loss`, and `extra` ones.

    The paper's terms of weight 0 are left out altogether; an extra one is computed and logged. An
    extra term of a known name takes its place.

    Args:
      config: `config.loss` holds the weights of the known terms.
      extra: name to `(function, weight)`.
    """
    terms = {name: (fn, getattr(config.loss, name)) for name, fn in LOSSES.items()}
    return {name: term for name, term in terms.items() if term[1] != 0} | dict(extra or {})


def total_loss(
    terms: ExtraLosses, unroll: Unroll, targets: Targets, config: Config
) -> tuple[Array, dict[str, Array]]:
    """Weighted sum of the terms and each bare term, `[B]` each."""
    parts = {name: fn(unroll, targets, config) for name, (fn, _) in terms.items()}
    weighted = [weight * parts[name] for name, (_, weight) in terms.items()]
    return functools.reduce(operator.add, weighted, jnp.zeros(())), parts
