"""Actions that are vectors: the squashed Gaussian, its targets, and the search over candidates."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest

from ez_jax.actions import Continuous
from ez_jax.agent.agent import Agent
from ez_jax.agent.budget import Budget, root_draws
from ez_jax.agent.candidates import chosen, policy_target, sample
from ez_jax.agent.search import Node, search_from_root, tree_from_root
from ez_jax.config import replace, validate
from ez_jax.networks import Network
from ez_jax.presets import CLASSIC
from ez_jax.types import EnvSpec

HEAD = jnp.array([[0.3, -0.4, 0.2, -2.0]])  # of two entries
CONFIG = replace(CLASSIC, search__num_simulations=32, search__max_considered_actions=16).search


def test_refusals():
    with pytest.raises(ValueError, match="wide-actions=17 is out of range: it must be at most"):
        validate(replace(CLASSIC, search__wide_actions=17))
    config = replace(CLASSIC, search__algorithm="muzero")
    spec = EnvSpec(0, (3,), np.float32, 1, action_size=1)
    with pytest.raises(ValueError, match="actions that are vectors need gumbel"):
        Agent(config, Network(config.network, spec), {})


def test_the_gaussian_by_hand():
    mean, deviation = Continuous(2).gaussian(HEAD)
    np.testing.assert_allclose(mean[0], 5 * np.tanh([0.06, -0.08]), rtol=1e-5)
    softplus = np.log1p(np.exp([1.2, -1.0]))
    np.testing.assert_allclose(deviation[0], softplus + 0.1, rtol=1e-5)


def test_density_sums_to_one_and_gives_the_entropy():
    """On a grid of (-1, 1), by the midpoint rule; and the quadrature of the entropy."""
    one = Continuous(1)
    head = jnp.array([0.3, -0.5])
    grid = ((np.arange(200_000) + 0.5) / 100_000 - 1)[:, None]
    grid = grid[np.abs(grid[:, 0]) < 0.999]
    log_density = np.asarray(one.log_density(head[None], jnp.asarray(grid, jnp.float32)))
    density = np.exp(log_density)
    np.testing.assert_allclose(density.sum() / 100_000, 1.0, atol=2e-3)
    entropy = -(density * log_density).sum() / 100_000
    np.testing.assert_allclose(one.entropy(head), entropy, atol=1e-2)
    # Entries are independent.
    two = Continuous(2).entropy(jnp.array([0.3, 0.3, -0.5, -0.5]))
    np.testing.assert_allclose(two, 2 * one.entropy(head), rtol=1e-5)


def test_cross_entropy_is_the_weighted_density():
    two = Continuous(2)
    candidates = jnp.array([[[0.1, 0.2], [-0.5, 0.9]]])
    target = two.target(candidates, jnp.array([[0.25, 0.75]]))
    assert target.shape == (1, two.target_size(2)) == (1, 6)
    log_density = two.log_density(HEAD[:, None], candidates)[0]
    expected = -0.25 * log_density[0] - 0.75 * log_density[1]
    np.testing.assert_allclose(two.cross_entropy(HEAD, target)[0], expected, rtol=1e-5)
    again, weights = two.candidates(target)
    np.testing.assert_array_equal(again, candidates)
    np.testing.assert_array_equal(weights, [[0.25, 0.75]])


def test_wide_draws_are_the_last():
    drawn = Continuous(1).draw(jax.random.key(0), jnp.zeros((500, 2)), 16, 12, 3.0)
    deviation = np.log1p(np.e) + 0.1
    spread = np.std(np.arctanh(np.asarray(drawn[:, :4])))
    np.testing.assert_allclose(spread, deviation, rtol=0.1)
    assert np.abs(drawn).max() <= 0.9991
    assert np.mean(np.abs(drawn[:, 4:]) > 0.9) > 2 * np.mean(np.abs(drawn[:, :4]) > 0.9)


def test_nodes_below_the_root_have_few_candidates():
    prior, candidates = sample(Continuous(2), CONFIG, jax.random.key(0), HEAD, 2, 0)
    assert prior.shape == (1, 16) and candidates.shape == (1, 16, 2)
    assert prior[0, :2].tolist() == [0, 0] and np.all(prior[0, 2:] < -1e8)
    picked = chosen(candidates, jnp.array([1]))
    np.testing.assert_array_equal(picked, candidates[:, 1])


def test_no_more_candidates_than_a_search_tries():
    """Of fewer than configured three in four are wide, as of all."""
    draws = {
        allowed: tuple(root_draws(CONFIG, Budget(*allowed)))
        for allowed in ((32, 16), (16, 99), (32, 4), (8, 16), (1, 16))
    }
    assert draws == {
        (32, 16): (16, 12),
        (16, 99): (16, 12),
        (32, 4): (4, 3),
        (8, 16): (8, 6),
        (1, 16): (1, 0),
    }


@pytest.mark.parametrize(
    "changes, simulations, number",
    [
        ({}, None, 16),
        ({"max_considered_actions": 4}, None, 4),
        ({}, 8, 8),
        ({"by_action_count": True}, None, 8),
    ],
    ids=["all", "considered", "simulated", "by count"],
)
def test_every_candidate_is_tried(changes, simulations, number):
    """Each draw has a visit and each visit is of a draw, wide ones among them."""
    one, roots = Continuous(1), 2
    config = dataclasses.replace(CONFIG, **changes)

    def recurrent_fn(variables, key, index, node):
        prior, candidates = sample(one, config, key, jnp.zeros((roots, 2)), 2, 0)
        zeros = jnp.zeros(roots)
        output = mctx.RecurrentFnOutput(
            reward=zeros, discount=zeros + 0.9, prior_logits=prior, value=zeros
        )
        return output, node._replace(candidates=candidates)

    node = Node(jnp.zeros((roots, 1)), (), jnp.zeros(roots), jnp.zeros(roots, jnp.int32))
    root = mctx.RootFnOutput(
        prior_logits=jnp.zeros((roots, 2)), value=jnp.zeros(roots), embedding=node
    )
    key = jax.random.key(0)
    output, candidates, wide = tree_from_root(
        root, recurrent_fn, config, {}, key, explore=True, num_simulations=simulations, actions=one
    )
    visits = np.asarray(output.search_tree.children_visits[:, 0])
    assert (visits[:, :number] > 0).all() and not visits[:, number:].any()
    share = number * 3 // 4
    drawn = one.draw(
        jax.random.split(key)[1], root.prior_logits, number, share, config.wide_deviation
    )
    np.testing.assert_allclose(candidates[:, :number], drawn, rtol=1e-6)
    assert wide == 0.75 and candidates.shape == (roots, 16, 1)
    assert (np.asarray(output.action) < number).all()


@pytest.mark.parametrize("kind", ["best", "weights", "corrected"])
def test_policy_targets(kind):
    """The best alone; the search's weights; these times pi / beta."""
    one = Continuous(1)
    config = replace(
        CLASSIC, search__policy_target=kind, search__sampled_actions=4, search__wide_actions=2
    ).search
    head = jnp.array([[0.0, 0.0]])
    candidates = jnp.array([[[0.0], [0.5], [-0.5], [0.99]]])
    weights = jnp.array([[0.1, 0.2, 0.3, 0.4]])
    target = policy_target(one, config, head, candidates, weights, jnp.array([3]), 0.5)
    found = one.candidates(target)[1][0]
    density = np.exp(one.log_density(head[:, None], candidates))[0]
    wide = np.exp(one.log_density(head[:, None], candidates, 3.0))[0]
    corrected = weights[0] * density / (0.5 * density + 0.5 * wide)
    expected = {
        "best": [0, 0, 0, 1],
        "weights": weights[0],
        "corrected": corrected / corrected.sum(),
    }[kind]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_search_finds_the_best_candidate():
    """One step decides: reward -(a - 0.6)^2, then nothing. The child's reward is of its vector. A
    noiseless game has the same candidates, wide ones among them.
    """
    one, roots = Continuous(1), 8

    def recurrent_fn(variables, key, index, node):
        action = chosen(node.candidates, index)
        paid = node.depth == 0
        reward = jnp.where(paid, -jnp.sum((action - 0.6) ** 2, axis=-1), 0.0)
        prior, candidates = sample(one, CONFIG, key, jnp.zeros((roots, 2)), 2, 0)
        output = mctx.RecurrentFnOutput(
            reward=reward,
            discount=jnp.ones(roots),
            prior_logits=prior,
            value=jnp.zeros(roots),
        )
        return output, node._replace(depth=node.depth + 1, candidates=candidates)

    node = Node(jnp.zeros((roots, 1)), (), jnp.zeros(roots), jnp.zeros(roots, jnp.int32))
    root = mctx.RootFnOutput(
        prior_logits=jnp.zeros((roots, 2)), value=jnp.zeros(roots), embedding=node
    )
    found, noiseless = (
        search_from_root(
            root, recurrent_fn, CONFIG, {}, jax.random.key(0), explore=explore, actions=one
        )
        for explore in (True, False)
    )
    np.testing.assert_array_equal(found.action, noiseless.action)
    np.testing.assert_array_equal(found.policy, noiseless.policy)
    candidates, weights = one.candidates(found.policy)
    assert candidates.shape == (roots, 16, 1) and found.action.shape == (roots, 1)
    distance = np.abs(np.asarray(candidates[..., 0]) - 0.6)
    np.testing.assert_array_equal(np.argmax(weights, axis=1), np.argmin(distance, axis=1))
    best = np.take_along_axis(np.asarray(candidates), np.argmin(distance, axis=1)[:, None, None], 1)
    np.testing.assert_array_equal(found.action, best[:, 0])


