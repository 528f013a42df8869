"""Learning rate and optimiser."""

import jax
import optax

from ez_jax.config import Config


def learning_rate(config: Config) -> optax.Schedule:
    """Linear warm-up, then one drop after the online updates, or a cosine over all updates."""
    o = config.optimizer
    if o.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0,
            o.learning_rate,
            o.warmup_updates,
            max(config.total_updates, o.warmup_updates + 1),
            o.learning_rate * o.drop_factor,
        )
    drop = config.online_updates + o.warmup_updates
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, o.learning_rate, max(o.warmup_updates, 1)),
            optax.constant_schedule(o.learning_rate),
            optax.constant_schedule(o.learning_rate * o.drop_factor),
        ],
        [o.warmup_updates, drop],
    )


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Clipping comes before weight decay, as in PyTorch's SGD after `clip_grad_norm_`."""
    o = config.optimizer
    # Biases and scales, of rank 1, may be left out.
    mask = None if o.decayed == "all" else lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
    if o.name == "sgd":
        rest = [
            optax.add_decayed_weights(o.weight_decay, mask),
            optax.sgd(learning_rate(config), momentum=o.momentum),
        ]
    else:
        rest = [optax.adamw(learning_rate(config), weight_decay=o.weight_decay, mask=mask)]
    return optax.chain(optax.clip_by_global_norm(o.clip_norm), *rest)
