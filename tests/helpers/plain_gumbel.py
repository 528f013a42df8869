"""Gumbel search in plain Python: slow and clear, one root, node objects. The batched search is
tested against it.

Gumbel MuZero (Danihelka et al. 2022): sequential halving over sampled actions at the root, a
deterministic rule below, Q-values completed by v_mix. Q-values are normalised by the floored range
of the whole tree, as in EfficientZero-V2 (Wang et al. 2024). Where the paper leaves a choice it
takes that of `mctx.gumbel_muzero_policy`:

- of the considered actions with fewest visits, the best by the present scores is visited next;
- if the last pair ends with unequal visits, the more visited one is chosen.
"""

import math

import numpy as np

from helpers.plain_search import Node, PlainSearch


def softmax(logits) -> np.ndarray:
    weights = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return weights / weights.sum()


def halving(considered: int, simulations: int) -> list[tuple[int, int]]:
    """Phases of sequential halving, as (actions still considered, simulations spent on them).

    There are log2(considered) phases, rounded up, with an equal share of the simulations each. A
    phase visits all its actions equally often, at least once. Half of them go on to the next; the
    last two share whatever is left.
    """
    phases, left, number = [], simulations, considered
    while number > 2:
        share = simulations / math.ceil(math.log2(considered))
        spent = min(left, number * max(1, math.floor(share / number)))
        phases.append((number, spent))
        left, number = left - spent, max(2, number // 2)
    return [*phases, (number, left)]


class PlainGumbel(PlainSearch):
    """One tree; model, value prefixes and backup are those of `PlainSearch`.

    After the search: `action`, the improved `policy`, `visits` of the root's children,
    `root_value`, `max_depth` of a node, and `margin`, the least distance of a choice from the
    runner-up, below which rounding could have chosen another. It is negative where scores moved so
    much within a phase that an action out of the race came to lead one that is still to be visited;
    mctx, which ranks anew at each visit, then exchanges the two.
    """

    def __init__(
        self,
        recurrent,
        *,
        discount: float,
        horizon: int = 1,
        c_visit: float = 50.0,
        c_scale: float = 0.1,
        min_range: float = 0.01,
    ):
        super().__init__(recurrent, discount=discount, horizon=horizon, min_range=min_range)
        self.c_visit = c_visit
        self.c_scale = c_scale

    def run(
        self, state, memory, logits, value: float, gumbel, num_simulations: int, considered: int
    ) -> "PlainGumbel":
        """Searches from a root with the given prior logits and network value, with `gumbel` noise
        `[A]`; memory is zero.
        """
        self.zero_memory = memory
        self.gumbel = np.asarray(gumbel, np.float64)
        self.root = Node(1.0, None)
        self.root.expand(state, memory, 0.0, softmax(logits))
        self.root.visit_count, self.root.value_sum, self.root.network_value = (
            1,
            float(value),
            float(value),
        )
        self.rebuild_range()

        survivors = list(range(len(self.root.children)))
        for number, simulations in halving(min(considered, len(survivors)), num_simulations):
            scores = self.root_scores()
            survivors = sorted(survivors, key=lambda action: -scores[action])[:number]
            for _ in range(simulations):
                leaf, action = self.traverse(survivors)
                self.backup(leaf, self.evaluate(leaf, action))
                self.rebuild_range()

        self.visits = np.array([child.visit_count for child in self.root.children])
        self.search_value = self.root.value()
        self.policy = self.improved_policy(self.root)
        self.action = self.best_of(
            self.root_scores(), np.flatnonzero(self.visits == self.visits.max())
        )
        return self

    def best_of(self, scores, candidates, rivals=()) -> int:
        """Of `candidates`, the action with the highest score; the margin is kept to them and to
        `rivals`.
        """
        best = max(candidates, key=lambda action: scores[action])
        for other in {*candidates, *rivals} - {best}:
            self.margin = min(self.margin, scores[best] - scores[other])
        return int(best)

    def normalise(self, q: float) -> float:
        return min(max((q - self.low) / max(self.high - self.low, self.min_range), 0.0), 1.0)

    def mixed_value_target(self, node: Node) -> float:
        """v_mix: the network's value once, and for each visit the mean of the Q-values known,
        weighted by the prior.
        """
        visited = [child for child in node.children if child.visit_count > 0]
        if not visited:
            return node.network_value
        known = sum(child.prior * self.q(child) for child in visited) / sum(
            child.prior for child in visited
        )
        visits = sum(child.visit_count for child in visited)
        return (node.network_value + visits * known) / (1 + visits)

    def improved_logits(self, node: Node) -> np.ndarray:
        """Prior logits plus sigma of the completed Q-values."""
        unknown = self.mixed_value_target(node)
        scale = (self.c_visit + max(child.visit_count for child in node.children)) * self.c_scale
        return np.array(
            [
                math.log(child.prior)
                + scale * self.normalise(self.q(child) if child.visit_count > 0 else unknown)
                for child in node.children
            ]
        )

    def improved_policy(self, node: Node) -> np.ndarray:
        return softmax(self.improved_logits(node))

    def root_scores(self) -> np.ndarray:
        return self.gumbel + self.improved_logits(self.root)

    def traverse(self, survivors) -> tuple[Node, int]:
        """From the root, by one of the survivors, to a node that was never visited, and the action
        that led there.
        """
        visits = [child.visit_count for child in self.root.children]
        fewest = min(visits[action] for action in survivors)
        equals = [action for action, n in enumerate(visits) if n == fewest]
        action = self.best_of(
            self.root_scores(), [action for action in survivors if visits[action] == fewest], equals
        )
        node = self.root.children[action]
        while node.children:
            visits = np.array([child.visit_count for child in node.children])
            action = self.best_of(
                self.improved_policy(node) - visits / (1 + visits.sum()), range(len(visits))
            )
            node = node.children[action]
        return node, action

    def evaluate(self, leaf: Node, action: int) -> float:
        leaf.network_value = super().evaluate(leaf, action)
        return leaf.network_value

    def rebuild_range(self) -> None:
        """Least and greatest Q over all expanded nodes, and the network's value for the root, which
        has no Q.
        """
        super().rebuild_range()
        self.low, self.high = (
            min(self.low, self.root.network_value),
            max(self.high, self.root.network_value),
        )
