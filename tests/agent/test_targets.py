"""Value targets, value prefixes and masks: by hand, and against a plain loop over random
windows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small import SMALL

from ez_jax import config as config_lib
from ez_jax import presets
from ez_jax.agent.targets import (
    horizon,
    make_targets,
    mixed_value_target,
    search_value_target,
    value_prefix,
)
from ez_jax.types import Batch

compiled = jax.jit(make_targets, static_argnums=1)


def compute(batch, config, updates=0):
    return compiled(batch, config, np.int32(updates))


def test_horizon_shrinks_with_age():
    """One step less for each 30 % of 100,000 environment steps, never below one."""
    config = config_lib.replace(presets.PAPER, env_steps=100_000)
    age = jnp.array([0, 29_999, 30_000, 60_000, 90_000, 200_000])
    for compiled in (False, True):
        fn = (jax.jit if compiled else lambda f: f)(lambda age: horizon(age, config))
        np.testing.assert_array_equal(fn(age), [5, 5, 4, 3, 2, 1])
    # The mixed target drops old data's n steps altogether; until it does they are all used.
    for off in (dict(target__off_policy_correction=False), dict(target__value="mixed")):
        np.testing.assert_array_equal(horizon(age, config_lib.replace(config, **off)), [5] * 6)
    np.testing.assert_array_equal(
        horizon(age, config_lib.replace(config, target__value="td")), [5, 5, 4, 3, 2, 1]
    )


def test_horizon_scales_with_the_run():
    """Thirds of 600 steps, four steps at most."""
    config = config_lib.replace(
        presets.PAPER, env_steps=600, target__td_steps=4, target__age_fraction=1 / 3
    )
    np.testing.assert_array_equal(
        horizon(jnp.array([0, 150, 250, 450, 650, 10_000]), config), [4, 4, 3, 2, 1, 1]
    )


@pytest.mark.parametrize(
    "restart, expected",
    [
        (1, [1, 2, 3, 4, 5]),
        (2, [1, 3, 3, 7, 5]),
        (3, [1, 3, 6, 4, 9]),
        (5, [1, 3, 6, 10, 15]),
        (9, [1, 3, 6, 10, 15]),
    ],
)
def test_value_prefix_restarts(restart, expected):
    """An undiscounted running sum."""
    np.testing.assert_allclose(value_prefix(jnp.arange(1.0, 6.0), restart), expected)


def make_config(**changes):
    """Three unroll steps, two of the value horizon, discount 1/2."""
    return config_lib.replace(
        SMALL, target__unroll_steps=3, target__td_steps=2, target__discount=0.5, **changes
    )


def make_batch(reward, discount, last, age=None, actions=3):
    """Windows `[B, L]`; the value head says 10 (slot + 1), the search 100 (slot + 1)."""
    reward, discount, last = (
        np.array(reward, np.float32),
        np.array(discount, np.float32),
        np.array(last, bool),
    )
    size, length = reward.shape
    zeros = np.zeros(size, np.int32)
    value = np.tile(10 * np.arange(1, length + 1, dtype=np.float32), (size, 1))
    policy = np.random.default_rng(0).dirichlet(np.ones(actions), (size, length)).astype(np.float32)
    return Batch(
        frames=np.zeros((size, 1, 2), np.float32),
        action=np.zeros_like(last, np.int32),
        reward=reward,
        discount=discount,
        last=last,
        policy=policy,
        search_value=10 * value,
        network_value=value,
        age=zeros if age is None else np.array(age, np.int32),
        staleness=zeros,
        weight=np.ones(size, np.float32),
    )


def test_masks_around_a_final_frame():
    """Slot 2 is final: its value is trained, its policy is not, and slot 3 belongs to another
    episode.
    """
    batch = make_batch([[1, 2, 0, 4, 5, 6]], [[1, 0, 0, 1, 1, 1]], [[0, 0, 1, 0, 0, 0]])
    targets = compute(batch, make_config())
    np.testing.assert_array_equal(targets.value_mask, [[1, 1, 1, 0]])
    np.testing.assert_array_equal(targets.state_mask, [[1, 1, 1, 0]])
    np.testing.assert_array_equal(targets.policy_mask, [[1, 1, 0, 0]])
    np.testing.assert_allclose(targets.value[:, :3], [[2, 2, 0]])
    np.testing.assert_allclose(targets.value_prefix[:, :2], [[1, 3]])
    np.testing.assert_array_equal(targets.policy, batch.policy[:, :4])


def test_masks_without_and_at_the_last_unrolled_slot():
    """A final frame at the last unrolled slot masks nothing but its policy; one behind it nothing
    at all.
    """
    reward, discount = [[1, 2, 3, 4, 5, 6]] * 3, [[1] * 6] * 3
    last = [[0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0]]
    targets = compute(make_batch(reward, discount, last), make_config())
    for mask in (targets.value_mask, targets.state_mask):
        np.testing.assert_array_equal(mask, [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])
    np.testing.assert_array_equal(targets.policy_mask, [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    np.testing.assert_allclose(targets.value_prefix, [[1, 3, 6], [1, 3, 6], [1, 1, 1]])


def test_value_prefix_restarts_at_its_horizon_and_can_be_off():
    batch = make_batch([[1, 2, 3, 4, 5, 6]], [[1] * 6], [[0] * 6])
    np.testing.assert_allclose(compute(batch, make_config()).value_prefix, [[1, 3, 6]])
    np.testing.assert_allclose(
        compute(batch, make_config(target__prefix_horizon=2)).value_prefix, [[1, 3, 3]]
    )
    off = compute(batch, make_config(network__value_prefix=False))
    np.testing.assert_allclose(off.value_prefix, [[1, 2, 3]])


def test_bootstrap_from_network_or_search():
    """z_0 = 1 + 2/2 + v_2/4, with v_2 = 30 of the value head or 300 of the search."""
    batch = make_batch([[1, 2, 3, 4, 5, 6]], [[1] * 6], [[0] * 6])
    np.testing.assert_allclose(
        compute(batch, make_config(target__bootstrap="network")).value[0, 0], 9.5
    )
    np.testing.assert_allclose(
        compute(batch, make_config(target__bootstrap="search")).value[0, 0], 77.0
    )


def test_horizon_follows_each_position_of_the_batch():
    """Of a run of 600 steps, 30 % are 180: the old window looks one step ahead, at all of its
    slots.
    """
    batch = make_batch([[1, 2, 3, 4, 5, 6]] * 2, [[1] * 6] * 2, [[0] * 6] * 2, age=[179, 180])
    value = compute(batch, make_config(env_steps=600)).value
    np.testing.assert_allclose(value, [[9.5, 13.5, 17.5, 21.5], [11, 17, 23, 29]])


# SEARCH AND MIXED VALUES


def test_search_value():
    """The value of the search at each slot, but nothing at the final frame after a terminal step
    (slot 1, not slot 0).
    """
    batch = make_batch(
        [[1, 2, 3, 4, 5, 6]] * 3,
        [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1]],
        [[0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]],
    )
    expected = [[100, 0, 300, 400], [100, 200, 300, 400], [100, 200, 300, 0]]
    np.testing.assert_array_equal(search_value_target(batch, make_config()), expected)
    np.testing.assert_array_equal(
        compute(batch, make_config(target__value="search")).value, expected
    )


@pytest.mark.parametrize(
    "updates, age, trusted",
    [
        (6, [99, 100, 10_000], [1, 1, 1]),
        (7, [99, 100, 10_000], [1, 0, 0]),
        (7, [0, 101, 99], [1, 0, 1]),
        (0, [0, 0, 500], [1, 1, 1]),
        (10_000, [100, 99, 0], [0, 1, 1]),
    ],
)
def test_mixed_value(updates, age, trusted):
    """n-step before update T1 = 7, and for what is younger than T2 = 100 steps; else the search, at
    all slots of a window.
    """
    config = make_config(target__search_value_after=7, target__fresh_steps=100)
    td, searched = (
        np.array([[1, 2], [3, 4], [5, 6]], np.float32),
        np.array([[10, 20], [30, 40], [50, 60]], np.float32),
    )
    expected = [t if ok else s for t, s, ok in zip(td, searched, trusted)]
    found = jax.jit(mixed_value_target, static_argnums=4)(
        td, searched, np.array(age, np.int32), np.int32(updates), config
    )
    np.testing.assert_array_equal(found, expected)


def test_mixed_targets_of_a_batch():
    """Fresh and old, before and after T1: z_0 = 1 + 2/2 + 30/4 with the whole horizon even for the
    old one, or 100.
    """
    batch = make_batch([[1, 2, 3, 4, 5, 6]] * 2, [[1] * 6] * 2, [[0] * 6] * 2, age=[9, 500])
    config = make_config(
        env_steps=600, target__value="mixed", target__search_value_after=3, target__fresh_steps=10
    )
    td, searched = [9.5, 13.5, 17.5, 21.5], [100, 200, 300, 400]
    np.testing.assert_allclose(compute(batch, config, 2).value, [td, td])
    np.testing.assert_allclose(compute(batch, config, 3).value, [td, searched])
    # The same ages shorten the horizon of the plain target.
    plain = make_config(env_steps=600, target__value="td")
    np.testing.assert_allclose(compute(batch, plain, 3).value, [td, [11, 17, 23, 29]])


# ABSORBING STATES

# A window of two episodes or more: discounts, final frames, and which slots are known once a
# terminal state absorbs.
ENDS = {
    "terminal": ([0, 0, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0], [1, 1, 1, 1]),
    "time-out": ([1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0], [1, 1, 0, 0]),
    "terminal, then time-out": ([0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0], [1, 1, 1, 1]),
    "time-out, then terminal": ([1, 1, 0, 0, 1, 1], [0, 1, 1, 0, 0, 0], [1, 1, 0, 0]),
    "terminal twice": ([0, 0, 0, 1, 1, 1], [0, 1, 1, 0, 0, 0], [1, 1, 1, 1]),
}


@pytest.mark.parametrize("kind", ["td", "search", "mixed"])
@pytest.mark.parametrize("end", ENDS)
def test_absorbing(end, kind):
    """Slot 1 is final: after a terminal state value and reward are 0, after a time-out nothing is
    known, policies never are.
    """
    discount, last, known = ENDS[end]
    batch = make_batch([[1, 77, 77, 77, 77, 77]], [discount], [last], age=[5])
    config = make_config(target__value=kind, target__search_value_after=0, target__fresh_steps=0)
    off, on = (
        compute(batch, config),
        compute(batch, config_lib.replace(config, target__absorbing=True)),
    )
    np.testing.assert_array_equal(on.value_mask, [known])
    np.testing.assert_array_equal(off.value_mask, [[1, 1, 0, 0]])
    for targets in (off, on):
        np.testing.assert_array_equal(targets.state_mask, [[1, 1, 0, 0]])
        np.testing.assert_array_equal(targets.policy_mask, [[1, 0, 0, 0]])
        np.testing.assert_allclose(targets.value_prefix, [[1, 1, 1]])
    terminal = end.startswith("terminal")
    first = {"td": [1, 0] if terminal else [11, 20]}.get(kind, [100, 0] if terminal else [100, 200])
    np.testing.assert_allclose(on.value[0, :2], first)
    np.testing.assert_allclose(off.value[0, :2], first)
    if terminal:
        np.testing.assert_array_equal(on.value[0, 2:], [0, 0])


def test_absorbing_without_an_end_before_the_last_unrolled_slot():
    """Nothing is absorbed inside an episode, nor by a final frame at the last unrolled slot or
    behind it.
    """
    last = [[0] * 6, [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]]
    batch = make_batch(
        [[1, 2, 3, 4, 5, 6]] * 3, [[1] * 6, [1, 1, 0, 0, 1, 1], [1, 1, 1, 0, 0, 1]], last
    )
    off, on = compute(batch, make_config()), compute(batch, make_config(target__absorbing=True))
    jax.tree.map(np.testing.assert_array_equal, off, on)
    np.testing.assert_array_equal(on.value_mask, np.ones((3, 4)))


def test_the_prefix_of_absorbed_steps_restarts_at_zero():
    """Steps 1 and 2 are summed, step 3 starts anew where nothing comes: 1, 1 + 0, 0."""
    batch = make_batch([[1, 77, 77, 77, 77, 77]], [[0, 0, 1, 1, 1, 1]], [[0, 1, 0, 0, 0, 0]])
    config = make_config(target__absorbing=True, target__prefix_horizon=2)
    np.testing.assert_allclose(compute(batch, config).value_prefix, [[1, 1, 0]])
    np.testing.assert_allclose(
        compute(batch, config_lib.replace(config, network__value_prefix=False)).value_prefix,
        [[1, 0, 0]],
    )


# AGAINST A PLAIN LOOP


def plain_targets(reward, discount, last, value, root_value, policy, age, updates, config):
    """Targets of one window by the book; None where nothing may be trained."""
    target, gamma = config.target, config.target.discount
    steps = target.td_steps
    if target.off_policy_correction and target.value != "mixed":
        steps = min(max(steps - int(age // (target.age_fraction * config.env_steps)), 1), steps)
    searched = target.value == "search" or (
        target.value == "mixed"
        and updates >= target.search_value_after
        and age >= target.fresh_steps
    )
    values, prefixes, policies, prefix = [], [], [], 0.0
    for c in range(target.unroll_steps + 1):
        ended = last[:c].any()
        absorbed = ended and target.absorbing and discount[:c][last[:c]][0] == 0
        if c:
            gained = 0.0 if ended else reward[c - 1]
            prefix = gained + (0.0 if (c - 1) % target.prefix_horizon == 0 else prefix)
            prefixes.append(None if ended and not absorbed else prefix)
        policies.append(None if ended or last[c] else policy[c])
        if ended:
            values.append(0.0 if absorbed else None)
            continue
        z, scale, slot = 0.0, 1.0, c
        for _ in range(steps):
            if last[slot]:
                break
            z += scale * reward[slot]
            scale *= gamma * discount[slot]
            slot += 1
        if searched:
            z, scale, slot, value = 0.0, 1.0, c, root_value
        terminal_end = last[slot] and discount[slot] == 0
        values.append(z + (0.0 if terminal_end else scale * value[slot]))
    return values, prefixes, policies


@pytest.mark.parametrize(
    "prefix_horizon, kind, absorbing",
    [
        (5, "td", False),
        (2, "td", True),
        (5, "search", True),
        (2, "mixed", True),
        (3, "mixed", False),
    ],
)
def test_agrees_with_a_plain_loop_on_random_windows(prefix_horizon, kind, absorbing):
    """Windows of replay with several terminal ends and time-outs, and positions of every age."""
    config = config_lib.replace(
        SMALL,
        env_steps=1000,
        target__unroll_steps=4,
        target__td_steps=3,
        target__discount=0.9,
        target__prefix_horizon=prefix_horizon,
        target__value=kind,
        target__absorbing=absorbing,
        target__search_value_after=10,
        target__fresh_steps=600,
    )
    rng = np.random.default_rng(1)
    size, length = 64, 4 + 3 + 1
    reward = rng.normal(size=(size, length)).astype(np.float32)
    discount, last = np.ones((size, length), np.float32), rng.random((size, length)) < 0.3
    terminal = last & (rng.random((size, length)) < 0.5)
    discount[terminal] = 0.0
    discount[:, :-1][terminal[:, 1:] & ~last[:, :-1]] = 0.0
    batch = make_batch(reward, discount, last, age=rng.integers(0, 1200, size))
    value, root_value = rng.normal(size=(2, size, length)).astype(np.float32)
    batch = batch.replace(network_value=value, search_value=root_value)
    targets = compute(batch, config, updates=10)

    compared = {"value": 0, "prefix": 0, "policy": 0, "masked": 0}
    for b in range(size):
        values, prefixes, policies = plain_targets(
            reward[b],
            discount[b],
            last[b],
            value[b],
            root_value[b],
            batch.policy[b],
            batch.age[b],
            10,
            config,
        )
        for k, expected in enumerate(values):
            assert targets.value_mask[b, k] == (expected is not None)
            assert targets.state_mask[b, k] == (not last[b, :k].any())
            if expected is not None:
                np.testing.assert_allclose(targets.value[b, k], expected, rtol=1e-5, atol=1e-6)
            compared["value" if expected is not None else "masked"] += 1
        for k, expected in enumerate(prefixes):
            if expected is not None:
                np.testing.assert_allclose(
                    targets.value_prefix[b, k], expected, rtol=1e-5, atol=1e-6
                )
                compared["prefix"] += 1
        for k, expected in enumerate(policies):
            assert targets.policy_mask[b, k] == (expected is not None)
            if expected is not None:
                np.testing.assert_array_equal(targets.policy[b, k], expected)
                compared["policy"] += 1
    # The windows hold what they are meant to: ends of both kinds, several in one window.
    assert terminal.sum() > 50 and (last & ~terminal).sum() > 50 and (last.sum(1) >= 2).sum() > 20
    assert min(compared.values()) > 60
