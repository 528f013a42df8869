"""One teacher pass: the same numbers as its parts, from one encoding; and the moving average."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.loops import warmed_up
from helpers.tiny import CATCH, PONG

from ez_jax.actions import Discrete
from ez_jax.agent import learning, losses, reanalysis, targets
from ez_jax.agent import replay as replay_lib
from ez_jax.agent.optimizer import make_optimizer
from ez_jax.agent.search import search
from ez_jax.agent.transforms import logits_to_scalar
from ez_jax.config import replace, validate
from ez_jax.networks import encode, infer
from ez_jax.observations import frames_to_channels
from ez_jax.types import Positions

CONFIG = replace(
    CATCH,
    env__stack=2,
    network__joint_norm=True,
    reanalyse__mode="teacher",
    reanalyse__ratio=0.5,
    cycle__batch_size=8,
    cycle__target_step_size=0.25,
    search__num_simulations=2,
)


@pytest.fixture(scope="module")
def drawn():
    loop, state = warmed_up(CONFIG, updates=2)
    state, drawn = loop.stages.agent.draw(state)
    return loop.stages.network, state, drawn


@pytest.fixture(scope="module")
def taught(drawn):
    network, state, found = drawn
    steps, updates = state.actor.env_steps, state.learner.updates
    batch = replay_lib.gather(state.replay, found, steps, updates, CONFIG)
    teach = jax.jit(lambda v, b: reanalysis.teach(network, CONFIG, v, jax.random.key(3), b))
    return batch, teach(state.learner.target_variables, batch)


def test_encodes_what_replay_would_show(drawn, taught):
    """Values and states of each slot are those of its own stack of frames."""
    network, state, found = drawn
    batch, lesson = taught
    variables = state.learner.target_variables
    k, length = CONFIG.target.unroll_steps, batch.action.shape[1]
    for i in range(length):
        positions = Positions(found.positions.lane, found.positions.time + i)
        frames = replay_lib.stacks(state.replay, positions, 1, CONFIG.env.stack)
        latent = encode(network, variables, frames_to_channels(frames))
        value = logits_to_scalar(infer(network, variables, "predict", latent).value_logits)
        same = np.asarray(jnp.cumsum(batch.last, axis=1)[:, i] - batch.last[:, i] == 0)
        np.testing.assert_allclose(lesson.network_value[same, i], value[same], rtol=1e-4, atol=1e-5)
        if 1 <= i <= k:
            expected = lesson.taught.state[:, i - 1]
            np.testing.assert_allclose(expected[same], latent[same], rtol=1e-4, atol=1e-5)
            projected = infer(network, variables, "project", latent)
            np.testing.assert_allclose(
                lesson.taught.projection[same, i - 1], projected[same], rtol=1e-3, atol=1e-4
            )


def test_searches_its_share_of_the_batch(taught):
    """Of each pair, from the draw's likeliest on, one; old policies of the others are no target."""
    batch, lesson = taught
    k = CONFIG.target.unroll_steps
    assert lesson.staleness.tolist() == [0] * 8
    changed = np.any(np.asarray(lesson.policy != batch.policy), axis=-1)
    assert changed[::2, : k + 1].all()
    assert not changed[1::2].any() and not changed[:, k + 1 :].any()
    np.testing.assert_allclose(lesson.policy[::2, : k + 1].sum(-1), 1, rtol=1e-5)
    found = targets.make_targets(lesson, CONFIG, jnp.zeros((), jnp.int32))
    every = targets.make_targets(batch, CONFIG, jnp.zeros((), jnp.int32))
    counts = np.array([2, 0] * 4, np.float32)[:, None]
    np.testing.assert_array_equal(found.policy_mask, every.policy_mask * counts)
    np.testing.assert_array_equal(found.value_mask, every.value_mask)


