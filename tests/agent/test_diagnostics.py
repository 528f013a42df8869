"""Diagnostics against brute force and against numbers by hand; and on Catch the targets are the
true returns.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.loops import advance, start
from helpers.scripted import SLOTS, STEPS, kept, make_config, play
from helpers.small import SMALL
from helpers.tiny import CATCH
from test_losses import make_targets, make_unroll

from ez_jax.agent import diagnostics, priorities
from ez_jax.agent import replay as replay_lib
from ez_jax.agent.targets import make_targets as targets_of
from ez_jax.agent.transforms import scalar_to_probs
from ez_jax.config import NetworkConfig, replace
from ez_jax.types import Batch, EnvSpec

DISCOUNT = 0.9
NETWORK = NetworkConfig(support=5)


def slowly(replay, lane: int, slot: int, newest: int) -> float | None:
    """The return after a slot, step by step; None where the end of its episode is not written
    yet.
    """
    total, factor = 0.0, 1.0
    for time in range(slot, newest + 1):
        at = lane, time % SLOTS
        if replay.last[at]:
            return total + (
                factor * float(replay.search_value[at]) if replay.discount[at] > 0 else 0.0
            )
        total, factor = (
            total + factor * float(replay.reward[at]),
            factor * DISCOUNT * float(replay.discount[at]),
        )
    return None


@pytest.mark.parametrize("steps", STEPS)
def test_realised_returns(steps):
    """Terminal ends, time-outs, unfinished episodes and a ring that has turned."""
    _, _, replay = play(steps)
    returns, known = map(
        np.asarray, jax.jit(diagnostics.realised_returns, static_argnums=1)(replay, DISCOUNT)
    )
    replay, seen = jax.device_get(replay), set()
    assert not known[
        :, [t % SLOTS for t in range(SLOTS) if t not in kept(steps) and steps < SLOTS]
    ].any()
    for lane in range(2):
        for slot in kept(steps):
            expected = slowly(replay, lane, slot, steps - 1)
            assert known[lane, slot % SLOTS] == (expected is not None)
            if expected is not None:
                np.testing.assert_allclose(returns[lane, slot % SLOTS], expected, rtol=1e-5)
            seen.add(expected is None)
    assert seen == {True, False} or steps < 4


def test_rewards_to_come():
    """Three steps, discount 1/2: of the episode alone, whose last step earns 4."""
    config = replace(SMALL, env__num_envs=1, replay__capacity=64)
    spec = EnvSpec(3, (16, 16, 1), np.uint8, 2)
    replay = replay_lib.empty(config, spec, 1)
    reward = jnp.zeros((1, 64)).at[0, :7].set(jnp.array([1.0, 0, 2, 4, 0, 8, 16]))
    discount = jnp.ones((1, 64)).at[0, 3:5].set(0.0)
    last = jnp.zeros((1, 64), bool).at[0, 4].set(True)
    replay = replay.replace(reward=reward, discount=discount, last=last)
    found = diagnostics.rewards_to_come(replay, 0.5, 3)
    assert found.shape == (1, 61)
    np.testing.assert_allclose(found[0, :6], [1.5, 2, 4, 4, 0, 16])


def test_search_values_are_compared_with_returns():
    """A bias put into the search values is found again, in steps of the newest tenth alone."""
    steps = STEPS[-1]
    config = make_config()
    _, _, replay = play(steps)
    returns, known = diagnostics.realised_returns(replay, config.target.discount)
    replay = replay.replace(
        search_value=jnp.where(replay.last, replay.search_value, returns + 0.25)
    )
    recent = replay.replace(born=jnp.full_like(replay.born, 10_000))
    found = diagnostics.of_replay(recent, jnp.asarray(10_000), jnp.asarray(100), config)
    np.testing.assert_allclose(
        [found["search/value_bias"], found["search/value_error"]], 0.25, rtol=1e-3
    )
    chosen = known & ~replay.last
    np.testing.assert_allclose(
        found["search/return"], np.asarray(returns)[np.asarray(chosen)].mean(), rtol=1e-4
    )
    old = diagnostics.of_replay(
        replay.replace(born=jnp.zeros_like(replay.born)),
        jnp.asarray(10_000),
        jnp.asarray(100),
        config,
    )
    assert float(old["search/value_bias"]) == 0.0
    stored = ~np.asarray(replay.last)
    reward = jnp.where(replay.last, 5.0, jnp.arange(replay.last.size).reshape(stored.shape) % 3 - 1)
    played = diagnostics.of_replay(
        recent.replace(reward=reward), jnp.asarray(10_000), jnp.asarray(100), config
    )
    assert "play/idle" not in played
    lanes = replay.reward.shape[0]
    alone = jnp.zeros_like(replay.reward).at[0].set(-1.0)  # of these lanes one has rewards
    repeats = replace(config, cycle__idle_steps=4)
    waiting = diagnostics.of_replay(
        replay.replace(reward=alone), jnp.asarray(10_000), jnp.asarray(100), repeats
    )
    np.testing.assert_allclose(waiting["play/idle"], 1 - 1 / lanes)
    for name, sign in (("play/gains", 1), ("play/losses", -1)):
        expected = 1000 * np.mean(np.asarray(reward)[stored] == sign)
        np.testing.assert_allclose(played[name], expected, rtol=1e-5)
        assert expected > 0 and float(old[name]) == 0.0
    np.testing.assert_allclose(
        found["replay/policy_age"], (100 - np.asarray(replay.refreshed))[stored].mean(), rtol=1e-5
    )
    np.testing.assert_allclose(
        found["replay/oldest_policy"], (100 - np.asarray(replay.refreshed))[stored].max()
    )


def make_batch(weight=(1.0, 1.0)):
    """Only what the diagnostics read."""
    absent = dict.fromkeys(
        (
            "frames",
            "action",
            "reward",
            "discount",
            "last",
            "policy",
            "search_value",
            "network_value",
        )
    )
    return Batch(
        **absent, age=jnp.array([3, 5]), staleness=jnp.array([1, 2]), weight=jnp.array(weight)
    )


def test_policy_and_priorities():
    found = diagnostics.of_unroll(make_unroll(), make_targets(), make_batch((1.0, 0.0)), NETWORK)
    np.testing.assert_allclose(found["policy/entropy"], np.log(3), rtol=1e-6)
    np.testing.assert_allclose(found["policy/kl"], 0.0, atol=1e-6)
    np.testing.assert_allclose(found["replay/effective_samples"], 0.5)  # one sample of two counts
    np.testing.assert_allclose([found["replay/age"], found["replay/staleness"]], [4.0, 1.5])
    sure = make_targets(
        policy=jnp.tile(jnp.array([1.0, 0, 0]), (2, 3, 1)),
        policy_mask=jnp.array([[1.0, 0, 0], [0, 0, 0]]),
    )
    found = diagnostics.of_unroll(make_unroll(), sure, make_batch(), NETWORK)
    np.testing.assert_allclose(
        found["policy/kl"], np.log(3), rtol=1e-6
    )  # a mean over what is not masked


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_prefix_error_by_depth(scale):
    prefix = jnp.array([[0.0, 2.0], [0.0, -1.0]])
    network = NetworkConfig(support=2, prefix_scale=scale)
    exact = jnp.log(scalar_to_probs(prefix, network, scale) + 1e-9)
    targets = make_targets(value_prefix=jnp.array([[1.0, 2.5], [0.5, -1.0]]))
    found = diagnostics.of_unroll(make_unroll(prefix_logits=exact), targets, make_batch(), network)
    np.testing.assert_allclose(
        [found["prefix_error/1"], found["prefix_error/2"]], [0.75, 0.25], atol=1e-3
    )
    masked = targets.replace(value_mask=jnp.array([[1.0, 1, 1], [1, 0, 0]]))
    found = diagnostics.of_unroll(make_unroll(prefix_logits=exact), masked, make_batch(), network)
    np.testing.assert_allclose(
        [found["prefix_error/1"], found["prefix_error/2"]], [1.0, 0.5], atol=1e-3
    )


def test_collapse_of_the_projection_is_seen():
    collapsed = diagnostics.of_unroll(make_unroll(), make_targets(), make_batch(), NETWORK)
    np.testing.assert_allclose(
        [collapsed["projection/cosine"], collapsed["projection/std"]], [1.0, 0.0], atol=1e-5
    )
    # Four directions that cancel: as much spread as there can be.
    spread = jnp.array([[[1.0, 0], [-1, 0]], [[0, 5], [0, -5]]])
    found = diagnostics.of_unroll(
        make_unroll(projection=-spread, target_projection=spread),
        make_targets(),
        make_batch(),
        NETWORK,
    )
    np.testing.assert_allclose(
        [found["projection/cosine"], found["projection/std"]], [-1.0, 1.0], atol=1e-5
    )
    without = diagnostics.of_unroll(
        make_unroll(projection=None, target_projection=None), make_targets(), make_batch(), NETWORK
    )
    assert not any(name.startswith("projection") for name in without)


def test_targets_beyond_the_support_are_counted():
    """h(x) = sqrt(x + 1) - 1 + 0.001 x: h(35) = 5.035 and h(34.6) = 5.0012 leave a support of 5,
    h(30) = 4.598 does not; of ten targets eight are known here, and two of these lie beyond.
    """
    targets = make_targets(
        value=jnp.array([[35.0, 30.0, 1e6], [0.0, -30.0, 0.0]]),
        value_prefix=jnp.array([[-34.6, 1.0], [0.0, 0.0]]),
        value_mask=jnp.array([[1.0, 1, 0], [1, 1, 1]]),
    )
    found = diagnostics.of_unroll(make_unroll(), targets, make_batch(), NETWORK)
    # The mask of the second value, 0, also hides the second prefix.
    np.testing.assert_allclose(found["target/clipped"], 2 / 8, rtol=1e-6)
    np.testing.assert_allclose(found["target/largest"], 5.035, rtol=1e-5)
    closer = NetworkConfig(support=5, prefix_scale=2.0)
    found = diagnostics.of_unroll(make_unroll(), targets, make_batch(), closer)
    np.testing.assert_allclose(found["target/clipped"], 2 / 8, rtol=1e-6)
    np.testing.assert_allclose(found["target/largest"], 2 * 5.001174, rtol=1e-5)


def test_gradient_by_module():
    found = diagnostics.of_gradient({"a": {"w": jnp.array([3.0, 4.0])}, "b": jnp.zeros(2)})
    assert {name: float(x) for name, x in found.items()} == {"gradient/a": 5.0, "gradient/b": 0.0}


@pytest.mark.slow
def test_targets_are_the_true_returns_of_catch():
    """With a horizon longer than an episode nothing is estimated: the target is the discounted
    landing, for each position.
    """
    config = replace(
        CATCH,
        target__td_steps=10,
        target__value="td",
        target__off_policy_correction=False,
        cycle__warmup_steps=400,
        env_steps=500,
    )
    state, made = advance(*start(config, devices=1))
    assert not made
    returns, known = diagnostics.realised_returns(state.replay, config.target.discount)
    drawn = priorities.sample(state.replay, jax.random.key(1), 64, config)
    positions = drawn.positions
    batch = replay_lib.gather(state.replay, drawn, state.actor.env_steps, jnp.asarray(0), config)
    targets = targets_of(batch, config, jnp.asarray(0))
    place = positions.time % state.replay.action.shape[1]
    assert bool(known[positions.lane, place].all())
    np.testing.assert_allclose(targets.value[:, 0], returns[positions.lane, place], rtol=1e-5)
    left = 9 - np.asarray(state.replay.offset[positions.lane, place])  # steps to the landing
    np.testing.assert_allclose(
        np.abs(targets.value[:, 0]), config.target.discount ** (left - 1), rtol=1e-5
    )