def riccati(a, b, reward, cost, discount):
    """Of x' = a x + b u with cost `reward` x^2 + `cost` u^2: the value -P x^2 and u = -K x."""
    p = reward
    for _ in range(1000):
        gain = discount * a * b * p / (cost + discount * b**2 * p)
        p = reward + discount * a**2 * p - discount * a * b * p * gain
    return p, gain


def improved_policy(kind, wide, iterations=60, seed=0):
    """Policy iteration on a linear-quadratic problem whose model and optimal value are known.

    The head is mean = w x + c and one deviation for all states. Returns the mean action of states
    that are spread evenly, the optimal one, and the deviation.
    """
    a, b, cost, discount, roots = 1.0, 0.5, 0.1, 0.9, 64
    p, gain = riccati(a, b, 1.0, cost, discount)
    one = Continuous(1)
    config = replace(
        CLASSIC,
        search__num_simulations=32,
        search__max_considered_actions=16,
        search__wide_actions=wide,
        search__policy_target=kind,
    ).search

    def head(theta, x):
        deviation = jnp.broadcast_to(theta[2], x.shape)
        return jnp.stack([theta[0] * x + theta[1], deviation], axis=-1)

    def recurrent_fn(theta, key, index, node):
        x, u = node.state[:, 0], chosen(node.candidates, index)[:, 0]
        later = a * x + b * u
        prior, candidates = sample(one, config, key, head(theta, later), 2, 0)
        output = mctx.RecurrentFnOutput(
            reward=-(x**2 + cost * u**2),
            discount=jnp.full(roots, discount),
            prior_logits=prior,
            value=-p * later**2,
        )
        return output, node._replace(state=later[:, None], candidates=candidates)

    def loss(theta, x, target):
        return jnp.mean(one.cross_entropy(head(theta, x), target))

    @jax.jit
    def improve(theta, key):
        x_key, search_key = jax.random.split(key)
        x = jax.random.uniform(x_key, (roots,), minval=-0.6, maxval=0.6)
        node = Node(x[:, None], (), jnp.zeros(roots), jnp.zeros(roots, jnp.int32))
        root = mctx.RootFnOutput(prior_logits=head(theta, x), value=-p * x**2, embedding=node)
        found = search_from_root(
            root, recurrent_fn, config, theta, search_key, explore=True, actions=one
        )

        def descend(_, theta):
            return theta - 0.1 * jnp.clip(jax.grad(loss)(theta, x, found.policy), -1, 1)

        return jax.lax.fori_loop(0, 10, descend, theta)

    theta = jnp.array([0.0, 0.5, 0.0])
    for key in jax.random.split(jax.random.key(seed), iterations):
        theta = improve(theta, key)
    x = jnp.linspace(-0.6, 0.6, 13)
    mean, deviation = one.gaussian(head(theta, x)[:, None].reshape(-1, 2))
    return np.tanh(mean[:, 0]), -gain * np.asarray(x), float(deviation[0, 0])


