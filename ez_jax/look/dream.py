"""What the model thinks comes next: its rewards and states along the actions of a game."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ez_jax.agent.transforms import logits_to_scalar
from ez_jax.look.game import Game
from ez_jax.networks import Prediction, Step, encode, infer
from ez_jax.runner.restore import Restored


class Dream(NamedTuple):
    """K steps of the model from a real observation, along the actions that were taken."""

    start: int  # step of the game
    state: np.ndarray  # [K + 1, ...] latent: the encoded one, then predicted ones
    reward: np.ndarray  # [K] predicted
    real_reward: np.ndarray  # [K] of the game, raw
    value: np.ndarray  # [K + 1] of these states


def dream(model: Restored, game: Game, start: int, steps: int = 5) -> Dream:
    """Unrolls the model from one step of a game, no further than its end.

    The value prefix starts anew where that of training does.

    Raises:
      ValueError: the game has no such step.
    """
    if not 0 <= start < len(game.action):
        raise ValueError(f"start={start} is out of range: the game has {len(game.action)} steps")
    network, variables = model.network, model.variables
    actions = game.action[start : start + steps]
    horizon = model.config.target.prefix_horizon if network.config.value_prefix else 1
    state = encode(network, variables, jnp.asarray(game.observation[start : start + 1]))
    memory, before = network.initial_memory(1), 0.0
    states, rewards, values = [state], [], [_value(model, state)]
    for depth, action in enumerate(actions):
        if depth % horizon == 0:
            memory, before = network.initial_memory(1), 0.0
        step: Step = infer(network, variables, "step", state, memory, jnp.asarray(action)[None])
        prefix = float(logits_to_scalar(step.prefix_logits)[0])
        rewards.append(prefix - before)
        state, memory, before = step.state, step.memory, prefix if horizon > 1 else 0.0
        states.append(state)
        values.append(_value(model, state))
    real = game.reward[start : start + len(actions)]
    stacked = np.concatenate([np.asarray(s) for s in states])
    return Dream(start, stacked, np.array(rewards), real, np.array(values))


def _value(model: Restored, state: jax.Array) -> float:
    prediction: Prediction = infer(model.network, model.variables, "predict", state)
    return float(logits_to_scalar(prediction.value_logits)[0])


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
