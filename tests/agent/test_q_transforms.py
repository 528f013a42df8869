"""What each search does to Q-values, by hand."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest
from helpers.tables import jit, table_recurrent

from ez_jax.agent.q_transforms import (
    TreeScale,
    qtransform_by_tree_min_max,
    qtransform_completed_by_tree_min_max,
    scale_by_tree,
    scale_by_tree_and_root,
)
from ez_jax.agent.search import search_from_root
from ez_jax.config import SearchConfig


def make_tree(parents, visits, rewards, values, discount) -> mctx.Tree:
    """An unbatched tree with what the Q-transform reads."""
    rewards = np.array(rewards, np.float32)
    return mctx.Tree(
        parents=jnp.array(parents),
        children_visits=jnp.array(visits),
        children_rewards=jnp.asarray(rewards),
        children_discounts=jnp.full(rewards.shape, discount),
        children_values=jnp.array(values, jnp.float32),
        node_visits=None,
        raw_values=None,
        node_values=None,
        action_from_parent=None,
        children_index=None,
        children_prior_logits=None,
        embeddings=None,
        root_invalid_actions=None,
        extra_data=None,
    )


@functools.partial(jit, static_argnames="min_range")
def transformed(tree: mctx.Tree, min_range: float = 0.01):
    """The Q-transform at each node, `[M, A]`."""
    transform = functools.partial(qtransform_by_tree_min_max, min_range=min_range)
    tree = tree.replace(extra_data=scale_by_tree(tree))
    return jax.vmap(transform, (None, 0))(tree, jnp.arange(tree.parents.shape[0]))


def test_qtransform_over_the_whole_tree():
    """Q-values: root 3, 1, -; node 1: -, 0, -; node 3 (depth 2): -, -, 2; the rest has none. Range
    0 to 3.

    Unvisited: root (3 + 1) / 2 = 2; node 1 (2 + 0) / 2 = 1; node 3 (1 + 2) / 2 = 1.5; node 2 its
      parent's 2; node 4 1.5.
    Visit counts do not weigh. The last two nodes do not exist yet.
    """
    visits = np.zeros((7, 3), np.int32)
    visits[0], visits[1], visits[3] = [3, 1, 0], [0, 2, 0], [0, 0, 1]
    rewards, values = np.zeros((7, 3)), np.zeros((7, 3))
    rewards[0], values[0] = [1, 0, 0], [4, 2, 0]
    rewards[1], values[1] = [0, 2, 0], [0, -4, 0]
    rewards[3], values[3] = [0, 0, -1], [0, 0, 6]
    tree = make_tree([-1, 0, 0, 1, 3, -1, -1], visits, rewards, values, 0.5)
    expected = [[1, 1 / 3, 2 / 3], [1 / 3, 0, 1 / 3], [2 / 3] * 3, [0.5, 0.5, 2 / 3], [0.5] * 3]
    np.testing.assert_allclose(transformed(tree)[:5], expected, atol=1e-6)


def test_qtransform_with_small_range():
    """A range of 0.004 counts as 0.01, or as what `min_range` says; node 1 has no visited child and
    takes its parent's mean.
    """
    none = [0, 0, 0]
    tree = make_tree(
        [-1, 0, 0], [[1, 1, 0], none, none], [[0.5, 0.504, 0], none, none], np.zeros((3, 3)), 0.9
    )
    np.testing.assert_allclose(transformed(tree), [[0, 0.4, 0.2], [0.2] * 3, [0.2] * 3], atol=1e-4)
    np.testing.assert_allclose(transformed(tree, 0.001)[0], [0, 1, 0.5], atol=1e-3)


@pytest.mark.parametrize(("q", "expected"), [(0.3, 0.3), (1.7, 1.0), (-0.4, 0.0)])
def test_qtransform_without_range(q, expected):
    """One Q-value alone is only clipped, and so are the means made of it."""
    tree = make_tree([-1, 0], [[0, 1], [0, 0]], [[0, q], [0, 0]], np.zeros((2, 2)), 0.9)
    np.testing.assert_allclose(transformed(tree), [[expected] * 2] * 2, atol=1e-6)


def test_qtransform_before_the_first_visit():
    tree = make_tree([-1, -1], np.zeros((2, 2), np.int32), np.zeros((2, 2)), np.zeros((2, 2)), 0.9)
    np.testing.assert_array_equal(transformed(tree)[0], [0, 0])


def log(*probs) -> list[float]:
    return np.log(probs).tolist()


def completed(tree: mctx.Tree, transform=qtransform_completed_by_tree_min_max):
    """The Q-transform at each node, `[M, A]`."""

    def run(tree: mctx.Tree):
        tree = tree.replace(extra_data=scale_by_tree_and_root(tree))
        return jax.vmap(transform, (None, 0))(tree, jnp.arange(len(tree.parents)))

    noise = TreeScale(jnp.nan, jnp.nan, root_gumbel=jnp.arange(3.0))
    return jit(run)(tree.replace(extra_data=noise))


@pytest.mark.parametrize(
    ("root_value", "expected"), [(1.0, [1, 1 / 3, 31 / 45]), (6.0, [1 / 2, 1 / 6, 23 / 45])]
)
def test_completed_qvalues_over_the_whole_tree(root_value, expected):
    """Q-values: root 3, 1, -; node 1: -, 0, -; node 2 has none. Range 0 to 3, or to the root's
    value of 6.

    The root's v_mix, with priors 1/2 and 1/4 of the visited, is (1 + 4 (3/2 + 1/4) / (3/4)) / 5 =
    31/15, or 46/15 with value 6; that of node 1 is (2 + 2 * 0) / 3; that of node 2 its network
    value of -1, which is clipped.
    """
    visits, rewards, values = np.zeros((4, 3), np.int32), np.zeros((4, 3)), np.zeros((4, 3))
    visits[0], visits[1] = [3, 1, 0], [0, 2, 0]
    rewards[0], values[0] = [1, 0, 9], [4, 2, 9]
    rewards[1], values[1] = [9, 2, -9], [9, -4, -9]  # what stands at unvisited children is not read
    tree = make_tree([-1, 0, 0, -1], visits, rewards, values, 0.5).replace(
        raw_values=jnp.array([root_value, 2, -1, 0]),
        children_prior_logits=jnp.array([log(0.5, 0.25, 0.25)] + [[0.0] * 3] * 3),
    )
    result = completed(tree)
    np.testing.assert_allclose(result[0], 5.3 * np.array(expected), rtol=1e-5)
    np.testing.assert_allclose(
        result[1], 5.2 * np.array([2 / 3, 0, 2 / 3]) / max(3, root_value), rtol=1e-5
    )
    np.testing.assert_array_equal(result[2], np.zeros(3))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 2.04, 0.68]),
        ({"c_visit": 9.0, "c_scale": 2.0, "min_value_range": 0.008}, [0, 10, 10 / 3]),
        ({"q_scale": "siblings"}, [0, 5.1, 1.7]),
        ({"q_scale": "siblings", "c_visit": 9.0, "c_scale": 2.0}, [0, 20, 20 / 3]),
    ],
)
def test_completed_qvalues_with_small_range(settings, expected):
    """0.5, 0.504 and v_mix (0.5 + 2 * 0.502) / 3: a range of 0.004 counts as 0.01, or as the config
    says.

    mctx's range of the siblings has no floor: it stretches to 0, 1 and 1/3. Each is scaled by (50 +
    1) / 10 or (9 + 1) * 2.
    """
    config = SearchConfig(algorithm="gumbel", **settings)
    with mock.patch.object(mctx, "gumbel_muzero_policy") as policy:
        search_from_root(mock.MagicMock(), table_recurrent, config, None, None, explore=False)
    tree = make_tree(
        [-1, 0], [[1, 1, 0], [0, 0, 0]], [[0.5, 0.504, 0], [0, 0, 0]], np.zeros((2, 3)), 0.9
    )
    tree = tree.replace(raw_values=jnp.array([0.5, 0.5]), children_prior_logits=jnp.zeros((2, 3)))
    np.testing.assert_allclose(
        completed(tree, policy.call_args.kwargs["qtransform"])[0], expected, atol=2e-3
    )


def test_options_of_puct_arrive():
    config = SearchConfig(
        algorithm="muzero",
        dirichlet_alpha=0.7,
        dirichlet_fraction=0.1,
        pb_c_init=2.0,
        pb_c_base=9.0,
    )
    for explore, fraction in ((True, 0.1), (False, 0.0)):
        with mock.patch.object(mctx, "muzero_policy") as policy:
            search_from_root(
                mock.MagicMock(),
                table_recurrent,
                config,
                None,
                None,
                explore=explore,
                temperature=0.3,
            )
        given = policy.call_args.kwargs
        assert given["dirichlet_alpha"] == 0.7 and given["dirichlet_fraction"] == fraction
        assert (given["pb_c_init"], given["pb_c_base"]) == (2.0, 9.0)
        assert given["temperature"] == 0.3


def test_completed_qvalues_before_the_first_visit():
    tree = make_tree([-1, -1], np.zeros((2, 3), np.int32), np.zeros((2, 3)), np.zeros((2, 3)), 0.9)
    tree = tree.replace(raw_values=jnp.array([0.7, 0]), children_prior_logits=jnp.zeros((2, 3)))
    np.testing.assert_array_equal(completed(tree)[0], [0, 0, 0])
