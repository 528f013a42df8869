"""The batched search against a plain tree, against known optima and against numbers worked out by
hand.
"""

import functools

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest
from helpers.plain_search import PlainSearch
from helpers.small import SMALL
from helpers.tables import TableNetwork, Tables, jit, random_tables, table_recurrent

from ez_jax.agent.search import Node, make_recurrent_fn, make_root, search, search_from_root
from ez_jax.config import SearchConfig, replace
from ez_jax.networks import Network, init_variables
from ez_jax.presets import PAPER
from ez_jax.types import EnvSpec


@functools.cache
def table_search(algorithm: str = "muzero", simulations: int = 50, explore: bool = False):
    """`(tables, key, states [B]) -> SearchOutput`, compiled."""
    config = SearchConfig(algorithm=algorithm, num_simulations=simulations)

    def run(tables, key, states):
        root = mctx.RootFnOutput(
            prior_logits=tables.logits[states], value=tables.value[states], embedding=states
        )
        return search_from_root(
            root, table_recurrent, config, tables, key, explore=explore, temperature=0.0
        )

    return jit(run)


def softmax(logits) -> np.ndarray:
    weights = np.exp(np.asarray(logits, np.float64))
    return weights / weights.sum()


def plain_table_search(tables: Tables, state: int, simulations: int = 50) -> PlainSearch:
    def recurrent(state, memory, action):
        following = tables.next_state[state, action]
        return (
            following,
            memory,
            tables.reward[state, action],
            tables.logits[following],
            tables.value[following],
        )

    tree = PlainSearch(recurrent, discount=float(tables.discount))
    return tree.run(
        state, np.zeros(0), softmax(tables.logits[state]), tables.value[state], simulations
    )


def assert_agrees(output, row: int, tree: PlainSearch, simulations: int, margin: float) -> None:
    """The row of the batched result is the plain tree, whose choices must all be clear of
    rounding.
    """
    assert tree.margin > margin
    np.testing.assert_allclose(output.policy[row] * simulations, tree.visits, atol=1e-3)
    np.testing.assert_allclose(output.search_value[row], tree.search_value, rtol=1e-4, atol=1e-5)
    assert tree.visits[output.action[row]] == tree.visits.max()


@pytest.mark.parametrize("actions", [4, 6])
@pytest.mark.parametrize(
    ("seed", "scale", "peak"), [(1, 1.0, 1), (4, 1.0, 2), (2, 0.1, 0.5), (1, 0.001, 1), (2, 0.0, 1)]
)
def test_agrees_with_plain_tree(actions, seed, scale, peak):
    """Down to rewards so small that the range is at its floor, and to none at all, where the priors
    alone decide.
    """
    tables = random_tables(seed, 16, actions, scale=scale, peak=peak)
    states = np.array([0, 3, 7, 8, 13])
    output = table_search()(tables, jax.random.key(seed), states)
    for row, state in enumerate(states):
        tree = plain_table_search(tables, state)
        assert_agrees(output, row, tree, 50, margin=5e-5)
        assert (tree.high - tree.low < 0.01) == (scale <= 0.001)
    np.testing.assert_allclose(output.network_value, tables.value[states], rtol=1e-6)


def test_agrees_with_plain_tree_on_value_prefixes():
    """A deep, narrow tree passes the depth at which prefix and memory start anew."""
    tables = random_tables(5, 24, 2, scale=0.5, peak=3.0)
    network = TableNetwork(bend=0.3)
    states = np.array([[0], [5], [11], [23]], np.uint8)
    config = replace(PAPER, search__num_simulations=50)
    run = jit(lambda t, key, s: search(network, config, t, key, s, explore=False, temperature=0.0))
    output = run(tables, jax.random.key(0), states)

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

    depths = []
    for row, state in enumerate(states[:, 0].tolist()):
        tree = PlainSearch(recurrent, discount=config.target.discount, horizon=5)
        tree.run(state, np.zeros(2), softmax(tables.logits[state]), tables.value[state], 50)
        assert_agrees(output, row, tree, 50, margin=5e-5)
        depths.append(tree.max_depth)
    assert min(depths) > 6
    assert max(depths) > 10


