"""One gradient step: unroll, loss, gradient, optimiser (EfficientZero, sections 3 and 4)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ez_jax.agent import diagnostics
from ez_jax.agent.losses import LOSSES, ExtraLosses, total_loss
from ez_jax.agent.optimizer import learning_rate, make_optimizer
from ez_jax.agent.priorities import MIN_PRIORITY
from ez_jax.agent.transforms import logits_to_scalar
from ez_jax.agent.unroll import unroll_model
from ez_jax.config import Config
from ez_jax.networks import Network
from ez_jax.types import Array, Batch, Learner, Targets


class LossOutput(NamedTuple):
    """Results of the loss besides its gradient."""

    batch_stats: Any  # moved by the forward passes
    priority: Array  # [B]
    metrics: dict[str, Array]  # scalars


def init(config: Config, variables: Any) -> Learner:
    """Makes a learner before its first update."""
    # The copy must be another buffer: the state is donated, and no buffer can be donated twice.
    return Learner(
        variables,
        jax.tree.map(jnp.copy, variables),
        make_optimizer(config).init(variables["params"]),
        jnp.zeros((), jnp.int32),
    )


def loss(
    params: Any,
    batch_stats: Any,
    key: Array,
    batch: Batch,
    targets: Targets,
    *,
    network: Network,
    config: Config,
    terms: ExtraLosses,
) -> tuple[Array, LossOutput]:
    """Importance-weighted mean of the summed terms, divided by the unroll steps."""
    variables = {"params": params, "batch_stats": batch_stats}
    # A term that is not ours may read the projections.
    consistency = "consistency" in terms or any(
        fn is not LOSSES.get(name) for name, (fn, _) in terms.items()
    )
    unroll, batch_stats = unroll_model(network, config, variables, key, batch, consistency)
    per_sample, parts = total_loss(terms, unroll, targets, config)
    objective = jnp.mean(batch.weight * per_sample) / config.target.unroll_steps
    priority = (
        jnp.abs(logits_to_scalar(unroll.value_logits[:, 0], config.network) - targets.value[:, 0])
        + MIN_PRIORITY
    )
    metrics = {f"loss/{name}": jnp.mean(part) for name, part in parts.items()} | {
        "loss/total": jnp.mean(per_sample)
    }
    metrics |= {
        "target/value": jnp.mean(targets.value[:, 0]),
        "target/value_error": jnp.mean(priority),
    }
    metrics |= diagnostics.of_unroll(unroll, targets, batch, config.network)
    return objective, LossOutput(batch_stats, priority, metrics)


def gradient_step(
    learner: Learner,
    key: Array,
    batch: Batch,
    targets: Targets,
    *,
    network: Network,
    config: Config,
    terms: ExtraLosses,
) -> tuple[Learner, LossOutput]:
    """Makes one step of the optimiser on a batch whose `weight` holds the importance weights.

    Args:
      learner: network, target network, optimiser.
      key: typed PRNG key of the augmentation, consumed.
      batch: windows of replay.
      targets: of the batch, by `targets.make_targets`.
      network: the model.
      config: of the run.
      terms: loss terms and weights, by `losses.active_losses`.

    Returns:
      the new learner, and the new priorities and metrics.
    """
    variables = learner.variables
    gradient, output = jax.grad(loss, has_aux=True)(
        variables["params"],
        variables["batch_stats"],
        key,
        batch,
        targets,
        network=network,
        config=config,
        terms=terms,
    )
    step, opt_state = make_optimizer(config).update(
        gradient, learner.opt_state, variables["params"]
    )
    variables = {
        "params": optax.apply_updates(variables["params"], step),
        "batch_stats": output.batch_stats,
    }
    updates = learner.updates + 1
    if config.cycle.target_step_size:
        target_variables = optax.incremental_update(
            variables, learner.target_variables, config.cycle.target_step_size
        )
    else:
        target_variables = optax.periodic_update(
            variables, learner.target_variables, updates, config.cycle.target_interval
        )
    output.metrics.update(
        {
            "gradient_norm": optax.tree.norm(gradient),
            "learning_rate": jnp.asarray(learning_rate(config)(learner.updates), jnp.float32),
        }
        | diagnostics.of_gradient(gradient)
    )
    return Learner(variables, target_variables, opt_state, updates), output
