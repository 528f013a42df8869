"""Pictures of what a model believes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ez_jax.actions import Discrete
from ez_jax.look.dream import Dream
from ez_jax.look.game import Game
from ez_jax.look.tree import Node, principal_line
from ez_jax.runner.restore import Restored


def draw_tree(nodes: Sequence[Node], names: Sequence[str] | None = None) -> Figure:
    """A tree with N and Q at each node; the principal line is thick.

    Args:
      nodes: of `grow`.
      names: of the actions.
    """
    line, places = set(principal_line(nodes)), _places(nodes)
    deepest = max(node.depth for node in nodes)
    width = max(x for x, _ in places.values()) + 1
    figure = Figure(figsize=(max(5.0, 0.9 * width), 1.6 * (deepest + 1)), layout="constrained")
    axis = figure.subplots()
    for node in nodes:
        x, y = places[node.number]
        on = node.number in line
        if node.parent >= 0:
            px, py = places[node.parent]
            axis.plot([px, x], [py, y], color="C1" if on else "0.7", linewidth=2.5 if on else 1)
            name = names[node.action] if names else str(node.action)
            axis.text((px + 2 * x) / 3, (py + 2 * y) / 3, f"{name}\n{node.prior:.0%}", fontsize=6,
                      ha="center", va="center", color="0.3")  # fmt: skip
        box = dict(boxstyle="round", facecolor="C1" if on else "white", alpha=0.9)
        axis.text(x, y, f"N {node.visits}\nQ {node.q:.2f}", fontsize=7, ha="center", va="center",
                  bbox=box)  # fmt: skip
    axis.set(xlim=(-0.7, width - 0.3), ylim=(-deepest - 0.5, 0.5))
    axis.axis("off")
    return figure


def _places(nodes: Sequence[Node]) -> dict[int, tuple[float, int]]:
    """Leaves side by side, parents above the middle of their children."""
    children: dict[int, list[Node]] = {}
    for node in nodes:
        children.setdefault(node.parent, []).append(node)
    places: dict[int, tuple[float, int]] = {}
    free = 0.0

    def place(node: Node) -> float:
        nonlocal free
        below = sorted(children.get(node.number, ()), key=lambda child: child.action)
        if below:
            x = float(np.mean([place(child) for child in below]))
        else:
            x, free = free, free + 1
        places[node.number] = x, -node.depth
        return x

    place(nodes[0])
    return places


def draw_values(game: Game) -> Figure:
    """Values of the network and of the search along a game, beside the returns that came."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    for name, values in (
        ("return that came", game.returns),
        ("network", game.network_value),
        ("search", game.search_value),
    ):
        axis.plot(values, label=name, linewidth=1.2)
    axis.set(xlabel="step", ylabel="value")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def draw_policies(model: Restored, game: Game, step: int) -> Figure:
    """The policy before a search and what it learns of it, by action (indices alone).

    Raises:
      ValueError: actions are vectors.
    """
    if not isinstance(model.network.spec.actions, Discrete):
        raise ValueError("actions are vectors: there is no policy by action")
    logits = game.policy[step] - game.policy[step].max()
    before = np.exp(logits) / np.exp(logits).sum()
    figure = Figure(figsize=(5, 2.5), layout="constrained")
    axis = figure.subplots()
    place = np.arange(len(before))
    axis.bar(place - 0.2, before, 0.4, label="network")
    axis.bar(place + 0.2, game.target[step], 0.4, label="search")
    axis.set(xlabel="action", ylabel="probability", xticks=place, title=f"step {step}")
    axis.legend(fontsize=8)
    return figure


def draw_rewards(dreams: Sequence[Dream]) -> Figure:
    """Predicted against real rewards, a panel for each step of the unroll."""
    steps = max(len(one.reward) for one in dreams)
    figure = Figure(figsize=(2.2 * steps, 2.4), layout="constrained")
    for step, axis in enumerate(figure.subplots(1, steps, sharey=True, squeeze=False)[0]):
        pairs = [(d.real_reward[step], d.reward[step]) for d in dreams if len(d.reward) > step]
        real, predicted = np.array(pairs).T
        low, high = min(real.min(), predicted.min()), max(real.max(), predicted.max())
        axis.plot([low, high], [low, high], color="0.7", linewidth=1)
        axis.scatter(real, predicted, s=8)
        axis.set(title=f"step {step + 1}", xlabel="real")
    figure.supylabel("predicted reward", fontsize=9)
    return figure
