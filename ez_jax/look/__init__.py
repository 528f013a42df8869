"""A trained model to look at: its search trees, its values along a game, what it thinks comes next.

model = restore("experiments/models/catch")
game = play(model)
nodes = grow(model, game.observation[3])
draw_tree(nodes)
"""

from ez_jax.look.dream import Dream, dream, nearest
from ez_jax.look.game import Game, play
from ez_jax.look.panel import Panel
from ez_jax.look.pictures import draw_policies, draw_rewards, draw_tree, draw_values
from ez_jax.look.tree import Node, grow, principal_line

__all__ = [
    "Dream",
    "Game",
    "Node",
    "Panel",
    "draw_policies",
    "draw_rewards",
    "draw_tree",
    "draw_values",
    "dream",
    "grow",
    "nearest",
    "play",
    "principal_line",
]
