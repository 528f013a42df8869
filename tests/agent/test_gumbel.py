"""Gumbel search (EfficientZero-V2) against a plain tree, against known optima and against numbers
worked out by hand.
"""

import functools
from unittest import mock

import jax
import mctx
import numpy as np
import pytest
from helpers.plain_gumbel import PlainGumbel, halving, softmax
from helpers.tables import TableNetwork, Tables, jit, random_tables, table_recurrent

from ez_jax.agent.budget import budget
from ez_jax.agent.search import search, search_from_root
from ez_jax.config import SearchConfig, replace
from ez_jax.presets import V2

STATES = np.arange(16)
MARGIN = 2e-5  # between a choice and the runner-up, at which rounding cannot have decided


def with_tree(run):
    """What `run()` returns, and the tree that it searched, of which the library only gives a
    summary.
    """
    policy, trees = mctx.gumbel_muzero_policy, []

    def spy(*args, **kwargs):
        output = policy(*args, **kwargs)
        trees.append(output.search_tree)
        return output

    with mock.patch.object(mctx, "gumbel_muzero_policy", spy):
        result = run()
    (tree,) = trees
    return result, tree


@functools.cache
def table_search(explore: bool, legal: tuple[bool, ...] | None = None, **settings):
    """`(tables, key, states [B]) -> (SearchOutput, visits of the root's children [B, A])`,
    compiled.
    """
    config = SearchConfig(algorithm="gumbel", **settings)
    options = dict(explore=explore, legal=None if legal is None else jax.numpy.array([legal]))

    def run(tables, key, states):
        root = mctx.RootFnOutput(
            prior_logits=tables.logits[states], value=tables.value[states], embedding=states
        )
        output, tree = with_tree(
            lambda: search_from_root(root, table_recurrent, config, tables, key, **options)
        )
        return output, tree.children_visits[:, 0]

    return jit(run)


def counted(explore: bool):
    """The search whose budget follows from the number of actions; its own numbers are not to be
    used.
    """
    return table_search(explore, by_action_count=True, num_simulations=7, max_considered_actions=3)


def fifty(explore: bool, considered: int):
    return table_search(explore, num_simulations=50, max_considered_actions=considered)


def noise(key, shape, explore: bool = True) -> np.ndarray:
    """The Gumbel noise that `mctx.gumbel_muzero_policy` draws from its key."""
    return np.asarray(jax.random.gumbel(jax.random.split(key)[1], shape)) * explore


def plain_table_search(
    tables: Tables, state: int, gumbel, simulations: int, considered: int
) -> PlainGumbel:
    def recurrent(state, memory, action):
        following = tables.next_state[state, action]
        return (
            following,
            memory,
            tables.reward[state, action],
            tables.logits[following],
            tables.value[following],
        )

    tree = PlainGumbel(recurrent, discount=float(tables.discount))
    return tree.run(
        state,
        np.zeros(0),
        tables.logits[state],
        tables.value[state],
        gumbel,
        simulations,
        considered,
    )


def assert_agree(output, visits, trees: list[PlainGumbel]) -> None:
    """The rows of the batched result are the plain trees, but for the few where mctx ranked anew or
    a choice was too close.
    """
    assert sum(tree.margin < 0 for tree in trees) <= len(trees) / 8
    clear = [row for row, tree in enumerate(trees) if tree.margin > MARGIN]
    assert len(clear) >= 0.7 * len(trees)
    for row in clear:
        assert visits[row].tolist() == trees[row].visits.tolist()
        assert output.action[row] == trees[row].action
        np.testing.assert_allclose(output.policy[row], trees[row].policy, rtol=2e-3, atol=1e-6)
        np.testing.assert_allclose(
            output.search_value[row], trees[row].search_value, rtol=1e-4, atol=1e-5
        )