@pytest.mark.slow
def test_without_a_search_policies_are_those_of_acting(drawn):
    """With a ratio of 0 values and states alone are the teacher's, and each policy counts once."""
    network, state, found = drawn
    config = replace(CONFIG, reanalyse__ratio=0.0)
    steps, updates = state.actor.env_steps, state.learner.updates
    batch = replay_lib.gather(state.replay, found, steps, updates, config)
    variables = state.learner.target_variables
    teach = jax.jit(lambda v, b: reanalysis.teach(network, config, v, jax.random.key(3), b))
    lesson = teach(variables, batch)
    for name in ("policy", "search_value", "staleness"):
        np.testing.assert_array_equal(getattr(lesson, name), getattr(batch, name), err_msg=name)
    assert lesson.taught.policy_weight is None and np.any(lesson.network_value != 0)
    new, old = (targets.make_targets(b, config, updates).policy_mask for b in (lesson, batch))
    np.testing.assert_array_equal(new, old)


def test_share_of_a_batch_that_is_searched():
    """99 % of 256 are 253; at least one, and with a ratio of 0 none."""
    sizes = [
        reanalysis.searched_share(replace(CONFIG, reanalyse__ratio=ratio), size)
        for ratio, size in ((0.99, 256), (1.0, 8), (0.01, 8), (0.0, 8))
    ]
    assert sizes == [253, 8, 1, 0]


def test_bootstrap_slots_by_hand():
    """A horizon of 3; slot 4 is a final frame, and slot 5 begins another episode."""
    last = jnp.array([False] * 4 + [True] + [False] * 3)
    np.testing.assert_array_equal(targets.bootstrap_slots(last, jnp.array(3), 5), [3, 4, 4, 4, 4])
    np.testing.assert_array_equal(targets.bootstrap_slots(last, jnp.array(1), 3), [1, 2, 3])


@pytest.mark.slow
@pytest.mark.parametrize("age", [0, 250], ids=["new", "old"])
def test_a_far_horizon_encodes_what_it_reads(drawn, age):
    """With n > K + 1 slots between are left out, and the value targets are those of all slots."""
    far = replace(CONFIG, target__td_steps=9, reanalyse__ratio=1.0)
    network, state, found = drawn
    variables = state.learner.target_variables
    steps, updates = state.actor.env_steps, state.learner.updates
    batch = replay_lib.gather(state.replay, found, steps, updates, far)
    batch = batch.replace(age=jnp.full_like(batch.age, age))
    assert batch.last.any()
    lesson = reanalysis.teach(network, far, variables, jax.random.key(3), batch)
    assert lesson.taught.policy_weight is None
    size, length = batch.action.shape
    stack = jnp.arange(length)[:, None] + jnp.arange(far.env.stack)
    frames = batch.frames[:, stack]
    latent = encode(network, variables, frames_to_channels(frames.reshape(-1, *frames.shape[2:])))
    value = logits_to_scalar(infer(network, variables, "predict", latent).value_logits)
    every = batch.replace(network_value=value.reshape(size, length))
    assert np.any(np.asarray(lesson.network_value == 0) & np.asarray(every.network_value != 0))
    np.testing.assert_allclose(
        targets.td_value_target(lesson, far),
        targets.td_value_target(every, far),
        rtol=1e-4,
        atol=1e-5,
    )