def sparse_tables(rewards: dict, moves: dict, discount: float) -> Tables:
    """16 states, 4 actions, a network that knows nothing: `rewards` and `moves` by (state, action),
    else 0 and state 15.
    """
    next_state, reward = np.full((16, 4), 15, np.int32), np.zeros((16, 4), np.float32)
    for place, value in rewards.items():
        reward[place] = value
    for place, state in moves.items():
        next_state[place] = state
    return Tables(
        next_state,
        reward,
        np.zeros((16, 4), np.float32),
        np.zeros(16, np.float32),
        np.float32(discount),
    )


@pytest.mark.parametrize("algorithm", ["muzero", "gumbel"])
def test_finds_best_arm(algorithm):
    """State k is a bandit whose arm k pays most and whose next pays least; the prior is uniform."""
    pays = {0: 1.0, 1: -0.5, 2: 0.1, 3: 0.4}
    tables = sparse_tables(
        {(k, (k + i) % 4): pay for k in range(4) for i, pay in pays.items()}, {}, 0.97
    )
    output = table_search(algorithm)(tables, jax.random.key(0), np.array([0, 1, 2, 3, 0]))
    assert output.action.tolist() == [0, 1, 2, 3, 0]
    assert np.argmax(output.policy, axis=-1).tolist() == [0, 1, 2, 3, 0]
    assert np.argmin(output.policy, axis=-1).tolist() == [1, 2, 3, 0, 1]


def test_finds_delayed_reward():
    """From 0 the first action pays 1 and leads into a trap; the second pays nothing and leads to 2,
    where the second pays 5.

    The best return is 0 + 0.9 * 5 = 4.5. The last two actions are as good as forbidden.
    """
    tables = sparse_tables({(0, 0): 1.0, (2, 1): 5.0}, {(0, 0): 1, (0, 1): 2}, 0.9)
    tables.logits[:, 2:] = -20
    states = np.array([0, 2, 0, 2, 0])
    outputs = {n: table_search("muzero", n)(tables, jax.random.key(0), states) for n in (50, 400)}
    outputs["gumbel"] = table_search("gumbel")(tables, jax.random.key(0), states)
    for name in (400, "gumbel"):
        assert outputs[name].action.tolist() == [1] * 5
        assert np.argmax(outputs[name].policy, axis=-1).tolist() == [1] * 5
    # The mean over all that was tried stays below the best, ever less so.
    few, many = (np.array([4.5, 5.0, 4.5, 5.0, 4.5]) - outputs[n].search_value for n in (50, 400))
    assert np.all(many > 0) and np.all(many < few / 2) and np.all(many < 0.45)


@pytest.mark.parametrize("value_prefix, scale", [(True, 1.0), (False, 1.0), (False, 7.0)])
def test_recurrent_fn_takes_prefix_differences(value_prefix, scale):
    """Along a chain; the second row is two steps ahead of the first."""
    rewards = [1.0, 0.0, -2.0, 0.5, 3.0, 4.0, -1.0, 2.5, 0.0, 1.5, -3.0, 2.0]
    tables = Tables(
        np.arange(1, 13, dtype=np.int32)[:, None],
        np.array(rewards, np.float32)[:, None],
        np.zeros((13, 1), np.float32),
        np.linspace(-6, 6, 13).astype(np.float32),
        np.float32(0),
    )
    network = TableNetwork(value_prefix, prefix_scale=scale)
    recurrent_fn = jit(make_recurrent_fn(network, PAPER))
    node = Node(jnp.zeros((2, 1)), network.initial_memory(2), jnp.zeros(2), jnp.array([0, 2]))
    prefixes = []
    for step, reward in enumerate(rewards, start=1):
        output, node = recurrent_fn(tables, jax.random.key(0), jnp.zeros(2, jnp.int32), node)
        np.testing.assert_allclose(output.reward, [reward, reward], atol=2e-5)
        np.testing.assert_allclose(output.value, np.full(2, step - 6), atol=2e-5)
        np.testing.assert_allclose(output.discount, np.full(2, 0.997**4), rtol=1e-6)
        assert node.depth.tolist() == [step, step + 2]
        prefixes.append(float(node.prefix[0]))
        if value_prefix:
            # The second entry counts steps, so it is zero only where it was made so.
            assert (node.memory[1][:, 0] == 0).tolist() == [step in (5, 10), step in (3, 8)]
            assert np.all(np.asarray(node.memory[0])[np.asarray(node.depth) % 5 == 0] == 0)
    if value_prefix:
        expected = [1.0, 1.0, -1.0, -0.5, 2.5, 4.0, 3.0, 5.5, 5.5, 7.0, -3.0, -1.0]
        np.testing.assert_allclose(prefixes, expected, atol=2e-5)
    else:
        np.testing.assert_allclose(prefixes, rewards, atol=2e-5)


