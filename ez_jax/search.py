"""Batched search in the learned model: the only file that imports mctx.

MuZero's PUCT search (Schrittwieser et al. 2020, appendix B) with EfficientZero's value prefix and
Q-normalisation, and Gumbel search (Danihelka et al. 2022), behind one function. `B` is the number
of roots, `A` of actions, `M` of tree nodes.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mctx

from ez_jax.config import Config, SearchConfig
from ez_jax.networks import Network, encode
from ez_jax.transforms import logits_to_scalar

Array = jax.Array


class SearchOutput(NamedTuple):
    action: Array  # [B] i32
    policy: Array  # [B, A] f32, the policy target
    root_value: Array  # [B] f32, mean of the network value and all returns backed up
    value: Array  # [B] f32, the network's value of the root


class Node(NamedTuple):
    """What the tree keeps of a model state."""

    state: Array  # [B, ...] latent state
    memory: Any  # value-prefix LSTM, zero at depths that are multiples of the horizon
    prefix: Array  # [B] f32, reward predicted since the last such depth
    depth: Array  # [B] i32


def make_root(
    network: Network, variables: Any, observation: Array, embedding_dtype: Any
) -> mctx.RootFnOutput:
    """Initial inference: encodes `observation [B, ..., S * C]`."""
    state = encode(network, variables, observation)
    prediction = network.apply(variables, state, method=Network.predict)
    batch = observation.shape[0]
    node = Node(
        state.astype(embedding_dtype),
        network.initial_memory(batch),
        jnp.zeros(batch),
        jnp.zeros(batch, jnp.int32),
    )
    return mctx.RootFnOutput(
        prior_logits=prediction.policy_logits,
        value=logits_to_scalar(prediction.value_logits),
        embedding=node,
    )


def make_recurrent_fn(network: Network, config: Config) -> Callable:
    """The model as mctx steps it: reward is the difference of value prefixes, which restart every
    `prefix_horizon` steps.
    """
    horizon = config.target.prefix_horizon if network.config.value_prefix else 1

    def recurrent_fn(variables, key, action, node: Node):
        del key
        parent_state = node.state.astype(network.config.dtype)
        step = network.apply(variables, parent_state, node.memory, action, method=Network.step)
        prediction = network.apply(variables, step.state, method=Network.predict)
        depth = node.depth + 1
        # Without LSTM each prediction is a single reward: a horizon of one says just that.
        prefix = logits_to_scalar(step.prefix_logits)
        reward = prefix - jnp.where(node.depth % horizon == 0, 0.0, node.prefix)
        keep = (depth % horizon != 0)[:, None]
        memory = jax.tree.map(lambda x: jnp.where(keep, x, 0.0), step.memory)
        output = mctx.RecurrentFnOutput(
            reward=reward,
            discount=jnp.full_like(reward, config.target.discount),
            prior_logits=prediction.policy_logits,
            value=logits_to_scalar(prediction.value_logits),
        )
        return output, Node(step.state.astype(node.state.dtype), memory, prefix, depth)

    return recurrent_fn


class TreeScale(NamedTuple):
    """What Q-normalisation reads of a whole tree, kept in `tree.extra_data`."""

    low: Array  # [] f32, smallest Q-value
    high: Array  # [] f32, largest Q-value
    mean: Array | None = None  # [M] f32, what the unvisited children of a node are worth (muzero)
    root_gumbel: Array | None = (
        None  # [A] f32, the noise that mctx keeps in the same place (gumbel)
    )


def each_simulation(scale: Callable[[mctx.Tree], TreeScale]) -> Callable:
    """A loop for mctx's simulations that keeps `tree.extra_data` equal to `scale` of the
    _unbatched_ tree.

    mctx asks a Q-transform at every node of a descent, during which the tree stays as it is:
    without this the whole tree would be read as often, and a search would grow with simulations
    times depth times nodes.
    """

    def loop_fn(
        lower: int, upper: int, simulate: Callable, state: tuple[Array, mctx.Tree]
    ) -> tuple[Array, mctx.Tree]:
        def scaled(state: tuple[Array, mctx.Tree]) -> tuple[Array, mctx.Tree]:
            key, tree = state
            return key, tree.replace(extra_data=jax.vmap(scale)(tree))

        return jax.lax.fori_loop(
            lower, upper, lambda i, state: scaled(simulate(i, state)), scaled(state)
        )

    return loop_fn


def q_values(tree: mctx.Tree, node: Any = slice(None)) -> tuple[Array, Array]:
    """Q-values of the children of a node, or of all: `[A]` or `[M, A]`; and which of them were
    visited.
    """
    q = tree.children_rewards[node] + tree.children_discounts[node] * tree.children_values[node]
    return q, tree.children_visits[node] > 0


def scale_by_tree(tree: mctx.Tree) -> TreeScale:
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


def scale_by_tree_and_root(tree: mctx.Tree) -> TreeScale:
    """EfficientZero-V2's: range of all visited Q-values and the root's network value."""
    q, visited = q_values(tree)
    root_value = tree.raw_values[tree.ROOT_INDEX]
    return TreeScale(
        jnp.minimum(jnp.min(jnp.where(visited, q, jnp.inf)), root_value),
        jnp.maximum(jnp.max(jnp.where(visited, q, -jnp.inf)), root_value),
        root_gumbel=tree.extra_data.root_gumbel,
    )


def qtransform_by_tree_min_max(
    tree: mctx.Tree, node_index: Array, *, min_range: float = 0.01
) -> Array:
    """EfficientZero's Q-normalisation: min and max over the whole tree, and a value for unvisited
    children.

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
    tree: mctx.Tree,
    node_index: Array,
    *,
    c_visit: float = 50.0,
    c_scale: float = 0.1,
    min_range: float = 0.01,
) -> Array:
    """Completed Q-values as a shift of logits, normalised over the whole tree with a floor
    (EfficientZero-V2).

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


class Budget(NamedTuple):
    simulations: int
    considered_actions: int  # that sequential halving starts from


def budget(config: SearchConfig, num_actions: int) -> Budget:
    """Simulations and considered actions of a search over `num_actions`."""
    if not config.by_action_count:
        return Budget(config.num_simulations, config.max_considered_actions)
    if num_actions < 4:
        return Budget(4, 2)
    return Budget(16, 4) if num_actions < 16 else Budget(16, 8)


def search(
    network: Network,
    config: Config,
    variables: Any,
    key: Array,
    observation: Array,
    *,
    explore: bool,
    temperature: Array | float = 1.0,
    num_simulations: int | None = None,
) -> SearchOutput:
    """Plans from each observation.

    Args: network: the model. config: `config.search` and `config.target` are read. variables: of
      the network. key: typed PRNG key, consumed. observation: `[B, ..., S * C]`. explore: root
      noise on or off; off is evaluation. temperature: actions are drawn from visits^(1/T), 0 takes
      the most visited (muzero); may be traced. num_simulations: instead of
      `config.search.num_simulations`.
    """
    root = make_root(network, variables, observation, config.search.embedding_dtype)
    return search_from_root(
        root,
        make_recurrent_fn(network, config),
        config.search,
        variables,
        key,
        explore=explore,
        temperature=temperature,
        num_simulations=num_simulations,
    )


def search_from_root(
    root: mctx.RootFnOutput,
    recurrent_fn: Callable,
    config: SearchConfig,
    variables: Any,
    key: Array,
    *,
    explore: bool,
    temperature: Array | float = 1.0,
    num_simulations: int | None = None,
) -> SearchOutput:
    """The search alone, on any `mctx` root and recurrent function."""
    allowed = budget(config, root.prior_logits.shape[-1])
    if config.algorithm == "gumbel":
        if config.q_scale == "siblings":
            loop_fn, qtransform = (
                jax.lax.fori_loop,
                functools.partial(
                    mctx.qtransform_completed_by_mix_value,
                    maxvisit_init=config.c_visit,
                    value_scale=config.c_scale,
                ),
            )
        else:
            loop_fn, qtransform = (
                each_simulation(scale_by_tree_and_root),
                functools.partial(
                    qtransform_completed_by_tree_min_max,
                    c_visit=config.c_visit,
                    c_scale=config.c_scale,
                    min_range=config.min_value_range,
                ),
            )
        output = mctx.gumbel_muzero_policy(
            variables,
            key,
            root,
            recurrent_fn,
            num_simulations or allowed.simulations,
            qtransform=qtransform,
            loop_fn=loop_fn,
            max_num_considered_actions=allowed.considered_actions,
            gumbel_scale=1.0 if explore else 0.0,
        )
    else:
        output = mctx.muzero_policy(
            variables,
            key,
            root,
            recurrent_fn,
            num_simulations or config.num_simulations,
            qtransform=functools.partial(
                qtransform_by_tree_min_max, min_range=config.min_value_range
            ),
            loop_fn=each_simulation(scale_by_tree),
            dirichlet_fraction=config.dirichlet_fraction if explore else 0.0,
            dirichlet_alpha=config.dirichlet_alpha,
            pb_c_init=config.pb_c_init,
            pb_c_base=config.pb_c_base,
            temperature=temperature,
        )
    return SearchOutput(
        output.action.astype(jnp.int32),
        output.action_weights,
        output.search_tree.node_values[:, 0],
        root.value,
    )
