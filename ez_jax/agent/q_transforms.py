"""Normalisation and completion of Q-values inside the tree, for both kinds of search.

`A` is the number of actions, `M` of tree nodes. `Tree` is mctx's search tree.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Tree = Any


class TreeScale(NamedTuple):
    """Statistics of a whole tree for Q-normalisation, kept in `tree.extra_data`."""

    low: Array  # [] f32, smallest Q-value
    high: Array  # [] f32, largest Q-value
    mean: Any = None  # [M] f32, value of the unvisited children of each node (muzero)
    root_gumbel: Any = None  # [A] f32, the noise that mctx keeps in the same place (gumbel)


def q_values(tree: Tree, node: Any = slice(None)) -> tuple[Array, Array]:
    """Q-values of the children of a node, or of all, and which were visited: `[A]` or `[M, A]`."""
    q = tree.children_rewards[node] + tree.children_discounts[node] * tree.children_values[node]
    return q, tree.children_visits[node] > 0


def scale_by_tree(tree: Tree) -> TreeScale:
    """EfficientZero's: range of all visited Q-values, and a value for unvisited children.

    A child that was never visited is worth the running mean
    `m(root) = mean of visited Q`, `m(node) = (m(parent) + sum of visited Q) / (visited + 1)`.
    """
    q, visited = q_values(tree)
    # m = a + b m(parent) for every node; pointer jumping composes the maps up to the root in
    # log2(M) rounds.
    total, count = jnp.sum(jnp.where(visited, q, 0.0), axis=-1), jnp.sum(visited, axis=-1)
    is_root = jnp.arange(total.shape[0]) == tree.ROOT_INDEX
    a = jnp.where(is_root, total / jnp.maximum(count, 1), total / (count + 1))
    b = jnp.where(is_root, 0.0, 1 / (count + 1))
    up = jnp.where(is_root, tree.ROOT_INDEX, jnp.maximum(tree.parents, 0))
    for _ in range(max(total.shape[0] - 1, 1).bit_length()):
        a, b, up = a + b * a[up], b * b[up], up[up]
    return TreeScale(
        jnp.min(jnp.where(visited, q, jnp.inf)), jnp.max(jnp.where(visited, q, -jnp.inf)), mean=a
    )


def scale_by_tree_and_root(tree: Tree) -> TreeScale:
    """EfficientZero-V2's: range of all visited Q-values and the root's network value."""
    q, visited = q_values(tree)
    root_value = tree.raw_values[tree.ROOT_INDEX]
    return TreeScale(
        jnp.minimum(jnp.min(jnp.where(visited, q, jnp.inf)), root_value),
        jnp.maximum(jnp.max(jnp.where(visited, q, -jnp.inf)), root_value),
        root_gumbel=tree.extra_data.root_gumbel,
    )


def qtransform_by_tree_min_max(tree: Tree, node_index: Array, *, min_range: float = 0.01) -> Array:
    """EfficientZero's Q-normalisation by the minimum and maximum of the whole tree.

    The range is floored at `min_range`, so that noise in nearly equal Q-values is not blown up; as
    long as all Q-values agree they are only clipped to [0, 1].

    Args:
      tree: _unbatched_ search tree of M nodes, `scale_by_tree` in its `extra_data`.
      node_index: scalar index of the node whose children are scored.
      min_range: smallest range to divide by.

    Returns:
      Q-values in [0, 1], `[A]`.
    """
    q, visited = q_values(tree, node_index)
    scale: TreeScale = tree.extra_data
    q = jnp.where(visited, q, scale.mean[node_index])
    # At the first simulation nothing is visited: low = inf, high = -inf, and the mean is 0.
    spread = scale.high - scale.low
    scaled = jnp.where(spread > 0, (q - scale.low) / jnp.maximum(spread, min_range), q)
    return jnp.clip(scaled, 0.0, 1.0)


def qtransform_completed_by_tree_min_max(
    tree: Tree,
    node_index: Array,
    *,
    c_visit: float = 50.0,
    c_scale: float = 0.1,
    min_range: float = 0.01,
) -> Array:
    """EfficientZero-V2's completed Q-values as a shift of logits, normalised over the whole tree.

    An action that was never visited is worth v_mix (Danihelka et al. 2022, equation 33). mctx
    stretches the Q-values of siblings to [0, 1] however close they are; with the range of the whole
    tree, floored, noise stays small.

    Args:
      tree: _unbatched_ search tree of M nodes, `scale_by_tree_and_root` in its `extra_data`.
      node_index: scalar index of the node whose children are scored.
      c_visit: see `c_scale`.
      c_scale: sigma(q) = (c_visit + max_b N(b)) c_scale q.
      min_range: smallest range to divide by.

    Returns:
      sigma of the completed Q-values, `[A]`.
    """
    q, visited = q_values(tree, node_index)
    scale: TreeScale = tree.extra_data
    prior = jnp.where(visited, jax.nn.softmax(tree.children_prior_logits[node_index]), 0.0)
    weighted_q = jnp.sum(prior * q) / jnp.maximum(jnp.sum(prior), jnp.finfo(jnp.float32).tiny)
    visits = tree.children_visits[node_index]
    total = jnp.sum(visits)
    v_mix = (tree.raw_values[node_index] + total * weighted_q) / (1 + total)
    q = jnp.where(visited, q, v_mix)
    normalised = jnp.clip(
        (q - scale.low) / jnp.maximum(scale.high - scale.low, min_range), 0.0, 1.0
    )
    return (c_visit + jnp.max(visits)) * c_scale * normalised
