"""The update: against a plain loop, against a toy model whose gradients are known, and its
schedules.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.batches import (
    BATCH,
    IMAGE,
    STACK,
    UNROLL,
    VECTOR,
    make_batch,
    make_config,
    make_network,
    make_targets,
)
from helpers.plain_loss import plain_loss, scalar
from helpers.toy import PARAMETERS, STATISTICS, TOY, Toy
from helpers.training import train_call

from ez_jax import config as config_lib
from ez_jax import presets
from ez_jax.agent import learning
from ez_jax.agent import optimizer as optimizer_lib
from ez_jax.agent import unroll as unroll_lib
from ez_jax.agent.losses import active_losses, value_loss
from ez_jax.agent.targets import make_targets as targets_of
from ez_jax.observations import frames_to_channels


def step(learner, key, batch, network, config, terms):
    """One gradient step towards the batch's own targets."""
    targets = targets_of(batch, config, learner.updates)
    return learning.gradient_step(
        learner, key, batch, targets, network=network, config=config, terms=terms
    )


# PLAIN LOOP


@pytest.mark.parametrize("spec", [VECTOR, IMAGE], ids=["vector", "image"])
def test_loss_equals_a_plain_loop(spec):
    """Objective, each term, priorities; the running statistics move with each call of a module."""
    config = make_config(loss__consistency=2.0, loss__value=0.25, loss__entropy=0.5)
    network, variables = make_network(config, spec)
    batch, targets = make_batch(spec), make_targets()
    compiled = jax.jit(
        lambda variables: learning.loss(
            variables["params"],
            variables["batch_stats"],
            jax.random.key(0),
            batch,
            targets,
            network=network,
            config=config,
            terms=active_losses(config),
        )
    )
    objective, output = compiled(variables)
    expected, terms, priority, stats = plain_loss(network, variables, batch, targets, config)
    np.testing.assert_allclose(objective, expected, rtol=1e-4)
    for name, term in terms.items():
        assert abs(term).min() > 1e-3  # there is something to compare
        np.testing.assert_allclose(
            output.metrics[f"loss/{name}"], term.mean(), rtol=1e-4, atol=1e-5
        )
    np.testing.assert_allclose(output.priority, priority, rtol=1e-3, atol=1e-4)
    moved = jax.tree.map(
        lambda a, b: not np.array_equal(a, b), output.batch_stats, variables["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4),
        output.batch_stats,
        dict(stats),
    )


@pytest.mark.parametrize("consistency", [True, False])
def test_joint_norm_trains_the_heads_as_a_search_sees_them(consistency):
    """Under the moments of all states of an update together, inference says of each state what
    training said.
    """
    config = make_config(network__joint_norm=True)
    network, variables = make_network(config, IMAGE)
    batch = make_batch(IMAGE)
    unroll, moved = jax.jit(
        lambda variables: unroll_lib.unroll_model(
            network, config, variables, jax.random.key(0), batch, consistency
        )
    )(variables)
    # The running averages have moved by a tenth.
    moments = jax.tree.map(
        lambda new, old: (new - 0.9 * old) / 0.1, moved, variables["batch_stats"]
    )

    def in_training(method, *args):
        return train_call(
            network, variables["params"], variables["batch_stats"], *args, method=method
        )[0]

    def in_search(method, *args):
        return network.apply({**variables, "batch_stats": moments}, *args, method=method)

    states = [in_training("encode", frames_to_channels(batch.frames[:, :STACK]))]
    for k in range(UNROLL):
        states.append(in_training("advance", states[-1], batch.action[:, k]))
    predictions = [in_search("predict", state) for state in states]
    together = jnp.stack(states[1:], axis=1).reshape(-1, *states[0].shape[1:])
    memory = network.initial_memory(BATCH)
    searched = [
        jnp.stack([p.value_logits for p in predictions], 1),
        jnp.stack([p.policy_logits for p in predictions], 1),
        in_search("value_prefixes", together, memory, False, config.target.prefix_horizon)[1],
    ]
    for found, expected in zip(
        searched, (unroll.value_logits, unroll.policy_logits, unroll.prefix_logits)
    ):
        assert np.ptp(expected, axis=(0, 1)).max() > 0.1
        np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-4)


# SCHEDULES AND STATE


SLOW = config_lib.replace(
    presets.PAPER, env__num_envs=8, cycle__updates_per_act=2, optimizer__learning_rate=1e-3
)


@pytest.mark.parametrize(
    "config, points",
    [
        (
            presets.PAPER,
            [
                (0, 0),
                (250, 0.05),
                (500, 0.1),
                (1000, 0.2),
                (50_000, 0.2),
                (100_999, 0.2),
                (101_000, 0.02),
                (119_999, 0.02),
            ],
        ),
        (
            config_lib.replace(SLOW, optimizer__warmup_updates=200),
            [(0, 0), (100, 5e-4), (25_199, 1e-3), (25_200, 1e-4)],
        ),
        (
            config_lib.replace(SLOW, optimizer__warmup_updates=0),
            [(0, 1e-3), (24_999, 1e-3), (25_000, 1e-4)],
        ),
        (
            config_lib.replace(SLOW, optimizer__warmup_updates=200, optimizer__schedule="cosine"),
            [(0, 0), (100, 5e-4), (200, 1e-3), (22_600, 5.5e-4), (45_000, 1e-4)],
        ),
    ],
    ids=["paper", "another ratio", "without warm-up", "cosine"],
)
def test_learning_rate(config, points):
    """The paper: up to 0.2 in 1000 updates, down to 0.02 at update 101,000. 100,000 steps of 8
    environments with 2 updates after each lock-step are 25,000 online updates, and with the final
    ones 45,000 in all, of which 22,600 is half-way from 200."""
    rate = optimizer_lib.learning_rate(config)
    for update, expected in points:
        np.testing.assert_allclose(rate(update), expected, rtol=1e-6, err_msg=str(update))


