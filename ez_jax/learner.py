"""Update: augment, unroll the model, loss, gradient, optimiser, new priorities (EfficientZero,
sections 3 and 4).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ez_jax import diagnostics, lowering
from ez_jax.augment import augment
from ez_jax.config import Config
from ez_jax.losses import LOSSES, LossFn, total_loss
from ez_jax.networks import Calls, Network, frames_to_channels, observations
from ez_jax.replay import MIN_PRIORITY
from ez_jax.targets import make_targets
from ez_jax.transforms import logits_to_scalar
from ez_jax.types import Array, Batch, Learner, Targets, Unroll


class LossOutput(NamedTuple):
    batch_stats: Any  # moved by the forward passes
    priority: Array  # [B]
    metrics: dict[str, Array]  # scalars


def learning_rate(config: Config) -> optax.Schedule:
    """Linear warm-up, then constant and one drop after the online updates, or a cosine over all of
    them.
    """
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
    if o.name == "sgd":
        rest = [
            optax.add_decayed_weights(o.weight_decay),
            optax.sgd(learning_rate(config), momentum=o.momentum),
        ]
    else:
        rest = [optax.adamw(learning_rate(config), weight_decay=o.weight_decay)]
    return optax.chain(optax.clip_by_global_norm(o.clip_norm), *rest)


def init(config: Config, variables: Any) -> Learner:
    """A learner at its zeroth update."""
    # The copy must be another buffer: the state is donated, and no buffer can be donated twice.
    return Learner(
        variables,
        jax.tree.map(jnp.copy, variables),
        make_optimizer(config).init(variables["params"]),
        jnp.zeros((), jnp.int32),
    )


def encode_targets(
    network: Network, config: Config, variables: Any, frames: Array
) -> tuple[Array, Any]:
    """Encodes the K observations that follow, one after another, in training mode and without
    gradient.

    Args:
      network: the model.
      config: `config.env.stack` and `config.target.unroll_steps` are read.
      variables: of the network.
      frames: `[B, S - 1 + K, ...]`, from the first target's stack on.

    Returns:
      latent states `[K, B, ...]`, and the moved `batch_stats`.
    """
    params, channels = jax.lax.stop_gradient(variables["params"]), frames.shape[-1]
    frames = frames_to_channels(frames)

    def one(batch_stats: Any, k: Array) -> tuple[Any, Array]:
        observation = jax.lax.dynamic_slice_in_dim(
            frames, k * channels, config.env.stack * channels, axis=-1
        )
        state, moved = network.apply(
            {"params": params, "batch_stats": batch_stats},
            observation,
            train=True,
            method="encode",
            mutable=["batch_stats"],
        )
        return moved["batch_stats"], state

    steps = jnp.arange(config.target.unroll_steps)
    batch_stats, states = jax.lax.scan(
        one, variables["batch_stats"], steps, unroll=lowering.loop_unrolling(steps.size)
    )
    return states, batch_stats


def unroll_model(
    network: Network, config: Config, variables: Any, key: Array, batch: Batch, consistency: bool
) -> tuple[Unroll, Any]:
    """Unrolls the model K steps along the actions taken, in training mode.

    Only the dynamics need one state to make the next: the heads and projections are called once,
    with all steps. Yet BatchNorm sees each step's own batch (unless `joint_norm`), and its running
    statistics move step by step in the original's order (the encoder, which comes first here,
    shares none with the rest). The loop is Python's: a gradient through `lax.scan` of convolutions
    is an order of magnitude slower on CPU.

    Returns:
      the predictions, and the moved `batch_stats`.
    """
    k_steps, stack = config.target.unroll_steps, config.env.stack
    image = len(network.spec.frame_shape) == 3

    def view(view_key: Array, frames: Array) -> Array:
        return (
            augment(view_key, frames, config.loss.shift, config.loss.intensity) if image else frames
        )

    def together(states: list[Array]) -> Array:
        """Steps side by side, sample by sample: `[B * steps, ...]`. A batch that is split over
        devices stays where it is.
        """
        return jnp.stack(states, axis=1).reshape(-1, *states[0].shape[1:])

    def apart(x: Array) -> Array:
        """`[B * steps, D]` to `[B, steps, D]`."""
        return x.reshape(batch.action.shape[0], -1, x.shape[-1])

    input_key, target_key = jax.random.split(key)
    first = observations(view(input_key, batch.frames[:, :stack]), stack, 0)
    root, moved = network.apply(
        variables, first, train=True, method="encode", mutable=["batch_stats"]
    )
    variables, encoded = {**variables, **moved}, []
    if consistency:
        # One crop and one intensity for all target frames of a sample, drawn apart from the
        # input's.
        encoded, batch_stats = encode_targets(
            network, config, variables, view(target_key, batch.frames[:, 1:])
        )
        encoded = list(encoded)
        variables = {**variables, "batch_stats": batch_stats}

    # Turns of a head: the root, then each predicted state and, with consistency, the encoded state
    # after it.
    pace = 2 if consistency else 1
    predicted_turns, encoded_turns = (
        range(1, pace * k_steps + 1, pace),
        range(2, pace * k_steps + 1, pace),
    )
    turns = 1 + pace * k_steps

    def forward(net: Network, root: Array) -> Unroll:
        states = [root]
        for k in range(k_steps):
            state = net.advance(states[-1], batch.action[:, k], train=True)
            # Before anything reads the state: heads, consistency and later steps all send half.
            states.append(optax.scale_gradient(state, 0.5) if config.loss.half_gradient else state)
        predicted, in_order = together(states[1:]), Calls(tuple(range(k_steps)), k_steps)
        memory, restart = net.initial_memory(root.shape[0]), config.target.prefix_horizon
        # No loss reads what the heads say of encoded states. They are shown for the statistics:
        # without them the heads would be normalised for imagined states, and be off at every root.
        if config.network.joint_norm:
            prediction = net.predict(together(states + encoded), train=True)
            prefix = net.reward(predicted, memory, True, restart)
        else:
            prediction = net.predict(together(states), train=Calls((0, *predicted_turns), turns))
            prefix = net.reward(predicted, memory, in_order, restart)
            if consistency:
                net.predict(together(encoded), train=Calls(tuple(encoded_turns), turns))
        projection = target_projection = None
        if consistency:
            projection = net.project(
                predicted, train=Calls(tuple(range(0, 2 * k_steps, 2)), 2 * k_steps)
            )
            projection = apart(net.predict_projection(projection, train=in_order))
            target_projection = net.project(
                together(encoded), train=Calls(tuple(range(1, 2 * k_steps, 2)), 2 * k_steps)
            )
            target_projection = apart(jax.lax.stop_gradient(target_projection))
        value_logits, policy_logits = (apart(x)[:, : k_steps + 1] for x in prediction)
        return Unroll(
            value_logits=value_logits,
            policy_logits=policy_logits,
            prefix_logits=apart(prefix.prefix_logits),
            projection=projection,
            target_projection=target_projection,
        )

    unroll, moved = network.apply(variables, root, method=forward, mutable=["batch_stats"])
    return unroll, moved["batch_stats"]


def loss(
    params: Any,
    batch_stats: Any,
    key: Array,
    batch: Batch,
    targets: Targets,
    *,
    network: Network,
    config: Config,
    terms: Mapping[str, tuple[LossFn, float]],
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
        jnp.abs(logits_to_scalar(unroll.value_logits[:, 0]) - targets.value[:, 0]) + MIN_PRIORITY
    )
    metrics = {f"loss/{name}": jnp.mean(part) for name, part in parts.items()} | {
        "loss/total": jnp.mean(per_sample)
    }
    metrics |= {
        "target/value": jnp.mean(targets.value[:, 0]),
        "target/value_error": jnp.mean(priority),
    }
    metrics |= diagnostics.of_unroll(unroll, targets, batch)
    return objective, LossOutput(batch_stats, priority, metrics)


def update(
    learner: Learner,
    key: Array,
    batch: Batch,
    *,
    network: Network,
    config: Config,
    terms: Mapping[str, tuple[LossFn, float]],
) -> tuple[Learner, LossOutput]:
    """One gradient step on a batch whose `weight` holds the importance weights."""
    targets = make_targets(batch, config, learner.updates)
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