# (search, actions, simulations, considered actions, explore)
CASES = [
    (counted(True), 2, 4, 2, True),
    (counted(True), 4, 16, 4, True),
    (counted(True), 6, 16, 4, True),
    (counted(True), 18, 16, 8, True),
    (fifty(False, 4), 2, 50, 4, False),
    (fifty(False, 6), 6, 50, 6, False),
]


@pytest.mark.parametrize(("run", "actions", "simulations", "considered", "explore"), CASES)
def test_agrees_with_plain_tree(run, actions, simulations, considered, explore):
    """Down to rewards so small that the range is at its floor."""
    for seed, scale, peak in [(1, 1.0, 1.0), (4, 1.0, 2.5), (2, 0.001, 0.5)]:
        tables, key = random_tables(seed, 16, actions, scale=scale, peak=peak), jax.random.key(seed)
        output, visits = run(tables, key, STATES)
        gumbel = noise(key, (16, actions), explore)
        trees = [
            plain_table_search(tables, state, gumbel[state], simulations, considered)
            for state in STATES
        ]
        assert_agree(output, visits, trees)
        assert all((tree.high - tree.low < 0.01) == (scale == 0.001) for tree in trees)
        np.testing.assert_allclose(output.network_value, tables.value, rtol=1e-6)
        # The model matters: not all act as the prior (and noise) would.
        assert (
            simulations == 4
            or scale < 1
            or np.any(output.action != np.argmax(tables.logits + gumbel, axis=-1))
        )


@pytest.mark.parametrize(
    ("run", "actions", "expected"),
    [
        (counted(True), 18, [4, 4, 2, 2, 1, 1, 1, 1] + [0] * 10),
        (counted(True), 6, [6, 6, 2, 2, 0, 0]),
        (counted(True), 4, [6, 6, 2, 2]),
        (counted(True), 2, [2, 2]),
        (fifty(False, 6), 6, [19, 18, 7, 2, 2, 2]),
    ],
)
def test_halving_visits(run, actions, expected):
    """16 simulations over 4 actions, half of them over 2; 16 over 8, the next 4 over 4 and 4 over
    2; 4 over 2.

    50 over 6, a third each: 12 over 6, 15 over 3, and the last 23 over 2.
    """
    _, visits = run(random_tables(3, 16, actions), jax.random.key(3), STATES)
    assert np.sort(visits, axis=-1)[:, ::-1].tolist() == [expected] * 16


def test_halving_of_the_plain_tree():
    assert halving(4, 16) == [(4, 8), (2, 8)]
    assert halving(8, 16) == [(8, 8), (4, 4), (2, 4)]
    assert halving(2, 4) == [(2, 4)]


def test_budget_by_action_count():
    """EfficientZero-V2's numbers; without, those of the config at any number of actions."""
    allowed = {actions: tuple(budget(V2.search, actions)) for actions in (2, 3, 4, 15, 16, 18)}
    assert allowed == {2: (4, 2), 3: (4, 2), 4: (16, 4), 15: (16, 4), 16: (16, 8), 18: (16, 8)}
    fixed = SearchConfig(algorithm="gumbel", num_simulations=32, max_considered_actions=5)
    assert {tuple(budget(fixed, actions)) for actions in (2, 4, 18)} == {(32, 5)}


@functools.cache
def network_search():
    """`(tables, bend, key, states [B, 1]) -> (SearchOutput, tree)` by value prefixes, 50
    simulations, compiled.
    """
    config = replace(V2, search__num_simulations=50, search__by_action_count=False)
    return jit(
        lambda tables, bend, key, states: with_tree(
            lambda: search(TableNetwork(bend=bend), config, tables, key, states, explore=False)
        )
    )