def test_sgd_by_hand():
    """Gradient (30, 40) is clipped to (3, 4), then decay joins, then momentum."""
    config = make_config(
        optimizer__name="sgd",
        optimizer__learning_rate=0.5,
        optimizer__momentum=0.9,
        optimizer__clip_norm=5.0,
        optimizer__weight_decay=0.1,
        optimizer__warmup_updates=0,
    )
    optimizer = optimizer_lib.make_optimizer(config)
    params = jnp.array([10.0, -10.0])
    state = optimizer.init(params)
    step, state = optimizer.update(jnp.array([30.0, 40.0]), state, params)
    np.testing.assert_allclose(step, [-0.5 * 4.0, -0.5 * 3.0], rtol=1e-5)
    params = optax.apply_updates(params, step)  # 8, -11.5
    step, state = optimizer.update(jnp.array([1.0, 2.0]), state, params)
    np.testing.assert_allclose(step, [-0.5 * (0.9 * 4 + 1.8), -0.5 * (0.9 * 3 + 0.85)], rtol=1e-5)


def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b)))


def test_updates():
    """Statistics and priorities of one update; the target network is an exact copy after each third
    one.
    """
    config = make_config(
        1,
        cycle__target_interval=3,
        optimizer__warmup_updates=2,
        optimizer__name="sgd",
        optimizer__learning_rate=0.1,
    )
    network, variables = make_network(config, VECTOR)
    terms = active_losses(config)
    update = jax.jit(lambda learner, key, batch: step(learner, key, batch, network, config, terms))
    batch = make_batch(VECTOR, unroll=1)
    learner = start = learning.init(config, variables)
    assert equal(start.target_variables, start.variables) and int(start.updates) == 0

    learner, output = update(learner, jax.random.key(0), batch)
    assert int(learner.updates) == 1 and output.metrics["learning_rate"] == 0
    # At a rate of 0, parameters stay and statistics move.
    assert equal(learner.variables["params"], start.variables["params"])
    moved = jax.tree.map(
        lambda a, b: not np.array_equal(a, b),
        learner.variables["batch_stats"],
        variables["batch_stats"],
    )
    assert all(jax.tree.leaves(moved))
    # z = r_0 + gamma r_1 + gamma^2 v_2 of windows without any end.
    gamma = config.target.discount
    z = batch.reward[:, 0] + gamma * batch.reward[:, 1] + gamma**2 * batch.network_value[:, 2]
    observation = np.concatenate([batch.frames[:, 0], batch.frames[:, 1]], axis=-1)

    def both(net, train):
        return net.predict(net.encode(observation, train), train)

    prediction, _ = jax.jit(
        lambda: train_call(network, variables["params"], variables["batch_stats"], method=both)
    )()
    expected = [abs(scalar(prediction.value_logits[b]) - z[b]) + 1e-6 for b in range(BATCH)]
    np.testing.assert_allclose(output.priority, expected, rtol=1e-3, atol=1e-4)

    history = [start, learner]
    for i in range(2, 8):
        learner, output = update(learner, jax.random.key(i), batch)
        history.append(learner)
        assert not equal(learner.variables["params"], history[-2].variables["params"])
        copied = history[i // 3 * 3]
        assert equal(learner.target_variables, copied.variables), i
        assert equal(learner.variables, learner.target_variables) == (i % 3 == 0)
    np.testing.assert_allclose(output.metrics["learning_rate"], 0.1)


def test_the_mixed_target_counts_the_updates():
    """T1 = 2: the first two updates are made with z = 1 + 1/2 + 4/4 of the value head, the third
    with the search's 20.
    """
    config = make_config(
        target__value="mixed",
        target__search_value_after=2,
        target__fresh_steps=0,
        target__discount=0.5,
    )
    config = config_lib.replace(config, network__support=1)  # as many logits as the toy has
    batch = make_batch(TOY, 2)
    ones = np.ones_like(batch.reward)
    batch = batch.replace(reward=ones, network_value=4 * ones, search_value=20 * ones)
    network, terms = Toy(TOY), {"value": (value_loss, 1.0)}
    learner = learning.init(
        config,
        {
            "params": {name: jnp.array(x) for name, x in PARAMETERS.items()},
            "batch_stats": STATISTICS,
        },
    )
    update = jax.jit(
        lambda learner: step(learner, jax.random.key(0), batch, network, config, terms)
    )
    found = []
    for _ in range(3):
        learner, output = update(learner)
        found.append(float(output.metrics["target/value"]))
    np.testing.assert_allclose(found, [2.5, 2.5, 20])
