"""A trained model of Catch, looked at: what it believes is what happens."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import ROOT

from ez_jax import restore
from ez_jax.actions import Continuous
from ez_jax.config import replace
from ez_jax.envs import register
from ez_jax.envs.catch import Catch
from ez_jax.look import (
    Game,
    Panel,
    draw_policies,
    draw_rewards,
    draw_tree,
    draw_values,
    dream,
    grow,
    nearest,
    play,
    principal_line,
)
from ez_jax.look.panel import NETWORK, SEARCH, WIDTH
from ez_jax.look.tree import Node


class ShortCatch(Catch):
    """Ends after four steps, by a limit or for good."""

    def __init__(self, cut):
        super().__init__()
        self._cut = cut

    def step(self, state, action, key):
        step = super().step(state, action, key)
        over = step.state.row >= 4
        return step._replace(terminated=over & (not self._cut), truncated=over & self._cut)


class LeftCatch(Catch):
    """Nothing moves right."""

    def legal_actions(self, state):
        return jnp.arange(3) < 2


@pytest.fixture(scope="module")
def model():
    return restore(ROOT / "experiments" / "models" / "catch")


@pytest.fixture(scope="module")
def game(model):
    return play(model)


def test_the_shipped_model_catches(model, game):
    """Nine steps, a reward of 1 at the end; the returns are its discounted value."""
    assert game.action.shape == game.reward.shape == (9,)
    assert game.reward.tolist() == [0.0] * 8 + [1.0]
    discount = model.config.target.discount
    np.testing.assert_allclose(game.returns, discount ** np.arange(8, -1, -1))
    assert game.observation.shape == (10, *game.observation.shape[1:])
    for value in (game.network_value, game.search_value):  # 1,500 updates: on their way to 1
        assert value.shape == (9,) and value.min() > 0 and value.max() < 1.1
    assert game.target.shape == game.policy.shape == (9, 3)
    np.testing.assert_allclose(game.target.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_the_shipped_model_of_pong():
    """Its values fall before a point that it loses, and rise before one that it wins."""
    pong = restore(ROOT / "experiments" / "models" / "pong")
    assert pong.config.env.id == "Pong-v5" and pong.env_steps == 100_000 and pong.state is None
    # Its own actions, by which every machine's rounding sees the same frames.
    actions = (
        "1111111150000555554411131443352233555555255545332220043450040050"
        "0111111555243443311111455511111422333344111134344333111333411111"
        "11111444444440000550333335025553332241332555553333335554111111"
    )
    opening = play(pong, actions=[np.asarray(int(action)) for action in actions])
    lost, won = np.flatnonzero(opening.reward)
    assert (lost, won) == (116, 182) and list(opening.reward[[lost, won]]) == [-1, 1]
    np.testing.assert_allclose(opening.target.sum(axis=1), 1, rtol=1e-5)
    assert opening.network_value[lost - 2 : lost + 1].max() < -1
    assert opening.network_value[won - 6 : won + 1].min() > 0.6
    for point in (lost, won):
        assert -0.5 < opening.network_value[point + 1 : point + 5].mean() < 0


def test_a_tree(model, game):
    """Visits of children add up to those of their parent without its own; Q is of the child."""
    nodes = grow(model, game.observation[2], num_simulations=16)
    root, *others = nodes
    assert (root.parent, root.depth, root.visits) == (-1, 0, 17)
    assert len(nodes) == len({node.number for node in nodes})
    for node in nodes:
        children = [child for child in others if child.parent == node.number]
        assert sum(child.visits for child in children) == node.visits - 1
        assert all(child.depth == node.depth + 1 for child in children)
        assert sum(child.prior for child in children) <= 1 + 1e-5
    discount = model.config.target.discount
    for node in others:
        assert node.q == pytest.approx(node.reward + discount * node.value, abs=1e-6)
    # The root's value is the mean of the network's and of all that was backed up.
    backed = sum(n.visits * n.q for n in others if n.parent == 0)
    assert root.value == pytest.approx((game.network_value[2] + backed) / 17, abs=1e-3)
    line = principal_line(nodes)
    assert line[0] == 0 and len(line) > 2
    by_number = {node.number: node for node in nodes}
    assert all(by_number[b].parent == a for a, b in itertools.pairwise(line))


def test_the_principal_line_by_hand():
    def node(number, parent, visits, q):
        return Node(number, parent, 0, 0, visits, 0.5, 0.0, q, q)

    nodes = [node(0, -1, 9, 0), node(1, 0, 4, 0.1), node(2, 0, 4, 0.3)]
    nodes += [node(3, 2, 3, 0), node(4, 1, 3, 1)]
    assert principal_line(nodes) == [0, 2, 3]


def test_a_dream_of_the_last_steps(model, game):
    """The model foresees the reward, and its states are nearest to the frames that came."""
    dreamt = dream(model, game, 6)
    assert dreamt.state.shape[0] == 4 and dreamt.value.shape == (4,)  # the end is near
    assert dreamt.real_reward.tolist() == [0, 0, 1]
    np.testing.assert_allclose(dreamt.reward, dreamt.real_reward, atol=0.1)
    assert dreamt.value[0] == pytest.approx(game.network_value[6], abs=1e-4)
    for start in (2, 4):
        states = dream(model, game, start, 3).state[1:]
        assert nearest(model, game, states).tolist() == [start + 1, start + 2, start + 3]
    with pytest.raises(ValueError, match="start=9 is out of range: the game has 9 steps"):
        dream(model, game, 9)


def test_pictures(model, game, tmp_path):
    dreams = [dream(model, game, step) for step in range(0, 9, 2)]
    nodes = grow(model, game.observation[0])
    for number, figure in enumerate(
        (
            draw_tree(nodes, ["left", "stay", "right"]),
            draw_values(game),
            draw_policies(model, game, 3),
            draw_rewards(dreams),
        )
    ):
        figure.savefig(tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 3000
    texts = [text.get_text() for text in draw_tree(nodes).axes[0].texts]
    assert sum(text.startswith("N ") for text in texts) == len(nodes)


def test_a_panel_beside_each_frame(model, game):
    """Blue lines of the network's values up to now; the policy's bars until the last frame."""
    panel = Panel(game, model.network.spec.actions)
    shown = [panel(step, 160) for step in range(len(game.action) + 1)]
    assert {image.shape for image in shown} == {(160, WIDTH, 3)}

    def network(image):
        return (image == NETWORK).all(axis=-1).sum(axis=1)  # in each row

    curve = slice(20, 70)
    assert network(shown[8])[curve].sum() > network(shown[2])[curve].sum() > 0
    assert network(shown[8])[100:].sum() > 0 and network(shown[9])[100:].sum() == 0
    assert panel(4, 320).shape == (320, WIDTH, 3)


def test_a_panel_of_vectors():
    """The action's mark is where the entry lies: -1 is the left edge, 1 the right one."""
    head = np.array([[0.0, 0.0, 0.0, 0.0]] * 2, np.float32)  # mean 0 of two entries
    ones = np.ones(2)
    action = np.array([[-1.0, 1.0], [0.0, 0.0]], np.float32)
    game = Game(np.zeros((3, 4)), action, ones, ones, ones, ones, ones, head, np.zeros((2, 24)))
    image = Panel(game, Continuous(2))(0, 160)
    rows, columns = np.nonzero((image == SEARCH).all(axis=-1))
    upper = (rows > 95) & (rows < 122)
    assert columns[upper].max() < 12 and columns[rows > 125].min() > WIDTH - 12