def test_agrees_with_plain_tree_on_value_prefixes():
    """A deep, narrow tree passes the depth at which prefix and memory start anew."""
    tables = random_tables(5, 24, 2, scale=0.5, peak=3.0)

    def recurrent(state, memory, action):
        memory = np.array(
            [memory[0] + tables.reward[state, action], 0.6 * memory[1] + 1 + 0.1 * state]
        )
        following = int(tables.next_state[state, action])
        return (
            following,
            memory,
            memory[0] + 0.3 * np.sin(memory[1]),
            tables.logits[following],
            tables.value[following],
        )

    output, found = network_search()(
        tables, 0.3, jax.random.key(0), np.arange(24, dtype=np.uint8)[:, None]
    )
    trees = [
        PlainGumbel(recurrent, discount=V2.target.discount, horizon=5).run(
            state, np.zeros(2), tables.logits[state], tables.value[state], np.zeros(2), 50, 4
        )
        for state in range(24)
    ]
    assert_agree(output, found.children_visits[:, 0], trees)
    assert sum(tree.max_depth > 6 for tree in trees if tree.margin > MARGIN) > 8


def test_prefix_restarts_along_a_chain():
    """Both actions take one step of a chain, and below the root the second is never tried: two
    branches of depth 25.

    The memory is zeroed at depths 5, 10, ..., and the reward of the step from there is the prefix
    itself.
    """
    rewards = np.array([1.0, 0.5, -2.0, 0.5, 3.0, 4.0, -1.0, 2.5, 0.25, 1.5, -3.0, 2.0] * 2)
    values = np.linspace(-6, 5.5, 24)
    logits = np.where([True, False], np.zeros((24, 2)), -20).astype(np.float32)
    logits[0] = 0
    tables = Tables(
        np.tile(np.arange(1, 25)[:, None], 2).astype(np.int32).clip(max=23),
        np.tile(rewards[:, None], 2).astype(np.float32),
        logits,
        values.astype(np.float32),
        np.float32(0),
    )
    output, tree = network_search()(tables, 0.0, jax.random.key(0), np.zeros((24, 1), np.uint8))
    depth = np.asarray(tree.embeddings.depth[0])
    assert np.bincount(depth).tolist() == [1] + [2] * 25

    chain = np.arange(25).clip(max=23)  # the state at each depth but the last
    parents, actions = np.nonzero(np.asarray(tree.children_visits[0]))
    np.testing.assert_allclose(
        tree.children_rewards[0][parents, actions], rewards[chain][depth[parents]], atol=5e-5
    )
    gamma = V2.target.discount ** np.arange(26)
    returns = (
        np.append(0, np.cumsum(gamma[:25] * rewards[chain])) + gamma * values[np.append(chain, 23)]
    )
    np.testing.assert_allclose(
        output.search_value, np.full(24, (returns[0] + 2 * returns[1:].sum()) / 51), rtol=1e-4
    )


def test_finds_the_best_first_of_three_steps():
    """Two trees of 8 paths, the model perfect in rewards but without a value or a policy;
    noiseless.

    Nodes 0 to 6 are one tree in heap order, 7 to 13 another, and beyond the third step is state 15,
    which pays nothing.
    """
    right, greedy = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        next_state, reward = np.full((16, 2), 15, np.int32), np.zeros((16, 2), np.float32)
        next_state[:3] = [[1, 2], [3, 4], [5, 6]]
        next_state[7:10] = next_state[:3] + 7
        reward[:14] = rng.normal(size=(14, 2))
        tables = Tables(
            next_state,
            reward,
            np.zeros((16, 2), np.float32),
            np.zeros(16, np.float32),
            np.float32(0.97),
        )
        best = np.zeros(16)
        for _ in range(3):
            q = reward + 0.97 * best[next_state]
            best = q.max(axis=-1)
        output, _ = fifty(False, 4)(tables, jax.random.key(seed), np.array([0, 7] * 8))
        for row, root in enumerate((0, 7)):
            if abs(q[root, 0] - q[root, 1]) > 0.3:
                right.append(
                    output.action[row] == np.argmax(q[root]) == np.argmax(output.policy[row])
                )
                greedy.append(np.argmax(reward[root]) == np.argmax(q[root]))
    assert all(right) and len(right) > 16
    assert np.mean(greedy) < 0.8