def test_policy_iteration_finds_the_linear_quadratic_optimum():
    """Up to what tanh of a line can show of a line, .1 here."""
    found, optimum, deviation = improved_policy("best", 12)
    assert np.abs(found - optimum).max() < 0.15
    assert deviation < 0.35


def test_wide_draws_inflate_the_deviation_unless_weights_are_corrected():
    """Weights of candidates that are three in four wide draws teach the width of these."""
    start = float(np.log1p(np.e)) + 0.1
    assert improved_policy("weights", 12)[2] > 1.4 * start
    assert improved_policy("corrected", 12)[2] < 0.85 * start


def test_each_node_is_the_model_along_a_candidate_of_its_parent():
    """x' = x + u / 2 from x = 0.4, with the value -x^2: states, values and rewards of all nodes by
    hand, and one key's tree by number.
    """
    one = Continuous(1)
    config = replace(
        CLASSIC,
        search__num_simulations=16,
        search__max_considered_actions=8,
        search__sampled_actions=8,
        search__wide_actions=4,
    ).search

    def recurrent_fn(variables, key, index, node):
        u = chosen(node.candidates, index)
        later = node.state + 0.5 * u
        prior, candidates = sample(one, config, key, jnp.zeros((1, 2)), 2, 0)
        output = mctx.RecurrentFnOutput(
            reward=-0.1 * u[:, 0] ** 2,
            discount=jnp.full(1, 0.9),
            prior_logits=prior,
            value=-(later[:, 0] ** 2),
        )
        return output, node._replace(state=later, candidates=candidates)

    node = Node(jnp.full((1, 1), 0.4), (), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    root = mctx.RootFnOutput(
        prior_logits=jnp.zeros((1, 2)), value=jnp.full(1, -0.16), embedding=node
    )
    search = functools.partial(tree_from_root, root, recurrent_fn, config, {})
    grown = search(jax.random.key(0), explore=True, actions=one).output.search_tree
    tree = jax.tree.map(lambda x: np.asarray(x[0]), grown)

    state, candidates = tree.embeddings.state[:, 0], tree.embeddings.candidates[..., 0]
    for number in range(1, 17):
        parent, action = tree.parents[number], tree.action_from_parent[number]
        u = candidates[parent, action]
        np.testing.assert_allclose(state[number], state[parent] + 0.5 * u, rtol=1e-6)
        np.testing.assert_allclose(tree.raw_values[number], -(state[number] ** 2), rtol=1e-5)
        np.testing.assert_allclose(tree.children_rewards[parent, action], -0.1 * u**2, rtol=1e-5)
        assert action < (8 if parent == 0 else 2)
    drawn = [-0.998, -0.9937, 0.2826, -0.4618, -0.9969, -0.999, -0.999, 0.851]
    np.testing.assert_allclose(candidates[0], drawn, atol=1e-3)
    assert tree.children_visits[0].tolist() == [2, 2, 1, 4, 4, 1, 1, 1]
    assert tree.parents[1:].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 4, 2, 5, 1, 4, 5, 11, 9]
    assert tree.action_from_parent[9:].tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    again = search(jax.random.key(0), explore=True, actions=one).output.search_tree
    chex.assert_trees_all_equal(again.children_visits, grown.children_visits)
