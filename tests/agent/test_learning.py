"""The update: against a plain loop, against a toy model whose gradients are known, and its
schedules.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.plain_loss import plain_loss, scalar
from helpers.training import train_call

from ez_jax import config as config_lib
from ez_jax import presets
from ez_jax.agent import learning
from ez_jax.agent import optimizer as optimizer_lib
from ez_jax.agent import unroll as unroll_lib
from ez_jax.agent.losses import LOSSES, active_losses, policy_loss, value_loss
from ez_jax.agent.targets import make_targets as targets_of
from ez_jax.networks import Moments, Network, Prediction, init_variables
from ez_jax.observations import frames_to_channels
from ez_jax.types import Batch, EnvSpec, Targets

BATCH, STACK, UNROLL, TD, ACTIONS = 4, 2, 3, 2, 3
VECTOR = EnvSpec(ACTIONS, (3,), np.float32, STACK)
IMAGE = EnvSpec(ACTIONS, (16, 16, 1), np.uint8, STACK)


def make_config(unroll=UNROLL, **changes):
    return config_lib.replace(
        presets.DEBUG,
        env__stack=STACK,
        target__unroll_steps=unroll,
        target__td_steps=TD,
        target__prefix_horizon=2,
        network__channels=8,
        network__head_channels=2,
        network__head_hidden=4,
        network__lstm=5,
        network__support=3,
        network__projection=6,
        network__predictor=4,
        loss__shift=0,
        loss__intensity=0.0,
        **{"network__joint_norm": False, **changes},
    )


def make_network(config, spec):
    """A network whose every parameter is random: the zero-initialised heads would hide mistakes."""
    network = Network(config.network, spec)
    variables = jax.jit(lambda key: init_variables(network, key))(jax.random.key(0))
    rng = np.random.default_rng(0)
    variables["params"] = jax.tree.map(
        lambda x: x + rng.normal(0, 0.2, x.shape).astype(np.float32), variables["params"]
    )
    return network, variables


def make_batch(spec, size=BATCH, unroll=UNROLL):
    """Random windows without any end."""
    rng = np.random.default_rng(0)
    length = unroll + TD + 1
    shape = (size, STACK + unroll, *spec.frame_shape)
    frames = rng.normal(size=shape) if len(spec.frame_shape) == 1 else rng.integers(0, 256, shape)
    zeros, flat = np.zeros(size, np.int32), np.zeros((size, length), np.float32)
    return Batch(
        frames=frames.astype(spec.frame_dtype),
        action=rng.integers(0, ACTIONS, (size, length)).astype(np.int32),
        reward=rng.normal(size=(size, length)).astype(np.float32),
        discount=flat + 1,
        last=flat > 0,
        policy=rng.dirichlet(np.ones(ACTIONS), (size, length)).astype(np.float32),
        search_value=flat,
        network_value=rng.normal(0, 3, (size, length)).astype(np.float32),
        age=zeros,
        staleness=zeros,
        weight=rng.uniform(0.1, 1, size).astype(np.float32),
    )


def make_targets(size=BATCH, unroll=UNROLL):
    """Random targets; the samples' episodes end after different steps."""
    rng = np.random.default_rng(1)
    end = np.arange(size)[:, None] + 1
    steps = np.arange(unroll + 1)
    return Targets(
        value=rng.normal(0, 5, (size, unroll + 1)).astype(np.float32),
        value_prefix=rng.normal(0, 2, (size, unroll)).astype(np.float32),
        policy=rng.dirichlet(np.ones(ACTIONS), (size, unroll + 1)).astype(np.float32),
        # Other masks for values than for states, as when terminal states absorb.
        value_mask=((steps <= end) | (np.arange(size)[:, None] == 1)).astype(np.float32),
        policy_mask=(steps < end).astype(np.float32),
        state_mask=(steps <= end).astype(np.float32),
    )


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


# HALF GRADIENT


