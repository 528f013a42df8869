"""Tree search in plain Python: slow and clear, one root, node objects. The batched search is tested
against it.

MuZero's search (Schrittwieser et al. 2020, appendix B) with EfficientZero's value prefix,
Q-normalisation and value of unvisited children (Ye et al. 2021). It departs from EfficientZero's
released code in three points, as `mctx.muzero_policy` does:

- the prior term takes N = visits of the node, itself included, so that a fresh node has N = 1
(MuZero's pseudocode); the
  released code takes N - 1, which leaves the first choice at each node to chance;
- the root value counts the network's value: (network value + sum of returns) / (simulations + 1);
- among equal scores the first child is taken; the released code draws one.
"""

import math

import numpy as np


class Node:
    """A place in the tree; without state and children until it is expanded."""

    def __init__(self, prior: float, parent: "Node | None"):
        self.prior = prior
        self.parent = parent
        self.depth = 0 if parent is None else parent.depth + 1
        self.children: list[Node] = []
        self.state = None
        self.memory = None
        self.prefix = 0.0
        self.visit_count = 0
        self.value_sum = 0.0

    def expand(self, state, memory, prefix: float, priors) -> None:
        """Stores what the model says of this node and gives it a child for each action."""
        self.state, self.memory, self.prefix = state, memory, float(prefix)
        self.children = [Node(float(prior), self) for prior in priors]

    def value(self) -> float:
        return self.value_sum / self.visit_count


class PlainSearch:
    """One tree.

    `recurrent(state, memory, action) -> (state, memory, prefix, prior_logits, value)` is the model,
    where `prefix` is the reward summed since the memory was last zero. The tree takes differences
    and zeroes the memory every `horizon` steps; a model that predicts single rewards has `horizon`
    1.

    After the search: `visits` of the root's children, `root_value`, `max_depth` of a node, and
    `margin`, the least distance of a chosen child's score from the runner-up, below which rounding
    could have chosen another.
    """

    def __init__(
        self,
        recurrent,
        *,
        discount: float,
        horizon: int = 1,
        pb_c_init: float = 1.25,
        pb_c_base: float = 19_652.0,
        min_range: float = 0.01,
    ):
        self.recurrent = recurrent
        self.discount = discount
        self.horizon = horizon
        self.pb_c_init = pb_c_init
        self.pb_c_base = pb_c_base
        self.min_range = min_range
        self.low, self.high = math.inf, -math.inf
        self.margin = math.inf
        self.max_depth = 0

    def run(self, state, memory, priors, value: float, num_simulations: int) -> "PlainSearch":
        """Searches from a root with the given prior probabilities and network value; `memory` is
        all zeros.
        """
        self.zero_memory = memory
        self.root = Node(1.0, None)
        self.root.expand(state, memory, 0.0, priors)
        self.root.visit_count, self.root.value_sum = 1, float(value)
        for _ in range(num_simulations):
            leaf, action = self.traverse()
            self.backup(leaf, self.evaluate(leaf, action))
            self.rebuild_range()
        self.visits = np.array([child.visit_count for child in self.root.children])
        self.search_value = self.root.value()
        return self

    def reward(self, child: Node) -> float:
        """Single reward of the step to `child`: the prefix starts anew below depths that are
        multiples of the horizon.
        """
        if child.parent.depth % self.horizon == 0:
            return child.prefix
        return child.prefix - child.parent.prefix

    def q(self, child: Node) -> float:
        return self.reward(child) + self.discount * child.value()

    def mean_q(self, node: Node, parent_mean: float) -> float:
        """What an unvisited child of `node` is taken to be worth; each visited child counts
        once.
        """
        qs = [self.q(child) for child in node.children if child.visit_count > 0]
        if node is self.root and qs:
            return sum(qs) / len(qs)
        return (parent_mean + sum(qs)) / (len(qs) + 1)

    def normalise(self, q: float) -> float:
        spread = self.high - self.low
        if spread > 0:
            q = (q - self.low) / max(spread, self.min_range)
        return min(max(q, 0.0), 1.0)

    def scores(self, node: Node, mean: float) -> list[float]:
        n = node.visit_count
        c = math.log((n + self.pb_c_base + 1) / self.pb_c_base) + self.pb_c_init
        return [
            c * math.sqrt(n) / (child.visit_count + 1) * child.prior
            + self.normalise(self.q(child) if child.visit_count > 0 else mean)
            for child in node.children
        ]

    def traverse(self) -> tuple[Node, int]:
        """From the root to a node that was never visited, and the action that led there."""
        node, mean, action = self.root, 0.0, -1
        while node.children:
            mean = self.mean_q(node, mean)
            scores = self.scores(node, mean)
            action = int(np.argmax(scores))
            second, first = sorted(scores)[-2:]
            self.margin = min(self.margin, first - second)
            node = node.children[action]
        return node, action

    def evaluate(self, leaf: Node, action: int) -> float:
        """Expands the leaf with the model; returns the model's value of it."""
        parent = leaf.parent
        state, memory, prefix, logits, value = self.recurrent(parent.state, parent.memory, action)
        if leaf.depth % self.horizon == 0:
            memory = self.zero_memory
        weights = np.exp(np.asarray(logits, np.float64) - np.max(logits))
        leaf.expand(state, memory, prefix, weights / weights.sum())
        self.max_depth = max(self.max_depth, leaf.depth)
        return float(value)

    def backup(self, leaf: Node, value: float) -> None:
        node, g = leaf, value
        while node is not None:
            node.value_sum += g
            node.visit_count += 1
            if node.parent is not None:
                g = self.reward(node) + self.discount * g
            node = node.parent

    def rebuild_range(self) -> None:
        """Least and greatest Q over all expanded nodes but the root."""
        self.low, self.high = math.inf, -math.inf
        pending = [self.root]
        while pending:
            for child in pending.pop().children:
                if child.children:
                    self.low, self.high = (
                        min(self.low, self.q(child)),
                        max(self.high, self.q(child)),
                    )
                    pending.append(child)