@pytest.mark.parametrize(
    ("run", "actions"), [(counted(True), 4), (fifty(False, 6), 6), (counted(True), 18)]
)
def test_policy_improves_on_exact_values(run, actions):
    """States 8 to 15 pay the same for ever, so that all values and returns are exact; 0 to 7 lead
    there.

    With all actions visited the improved policy is better at each root, whatever the noise; with
    some unvisited it is better in the mean.
    """
    gains = []
    for seed in range(6):
        tables = random_tables(seed, 16, actions)
        tables.next_state[:8] = 8 + tables.next_state[:8] // 2
        tables.next_state[8:] = np.arange(8, 16)[:, None]
        tables.reward[8:] = (1 - tables.discount) * tables.value[8:, None]
        prior = np.stack([softmax(logits) for logits in tables.logits])
        q = tables.reward + tables.discount * tables.value[tables.next_state]
        tables.value[:8] = np.sum(prior * q, axis=-1)[:8]
        output, _ = run(tables, jax.random.key(seed), STATES)
        gains.append(np.sum((output.policy - prior) * q, axis=-1)[:8])
        np.testing.assert_allclose(output.search_value[8:], tables.value[8:], rtol=1e-4)
    assert np.mean(gains) > 0.5
    assert actions == 18 or np.min(gains) > 0


def one_state(prior, reward) -> Tables:
    """A state that leads to itself, of value 0, with the prior and the rewards of its actions."""
    count = len(prior)
    return Tables(
        np.zeros((1, count), np.int32),
        np.array([reward], np.float32),
        np.log([prior], dtype=np.float32),
        np.zeros(1, np.float32),
        np.float32(0.5),
    )


def test_a_share_of_the_uniform_policy_in_the_prior():
    """By hand: .8 of the prior and .2 of the uniform policy; where all actions pay the same it is
    the target. A noiseless search leaves the prior as it is."""
    tables = one_state([1 - 2e-9, 1e-9, 1e-9, 1e-30], 4 * [0.0])
    share = dict(num_simulations=8, max_considered_actions=4, uniform_fraction=0.2)
    output, _ = table_search(True, **share)(tables, jax.random.key(0), np.zeros(1, int))
    np.testing.assert_allclose(output.policy[0], [0.85, 0.05, 0.05, 0.05], rtol=1e-5)
    output, _ = table_search(False, **share)(tables, jax.random.key(0), np.zeros(1, int))
    np.testing.assert_allclose(output.policy[0], [1, 1e-9, 1e-9, 1e-30], rtol=1e-4)


def test_the_share_is_one_of_legal_actions():
    """By hand: the prior of the two legal ones is .75, .25; .8 of it and .2 of .5, .5."""
    tables = one_state([0.3, 0.1, 0.35, 0.25], 4 * [0.0])
    share = dict(num_simulations=8, max_considered_actions=4, uniform_fraction=0.2)
    legal = (True, True, False, False)
    output, _ = table_search(True, legal, **share)(tables, jax.random.key(0), np.zeros(1, int))
    np.testing.assert_allclose(output.policy[0], [0.7, 0.3, 0, 0], rtol=1e-5)


def test_the_share_finds_what_the_policy_has_lost():
    """The third action alone pays, and a policy that has settled on the others would never learn
    it: its probability stays below 1e-12 in the target of any search without the share."""
    tables = one_state([0.7, 0.3, 1e-20, 1e-20], [0.0, 0.0, 1.0, 0.0])
    states, few = np.zeros(256, int), dict(num_simulations=8, max_considered_actions=2)
    lost, _ = table_search(True, **few)(tables, jax.random.key(0), states)
    assert np.max(lost.policy[:, 2]) < 1e-12 and not np.any(lost.action == 2)
    found, _ = table_search(True, **few, uniform_fraction=0.2)(tables, jax.random.key(0), states)
    tried = np.mean(found.action == 2)
    assert 0.02 < tried < 0.3  # the share gives it .05, and two are tried
    assert np.all(found.policy[found.action == 2, 2] > 0.5)