def test_search_from_latents_is_the_search(drawn):
    """Without noise the search of encoded states is `search` of their observations."""
    network, state, found = drawn
    variables, key = state.learner.target_variables, jax.random.key(0)
    frames = replay_lib.stacks(state.replay, found.positions, 1, CONFIG.env.stack)
    observation = frames_to_channels(frames)
    root = reanalysis.root_of_state(
        network, variables, encode(network, variables, observation), jnp.float32
    )
    mine = reanalysis.search_from_root(
        root,
        reanalysis.make_recurrent_fn(network, CONFIG),
        CONFIG.search,
        variables,
        key,
        explore=False,
    )
    theirs = search(network, CONFIG, variables, key, observation, explore=False)
    np.testing.assert_allclose(mine.policy, theirs.policy, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_target_network_moves_a_share_of_the_way(drawn):
    """After an update: old + 0.25 (new - old), statistics too."""
    network, state, found = drawn
    agent = learning_agent(network)
    before = jax.tree.map(jnp.copy, state.learner.target_variables)
    after, _ = jax.jit(agent.learn)(state, found)
    expected = jax.tree.map(
        lambda old, new: old + 0.25 * (new - old), before, after.learner.variables
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        after.learner.target_variables,
        expected,
    )
    # And without a teacher's write-back replay keeps its policies.
    np.testing.assert_array_equal(after.replay.policy, state.replay.policy)


def learning_agent(network):
    from ez_jax.agent.agent import Agent

    return Agent(CONFIG, network, losses.active_losses(CONFIG))


# ENTROPY


def entropy_loss(logits, target):
    """Of one sample with one step."""
    known = jnp.ones((1, 1))
    logits = jnp.asarray(logits)[None, None]
    unroll = type("U", (), {"policy_logits": logits, "actions": Discrete(2)})
    wanted = type("T", (), {"policy_mask": known, "entropy": target and target / np.log(2)})
    return losses.entropy_loss(unroll, wanted, CONFIG)


def test_entropy_pushes_below_its_target_alone():
    """Two actions, log 2 = 0.6931: full strength from 0.0693 below the target on."""
    even, sure = [0.0, 0.0], [0.0, 3.0]
    p = np.exp(3) / (1 + np.exp(3))
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))  # 0.1911
    np.testing.assert_allclose(entropy_loss(sure, None), -entropy, rtol=1e-5)
    np.testing.assert_allclose(entropy_loss(sure, 0.5), -entropy, rtol=1e-5)
    np.testing.assert_allclose(entropy_loss(even, 0.5), 0.0, atol=1e-7)
    half = entropy + 0.05 * np.log(2)
    np.testing.assert_allclose(entropy_loss(sure, half), -0.5 * entropy, rtol=1e-4)
    # The strength itself has no gradient: half of the slope of the constant term.
    slopes = [
        jax.grad(lambda x, t=t: entropy_loss(x, t)[0])(jnp.array(sure))[1] for t in (half, None)
    ]
    np.testing.assert_allclose(slopes[0], 0.5 * slopes[1], rtol=1e-4)


def test_target_of_the_entropy_falls_with_the_updates():
    config = replace(CONFIG, loss__entropy_target=(0.8, 0.2))
    total = config.total_updates
    found = [float(targets.entropy_target(config, jnp.asarray(u))) for u in (0, total // 2, total)]
    np.testing.assert_allclose(found, [0.8, 0.5, 0.2], rtol=1e-2)
    assert targets.entropy_target(CONFIG, jnp.asarray(0)) is None
    for wrong in ((1.1, 0.5), (0.5, -5.1)):
        with pytest.raises(ValueError, match=r"loss.entropy-target=.* must be in \[-5, 1\]"):
            validate(replace(CONFIG, loss__entropy_target=wrong))


# OPTIMISER


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_biases_need_not_decay(name):
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for decayed, expected in (("all", True), ("matrices", False)):
        config = replace(
            PONG,
            optimizer__name=name,
            optimizer__decayed=decayed,
            optimizer__weight_decay=0.1,
            optimizer__warmup_updates=0,
        )
        optimizer = make_optimizer(config)
        state = optimizer.init(params)
        steps, state = optimizer.update(zeros, state, params)
        steps, _ = optimizer.update(zeros, state, optax.apply_updates(params, steps))
        assert bool(jnp.any(steps["kernel"] != 0))
        assert bool(jnp.any(steps["bias"] != 0)) == expected


def test_learner_copies_its_network():
    variables = {"params": {"w": jnp.ones((2, 2))}, "batch_stats": {}}
    made = learning.init(CONFIG, variables)
    assert made.target_variables["params"]["w"] is not variables["params"]["w"]