def test_key_matters_only_when_exploring():
    tables = random_tables(6, 16, 4)
    states = np.array([0, 3, 7, 8, 13])
    greedy = [table_search()(tables, jax.random.key(seed), states) for seed in range(3)]
    noisy = [
        table_search(explore=True)(tables, jax.random.key(seed), states) for seed in (0, 0, 1, 2)
    ]
    np.testing.assert_array_equal(greedy[0].policy, greedy[1].policy)
    np.testing.assert_array_equal(greedy[0].policy, greedy[2].policy)
    np.testing.assert_array_equal(noisy[0].policy, noisy[1].policy)
    for a, b in [(0, 2), (0, 3), (2, 3)]:
        assert np.any(noisy[a].policy != noisy[b].policy)
    assert np.any(noisy[0].policy != greedy[0].policy)
    # Noise is drawn for each root, not for the batch.
    same = table_search(explore=True)(tables, jax.random.key(0), np.full(5, 3))
    assert len(np.unique(np.asarray(same.policy), axis=0)) > 1


def test_roots_do_not_touch_each_other():
    tables = random_tables(7, 16, 4)
    together = table_search()(tables, jax.random.key(0), np.array([0, 3, 7, 8, 13]))
    others = table_search()(tables, jax.random.key(0), np.array([13, 3, 0, 1, 2]))
    for a, b in [(1, 1), (0, 2), (4, 0)]:
        np.testing.assert_array_equal(together.policy[a], others.policy[b])
        np.testing.assert_allclose(together.search_value[a], others.search_value[b], rtol=1e-6)
        assert together.action[a] == others.action[b]


def random_variables(network: Network) -> dict:
    """Not `network.init`, whose heads say nothing and which takes long to compile."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        if "batch_stats" in name or "scale" in name:
            return jnp.full(leaf.shape, 0.0 if "mean" in name else 1.0)
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 16
        return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(fan_in), jnp.float32)

    return jax.tree_util.tree_map_with_path(
        draw, jax.eval_shape(lambda key: init_variables(network, key), jax.random.key(0))
    )


def test_half_precision_embeddings():
    """A real network; half precision stays inside the tree."""
    config = replace(SMALL, search__algorithm="muzero", search__embedding_dtype="bfloat16")
    network = Network(config.network, EnvSpec(6, (48, 48, 1), jnp.uint8, 4))
    variables = random_variables(network)
    observation = np.random.default_rng(1).integers(0, 256, (4, 48, 48, 4), np.uint8)

    @jit
    def run(variables, key, observation):
        root = make_root(network, variables, observation, config.search.embedding_dtype)
        return root, search(network, config, variables, key, observation, explore=True)

    root, output = run(variables, jax.random.key(3), observation)
    assert root.embedding.state.dtype == jnp.bfloat16
    assert root.embedding.memory[0].dtype == jnp.float32
    assert (
        output.policy.dtype
        == output.search_value.dtype
        == output.network_value.dtype
        == jnp.float32
    )
    assert output.policy.shape == (4, 6)
    np.testing.assert_allclose(output.policy.sum(axis=-1), np.ones(4), atol=1e-6)
    np.testing.assert_allclose(output.policy * 4, np.round(output.policy * 4), atol=1e-6)
    assert np.all(np.isfinite(output.search_value)) and np.all(
        output.search_value != output.network_value
    )
    assert len(np.unique(output.network_value)) == 4