class Toy(nn.Module):
    """A linear scalar model: state_k = r d^k x, value h state, prefix p (sum of states), projection
    q state and state.
    """

    spec: EnvSpec

    def setup(self):
        for name, value in PARAMETERS.items():
            setattr(self, name, self.param(name, nn.initializers.constant(value), ()))

    def encode(self, observation, train):
        # A running average that counts: each call keeps it and adds a moment of 1.
        one = Moments(mean=jnp.ones((1, 1)), variance=jnp.ones((1, 1)), momentum=0.5)
        self.sow("moments", "batch", one, reduce_fn=lambda _, new: new)
        pixels = observation.reshape(observation.shape[0], -1)
        return self.r * pixels[:, -1:].astype(jnp.float32)

    def advance(self, state, action, train):
        return self.d * state

    def value_prefixes(self, states, memory, train, restart):
        steps, total = states.reshape(memory.shape[0], -1), []
        for k in range(steps.shape[1]):
            memory = (0 if k % restart == 0 else memory) + steps[:, k : k + 1]
            total.append(memory)
        logits = self.p * jnp.concatenate(total, 1).reshape(-1, 1)
        return memory, jnp.pad(logits, ((0, 0), (0, 2)))

    def predict(self, state, train):
        logits = jnp.pad(self.h * state.reshape(-1, 1), ((0, 0), (0, 2)))
        return Prediction(logits, logits)

    def project(self, state, train):
        return state

    def predict_projection(self, projection, train):
        return self.q * projection

    def initial_memory(self, batch):
        return jnp.zeros((batch, 1))


STATISTICS = {"mean": jnp.zeros(1), "var": jnp.zeros(1)}


def encodes(statistics):
    """Number of encodings that moved the toy's running average: 1 - 1/2^n after n."""
    return round(-np.log2(1 - float(statistics["mean"][0])))


PARAMETERS = {"r": 0.7, "d": 0.9, "h": 1.3, "p": 0.6, "q": 0.4}
TOY = EnvSpec(ACTIONS, (1,), np.float32, STACK)
X = np.array(
    [[9.0, 2.0, 5.0, 6.0, 7.0], [8.0, 3.0, 1.0, 2.0, 4.0]], np.float32
)  # the frame in front, x_0, x_1, x_2, x_3
WEIGHT = np.array([1.0, 0.5], np.float32)


def toy_gradient(term, half):
    """Gradient of the objective whose only term is `term(unroll) -> [B]`."""
    config = make_config(loss__half_gradient=half)
    batch = make_batch(TOY, 2).replace(frames=X[:, :, None], weight=WEIGHT)
    terms = {"probe": (lambda unroll, targets, config: term(unroll), 1.0)}
    params = {name: jnp.array(value) for name, value in PARAMETERS.items()}
    return jax.grad(learning.loss, has_aux=True)(
        params,
        STATISTICS,
        jax.random.key(0),
        batch,
        make_targets(2),
        network=Toy(TOY),
        config=config,
        terms=terms,
    )[0]


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_gradient_of_the_heads_at_step_k(k, half):
    """Halved once for each state it passes; the head itself is not."""
    r, d, h = (PARAMETERS[name] for name in "rdh")
    c = np.mean(WEIGHT * X[:, 1]) / UNROLL
    s = 0.5 if half else 1.0
    for field in ("value_logits", "policy_logits"):
        gradient = toy_gradient(lambda unroll: getattr(unroll, field)[:, k, 0], half)
        np.testing.assert_allclose(gradient["h"], c * r * d**k, rtol=1e-5)
        np.testing.assert_allclose(gradient["r"], c * h * (s * d) ** k, rtol=1e-5)
        # The dynamics of step j sees the gradient of the states j..k.
        through = sum(s ** (k - j + 1) for j in range(1, k + 1)) * d ** (k - 1)
        np.testing.assert_allclose(gradient["d"], c * h * r * through, rtol=1e-5)
        assert gradient["p"] == gradient["q"] == 0


@pytest.mark.parametrize("half", [True, False])
def test_gradient_of_the_value_prefix(half):
    """Steps 1 and 2 are summed, step 3 starts anew; memory is passed on in full, only states are
    halved.
    """
    r, d, p = (PARAMETERS[name] for name in "rdp")
    c = np.mean(WEIGHT * X[:, 1]) / UNROLL
    a = d * (0.5 if half else 1.0)
    for k, summed, halved in ((1, d, a), (2, d + d**2, a + a**2), (3, d**3, a**3)):
        gradient = toy_gradient(lambda unroll: unroll.prefix_logits[:, k - 1, 0], half)
        np.testing.assert_allclose(gradient["p"], c * r * summed, rtol=1e-5)
        np.testing.assert_allclose(gradient["r"], c * p * halved, rtol=1e-5)


@pytest.mark.parametrize("half", [True, False])
def test_gradient_of_the_consistency(half):
    """State k meets frame k; nothing flows into the encoded side."""
    r, d, q = (PARAMETERS[name] for name in "rdq")
    for k in (1, 3):
        c = np.mean(WEIGHT * X[:, 1] * r * X[:, 1 + k]) / UNROLL
        gradient = toy_gradient(
            lambda unroll: (unroll.projection * unroll.target_projection)[:, k - 1, 0], half
        )
        np.testing.assert_allclose(gradient["q"], c * r * d**k, rtol=1e-5)
        np.testing.assert_allclose(
            gradient["r"], c * q * (d * (0.5 if half else 1.0)) ** k, rtol=1e-5
        )


