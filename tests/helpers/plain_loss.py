"""The loss as a plain loop over samples and steps, in NumPy but for the network's own calls."""

import jax
import numpy as np

from ez_jax.agent.losses import LOSSES
from helpers.training import train_call


def cross_entropy(logits, probs):
    logits = np.asarray(logits, np.float64)
    top = logits.max()
    return float(
        np.sum(
            np.asarray(probs, np.float64) * (top + np.log(np.sum(np.exp(logits - top))) - logits)
        )
    )


def two_hot(x, support):
    x = np.clip(np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + 0.001 * x, -support, support)
    probs = np.zeros(2 * support + 1)
    low = int(np.floor(x))
    probs[low + support] += 1 - (x - low)
    if x > low:
        probs[low + 1 + support] += x - low
    return probs


def scalar(logits):
    """Untransformed expectation of categorical logits."""
    logits = np.asarray(logits, np.float64)
    probs = np.exp(logits - logits.max())
    support = len(logits) // 2
    x = np.sum(probs / probs.sum() * np.arange(-support, support + 1))
    return np.sign(x) * (((np.sqrt(1 + 0.004 * (abs(x) + 1.001)) - 1) / 0.002) ** 2 - 1)


def cosine(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a @ b / np.sqrt((a @ a) * (b @ b))


def plain_loss(network, variables, batch, targets, config):
    """Objective, terms summed over steps, priorities and moved statistics, one call of the network
    after the other.
    """
    stats, size = variables["batch_stats"], len(batch.weight)
    stack, unroll, support = config.env.stack, config.target.unroll_steps, config.network.support

    def call(method, *args):
        nonlocal stats
        out, stats = calls[method](variables["params"], stats, *args)
        return out

    calls = {
        method: jax.jit(
            lambda params, stats, *args, method=method: train_call(
                network, params, stats, *args, method=method
            )
        )
        for method in ("encode", "predict", "step", "project", "predict_projection")
    }

    def observation(slot):
        return np.concatenate([batch.frames[:, slot + i] for i in range(stack)], axis=-1)

    terms = {name: np.zeros(size) for name in LOSSES}
    state, memory = call("encode", observation(0)), network.initial_memory(size)
    for k in range(unroll + 1):
        if k > 0:
            step = call("step", state, memory, batch.action[:, k - 1])
            state = step.state
            memory = (
                jax.tree.map(np.zeros_like, step.memory)
                if k % config.target.prefix_horizon == 0
                else step.memory
            )
        prediction = call("predict", state)
        if k > 0:
            seen = call("encode", observation(k))
            call("predict", seen)  # moves the statistics of the heads alone
            predicted = call("predict_projection", call("project", state))
            encoded = call("project", seen)
        if k == 0:
            priority = [
                abs(scalar(prediction.value_logits[b]) - targets.value[b, 0]) + 1e-6
                for b in range(size)
            ]
        for b in range(size):
            on, policy_on, state_on = (
                targets.value_mask[b, k],
                targets.policy_mask[b, k],
                targets.state_mask[b, k],
            )
            policy = np.asarray(jax.nn.softmax(prediction.policy_logits[b]))
            terms["entropy"][b] -= policy_on * cross_entropy(prediction.policy_logits[b], policy)
            terms["policy"][b] += policy_on * cross_entropy(
                prediction.policy_logits[b], targets.policy[b, k]
            )
            terms["value"][b] += on * cross_entropy(
                prediction.value_logits[b], two_hot(targets.value[b, k], support)
            )
            if k > 0:
                prefix = two_hot(targets.value_prefix[b, k - 1], support)
                terms["value_prefix"][b] += on * cross_entropy(step.prefix_logits[b], prefix)
                terms["consistency"][b] -= state_on * cosine(predicted[b], encoded[b])
    per_sample = sum(getattr(config.loss, name) * term for name, term in terms.items())
    return float(np.mean(batch.weight * per_sample)) / unroll, terms, priority, stats
