"""The model unrolled along the actions that were taken (EfficientZero, figure 2).

Only the dynamics need one state to make the next. The heads and projections are called once with
all steps, `[B, steps, ...]`, in which BatchNorm gives each step its own batch statistics.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ez_jax import lowering
from ez_jax.agent.augment import augment
from ez_jax.config import Config
from ez_jax.networks import Moments, Network
from ez_jax.observations import frames_to_channels
from ez_jax.types import Array, Batch, Unroll


def fold_moments(batch_stats: Any, moments: Any, turns: Sequence[int], total: int) -> Any:
    """Moves running averages by batch moments that came at given turns of an update.

    Running averages depend on order, and the original calls a head for the root, then for each
    predicted state and the encoded one after it, in turn. Whatever is computed together here, the
    averages move as if the calls had come in that order.

    Args:
      batch_stats: running averages, of modules that were called or not.
      moments: what those that were called sowed (`networks.Moments`).
      turns: of the calls in `moments`; the call with turn 0 comes before others are folded.
      total: calls of the module in an update.
    """
    found = moments.get("batch")
    if not isinstance(found, Moments):
        return {
            name: fold_moments(part, moments[name], turns, total) if name in moments else part
            for name, part in batch_stats.items()
        }
    momentum = found.momentum
    weights = (1 - momentum) * momentum ** (total - 1 - jnp.array(tuple(turns)))
    kept = momentum**total if 0 in turns else 1.0  # the average before the update fades once
    return {
        "mean": kept * batch_stats["mean"] + weights @ found.mean,
        "var": kept * batch_stats["var"] + weights @ found.variance,
    }


def encode_targets(
    network: Network, config: Config, variables: Any, frames: Array
) -> tuple[Array, Any]:
    """Encodes the K observations that follow, one after another, in training mode.

    Args:
      network: the model.
      config: `config.env.stack` and `config.target.unroll_steps` are read.
      variables: of the network.
      frames: `[B, S - 1 + K, ...]`, from the first target's stack on.

    Returns:
      latent states `[K, B, ...]` without gradient, and the moved `batch_stats`.
    """
    params, channels = jax.lax.stop_gradient(variables["params"]), frames.shape[-1]
    frames = frames_to_channels(frames)

    def one(batch_stats: Any, k: Array) -> tuple[Any, Array]:
        observation = jax.lax.dynamic_slice_in_dim(
            frames, k * channels, config.env.stack * channels, axis=-1
        )
        state, sown = network.apply(
            {"params": params, "batch_stats": batch_stats},
            observation,
            train=True,
            method="encode",
            mutable=["moments"],
        )
        return fold_moments(batch_stats, sown.get("moments", {}), (0,), 1), state

    steps = jnp.arange(config.target.unroll_steps)
    batch_stats, states = jax.lax.scan(
        one, variables["batch_stats"], steps, unroll=lowering.loop_unrolling(steps.size)
    )
    return states, batch_stats


def unroll_model(
    network: Network, config: Config, variables: Any, key: Array, batch: Batch, consistency: bool
) -> tuple[Unroll, Any]:
    """Unrolls the model K steps along the actions taken, in training mode.

    The loop is Python's: a gradient through `lax.scan` of convolutions is an order of magnitude
    slower on CPU.

    Args:
      network: the model.
      config: of the run.
      variables: of the network; a gradient flows into `params`.
      key: typed PRNG key of the augmentation, consumed.
      batch: windows of replay.
      consistency: also encode the frames that followed, and project.

    Returns:
      the predictions, and the moved `batch_stats`.
    """
    k_steps, stack = config.target.unroll_steps, config.env.stack
    image = network.spec.image
    params, batch_stats = variables["params"], variables["batch_stats"]

    def view(view_key: Array, frames: Array) -> Array:
        if not image:
            return augment(view_key, frames, 0, config.loss.amplitude)
        return augment(view_key, frames, config.loss.shift, config.loss.intensity)

    def call(
        method: str, *args: Any, turns: Sequence[int] = (0,), total: int = 1, **options: Any
    ) -> Any:
        """Calls the network in training mode; its moments count as those of `turns`."""
        nonlocal batch_stats
        called = {"params": params, "batch_stats": batch_stats}
        output, sown = network.apply(
            called, *args, train=True, method=method, mutable=["moments"], **options
        )
        batch_stats = fold_moments(batch_stats, sown.get("moments", {}), turns, total)
        return output

    def merged(states: Array) -> Array:
        """Steps as samples of one batch: `[B, steps, ...]` to `[B * steps, ...]`."""
        return states.reshape(-1, *states.shape[2:])

    def apart(x: Array) -> Array:
        """The inverse, for features: `[B * steps, D]` to `[B, steps, D]`."""
        return x.reshape(batch.action.shape[0], -1, x.shape[-1])

    # ENCODE
    input_key, target_key = jax.random.split(key)
    states = [call("encode", frames_to_channels(view(input_key, batch.frames[:, :stack])))]
    encoded = []
    if consistency and batch.taught is not None:
        encoded = list(jnp.moveaxis(batch.taught.state, 1, 0))
    elif consistency:
        # One crop and one intensity for all target frames of a sample, drawn apart from the
        # input's.
        frames = view(target_key, batch.frames[:, 1:])
        now = {"params": params, "batch_stats": batch_stats}
        targets, batch_stats = encode_targets(network, config, now, frames)
        encoded = list(targets)

    # UNROLL
    for k in range(k_steps):
        state = call("advance", states[-1], batch.action[:, k])
        # Before anything reads the state: heads, consistency and later steps all send half.
        half = config.loss.half_gradient
        states.append(optax.scale_gradient(state, 0.5) if half else state)
    predicted, taken = jnp.stack(states[1:], axis=1), batch.action[:, :k_steps]
    memory, restart = network.initial_memory(batch.action.shape[0]), config.target.prefix_horizon

    # PREDICT. No loss reads the predictions of encoded states: the heads see these for their
    # running averages alone. Without them the averages would be those of imagined states, and be
    # wrong at every root.
    if config.network.joint_norm:
        prediction = call("predict", merged(jnp.stack(states + encoded, axis=1)))
        _, prefix_logits = call(
            "value_prefixes", merged(predicted), memory, restart=restart, actions=merged(taken)
        )
    else:
        # Turns of a head: the root, then each predicted state and the encoded state after it.
        pace = 2 if consistency else 1
        total = 1 + pace * k_steps
        shown = (0, *range(1, total, pace))
        prediction = call("predict", jnp.stack(states, axis=1), turns=shown, total=total)
        _, prefix_logits = call(
            "value_prefixes",
            predicted,
            memory,
            turns=range(k_steps),
            total=k_steps,
            restart=restart,
            actions=taken,
        )
        if consistency:
            rest = range(2, total, pace)
            call("predict", jnp.stack(encoded, axis=1), turns=rest, total=total)
    value_logits, policy_logits = (apart(x)[:, : k_steps + 1] for x in prediction)

    # PROJECT
    projection: Any = None
    target_projection: Any = None
    if consistency:
        pace = 2 if batch.taught is None else 1
        total = pace * k_steps
        projection = call("project", predicted, turns=range(0, total, pace), total=total)
        projection = call("predict_projection", projection, turns=range(k_steps), total=k_steps)
        if batch.taught is not None:
            target_projection = batch.taught.projection
        else:
            target_projection = call(
                "project", jnp.stack(encoded, axis=1), turns=range(1, total, 2), total=total
            )
        target_projection = jax.lax.stop_gradient(target_projection)
    return Unroll(
        value_logits=value_logits,
        policy_logits=policy_logits,
        prefix_logits=apart(prefix_logits),
        projection=projection,
        target_projection=target_projection,
        actions=network.spec.actions,
    ), batch_stats
