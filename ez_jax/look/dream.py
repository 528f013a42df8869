"""What the model thinks comes next: its rewards and states along the actions of a game."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ez_jax.agent.search import make_recurrent_fn, make_root
from ez_jax.look.game import Game
from ez_jax.networks import encode, infer
from ez_jax.runner.restore import Restored


class Dream(NamedTuple):
    """K steps of the model from a real observation, along the actions that were taken."""

    start: int  # step of the game
    state: np.ndarray  # [K + 1, ...] latent: the encoded one, then predicted ones
    reward: np.ndarray  # [K] predicted
    real_reward: np.ndarray  # [K] of the game, as training sees them
    value: np.ndarray  # [K + 1] of these states


def dream(model: Restored, game: Game, start: int, steps: int = 5) -> Dream:
    """Unrolls the model from one step of a game, no further than its end, as a search does.

    Raises:
      ValueError: the game has no such step.
    """
    if not 0 <= start < len(game.action):
        raise ValueError(f"start={start} is out of range: the game has {len(game.action)} steps")
    config, variables = model.config, model.variables
    step = make_recurrent_fn(model.network, config)
    observation = jnp.asarray(game.observation[start : start + 1])
    root = make_root(model.network, variables, observation, config.search.embedding_dtype)
    node, values, rewards = root.embedding, [root.value], []
    states = [node.state]
    for action in game.action[start : start + steps]:
        # The action itself, not one of the candidates that a search would draw.
        chosen = jnp.asarray(action)[None]
        output, node = step(variables, jax.random.key(0), chosen, node._replace(candidates=None))
        states.append(node.state)
        rewards.append(output.reward)
        values.append(output.value)
    return Dream(
        start,
        np.concatenate(states),
        np.concatenate(rewards),
        game.reward[start : start + len(rewards)],
        np.concatenate(values),
    )


def nearest(model: Restored, game: Game, states: np.ndarray) -> np.ndarray:
    """Steps of the game whose encoded observations are nearest to predicted states: `[K]`.

    Near is what the consistency loss makes near: the cosine of the predictor's output for a
    predicted state with the projection of an encoded one (EfficientZero, section 4.1).

    Args:
      model: see `restore`.
      game: whose observations are the candidates.
      states: `[K, ...]` predicted, as the later ones of a `Dream`.
    """
    network, variables = model.network, model.variables

    def project(state: jax.Array) -> jax.Array:
        return infer(network, variables, "project", state)

    def direction(x: jax.Array) -> np.ndarray:
        return np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)

    known = direction(project(encode(network, variables, jnp.asarray(game.observation))))
    predicted = infer(network, variables, "predict_projection", project(jnp.asarray(states)))
    return np.argmax(direction(predicted) @ known.T, axis=1)
