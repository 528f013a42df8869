"""The tree of one search, node by node."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from ez_jax.agent.search import make_recurrent_fn, make_root, tree_from_root
from ez_jax.config import Config, replace
from ez_jax.lowering import jit
from ez_jax.networks import Network
from ez_jax.runner.restore import Restored


@functools.cache
def _compiled(network: Network, config: Config, explore: bool, simulations: int | None) -> Callable:
    def search(variables, key, observation, legal):
        root = make_root(network, variables, observation, config.search.embedding_dtype)
        return tree_from_root(
            root,
            make_recurrent_fn(network, config),
            config.search,
            variables,
            key,
            explore=explore,
            temperature=0.0,
            num_simulations=simulations,
            legal=legal,
            actions=network.spec.actions,
        ).output.search_tree.replace(embeddings=None, extra_data=None)

    return jit(search)


class Node(NamedTuple):
    """A node that the search reached, seen from its parent."""

    number: int  # in the order in which simulations made them; the root is 0
    parent: int  # -1 for the root
    action: int  # that leads here: of the parent's actions, or of its candidates; -1 for the root
    depth: int
    visits: int  # N
    prior: float  # of the action in the parent's policy before the search; 1 for the root
    reward: float  # predicted on the way here
    value: float  # mean of the network's value and all returns backed up to it
    q: float  # reward + discount * value; the value itself for the root


def grow(
    model: Restored,
    observation: np.ndarray,
    *,
    explore: bool = False,
    num_simulations: int | None = None,
    seed: int = 0,
    legal: np.ndarray | None = None,
) -> list[Node]:
    """Searches from one observation `[..., S * C]` and returns the tree, the root first.

    Args:
      model: see `restore`.
      observation: of a `Game`.
      explore: with the noise of training.
      num_simulations: instead of the training's.
      seed: of the search's key.
      legal: `[A]` bool, of the observation's step in `Game.legal`; all are by default.
    """
    search = _compiled(model.network, replace(model.config, seed=0), explore, num_simulations)
    allowed = None if legal is None else np.asarray(legal)[None]
    grown = search(model.variables, jax.random.key(seed), observation[None], allowed)
    tree = jax.tree.map(lambda x: np.asarray(x[0]), grown)
    value = float(tree.node_values[0])
    nodes = [Node(0, -1, -1, 0, int(tree.node_visits[0]), 1.0, 0.0, value, value)]
    depths = {0: 0}
    for index in range(1, len(tree.node_visits)):
        if not tree.node_visits[index]:
            continue
        parent, action = int(tree.parents[index]), int(tree.action_from_parent[index])
        logits = tree.children_prior_logits[parent]
        prior = np.exp(logits - logits.max())
        reward = float(tree.children_rewards[parent, action])
        discount = float(tree.children_discounts[parent, action])
        value = float(tree.node_values[index])
        depths[index] = depths[parent] + 1
        nodes.append(
            Node(
                index,
                parent,
                action,
                depths[index],
                int(tree.node_visits[index]),
                float(prior[action] / prior.sum()),
                reward,
                value,
                reward + discount * value,
            )
        )
    return nodes


def principal_line(nodes: Sequence[Node]) -> list[int]:
    """Numbers of the nodes from the root along the most visited children; of ties the best Q."""
    line = [0]
    while children := [node for node in nodes if node.parent == line[-1]]:
        line.append(max(children, key=lambda node: (node.visits, node.q)).number)
    return line