def test_the_returns_of_a_game_that_goes_on_end_with_a_value(model, game):
    """As those that values are trained towards: of a part of a game, and of one that a time limit
    ended.
    """
    discount = model.config.target.discount
    part = play(model, max_steps=4)
    expected = game.search_value[4] * discount ** np.arange(4, 0, -1)
    np.testing.assert_allclose(part.returns, expected, rtol=1e-5)
    config = replace(model.config, env__id="test/ShortCatch")
    for cut, last in ((True, discount * game.search_value[4]), (False, 0.0)):
        register("test/ShortCatch", lambda cut=cut: ShortCatch(cut))
        short = play(dataclasses.replace(model, config=config))
        assert len(short.reward) == 4
        assert short.returns[-1] == pytest.approx(last, rel=1e-5)


def test_only_what_is_legal_is_drawn_and_searched(model):
    """Catch in which nothing may move right, the last of three actions."""
    register("test/LeftCatch", LeftCatch)
    left = dataclasses.replace(model, config=replace(model.config, env__id="test/LeftCatch"))
    found = play(left)
    assert found.legal.shape == (9, 3) and not found.legal[:, 2].any() and found.action.max() < 2
    assert np.isneginf(found.policy[:, 2]).all() and (found.target[:, 2] < 1e-6).all()
    heights = [bar.get_height() for bar in draw_policies(left, found, 0).axes[0].patches]
    assert heights[2] == 0 and sum(heights[:3]) == pytest.approx(1)
    assert Panel(found, model.network.spec.actions)(0, 160).shape == (160, WIDTH, 3)
    nodes = grow(model, found.observation[0], legal=found.legal[0])
    assert {node.action for node in nodes if node.parent == 0} == {0, 1}
    assert 2 in {node.action for node in grow(model, found.observation[0]) if node.parent == 0}


def test_actions_of_a_game_played_before(model, game):
    again = play(model, actions=game.action)
    np.testing.assert_array_equal(again.search_value, game.search_value)
    other = play(model, actions=[np.zeros_like(game.action[0])] * 4)
    assert other.action.tolist() == [0] * 4