def test_half_gradient_of_the_network():
    """The representation gets 0.5^k of step k's value and policy losses, the heads all of them."""
    gradients = {}
    for half in (True, False):
        config = make_config(2, loss__half_gradient=half)
        network, variables = make_network(config, VECTOR)
        terms = {"policy": (policy_loss, 1.0), "value": (value_loss, 1.0)}

        @jax.jit
        def gradient(mask):
            targets = make_targets(unroll=2).replace(
                value_mask=mask, policy_mask=mask, state_mask=mask
            )
            return jax.grad(learning.loss, has_aux=True)(
                variables["params"],
                variables["batch_stats"],
                jax.random.key(0),
                make_batch(VECTOR, unroll=2),
                targets,
                network=network,
                config=config,
                terms=terms,
            )[0]

        gradients[half] = [gradient(jnp.zeros((BATCH, 3)).at[:, k].set(1.0)) for k in range(3)]
    for k, (halved, full) in enumerate(zip(*gradients.values())):
        for part, factor in (
            ("representation", 0.5**k),
            ("trunk", 1.0),
            ("value_head", 1.0),
            ("policy_head", 1.0),
        ):
            assert optax.tree.norm(full[part]) > 1e-2
            for a, b in zip(jax.tree.leaves(halved[part]), jax.tree.leaves(full[part])):
                np.testing.assert_allclose(
                    a, factor * b, rtol=1e-4, atol=1e-5 * factor * max(np.abs(b).max(), 0.1)
                )


# WHAT IS COMPUTED


def toy_unroll(spec, config, batch, consistency, key=0):
    params = {name: jnp.array(value) for name, value in PARAMETERS.items()}
    return unroll_lib.unroll_model(
        Toy(spec),
        config,
        {"params": params, "batch_stats": STATISTICS},
        jax.random.key(key),
        batch,
        consistency,
    )


def test_without_consistency_no_frame_is_encoded_but_the_first():
    """Its projections are left out, unless a term that is not the paper's might read them."""
    config = make_config()
    batch = make_batch(TOY, 2)
    unroll, stats = toy_unroll(TOY, config, batch, False)
    assert unroll.projection is None and unroll.target_projection is None and encodes(stats) == 1
    unroll, stats = toy_unroll(TOY, config, batch, True)
    assert (
        unroll.projection.shape == unroll.target_projection.shape == (2, UNROLL, 1)
        and encodes(stats) == 1 + UNROLL
    )

    def encodes_with(terms):
        params = {name: jnp.array(value) for name, value in PARAMETERS.items()}
        _, output = learning.loss(
            params,
            STATISTICS,
            jax.random.key(0),
            batch,
            make_targets(2),
            network=Toy(TOY),
            config=config,
            terms=terms,
        )
        return encodes(output.batch_stats)

    assert encodes_with({"policy": (LOSSES["policy"], 1.0)}) == 1
    for name in ("mine", "policy"):
        assert encodes_with({name: (lambda *_: jnp.zeros(2), 1.0)}) == 1 + UNROLL


def test_augmentation_is_drawn_once_for_the_input_and_once_for_the_targets():
    """On frames that are all 100, a state says the intensity: one for all target frames of a
    sample, apart from its input's.
    """
    config = config_lib.replace(make_config(), loss__intensity=0.05)
    spec = EnvSpec(ACTIONS, (4, 4, 1), np.uint8, STACK)
    batch = make_batch(spec, 6)
    batch = batch.replace(frames=np.full_like(batch.frames, 100))
    unroll, _ = toy_unroll(spec, config, batch, True)
    given = np.asarray(unroll.value_logits[:, 0, 0]) / (100 * PARAMETERS["r"] * PARAMETERS["h"])
    target = np.asarray(unroll.target_projection[:, :, 0]) / (100 * PARAMETERS["r"])
    np.testing.assert_allclose(target, np.tile(target[:, :1], UNROLL), rtol=1e-6)
    assert (np.abs(given - target[:, 0]) > 1e-4).all()
    assert len(set(given.round(5))) == len(set(target[:, 0].round(5))) == 6
    assert max(np.abs(given - 1).max(), np.abs(target - 1).max()) <= 0.1 + 1e-5
    # Vectors are left alone.
    batch = make_batch(TOY, 2)
    unroll, _ = toy_unroll(TOY, config, batch, True)
    np.testing.assert_allclose(
        unroll.target_projection[:, :, 0], PARAMETERS["r"] * batch.frames[:, STACK:, 0], rtol=1e-6
    )


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
