"""One game, with everything that the model believed on the way."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ez_jax.agent.search import make_recurrent_fn, make_root, search_from_root
from ez_jax.config import Config, replace
from ez_jax.envs import make
from ez_jax.envs.seeds import evaluation_seeds
from ez_jax.lowering import jit
from ez_jax.networks import Network
from ez_jax.observations import observation_shape, push_frame
from ez_jax.runner.evaluation import game_key
from ez_jax.runner.restore import Restored


@functools.cache
def _compiled(network: Network, config: Config, simulations: int | None) -> Callable:
    def look(variables, observation, step, legal):
        root = make_root(network, variables, observation, config.search.embedding_dtype)
        found = search_from_root(
            root,
            make_recurrent_fn(network, config),
            config.search,
            variables,
            game_key(network, step),
            explore=False,
            temperature=0.0,
            num_simulations=simulations,
            legal=legal,
            actions=network.spec.actions,
        )
        return found, root.prior_logits

    return jit(look)


class Game(NamedTuple):
    """T steps of a game; the last observation is the one after them."""

    observation: np.ndarray  # [T + 1, ..., S * C] as the network takes them
    action: np.ndarray  # [T] or [T, D]
    score: np.ndarray  # [T] rewards as the task gives them
    reward: np.ndarray  # [T] as training sees them, perhaps clipped
    returns: np.ndarray  # [T] discounted, of the rewards that followed; see `play`
    network_value: np.ndarray  # [T]
    search_value: np.ndarray  # [T]
    policy: np.ndarray  # [T, P] outputs of the policy head, -inf for actions that are not legal
    target: np.ndarray  # [T, P] what the policy would learn of the search
    legal: np.ndarray | None = None  # [T, A] bool, where the task says which actions are


def play(
    model: Restored,
    *,
    max_steps: int = 1000,
    num_simulations: int | None = None,
    env: Any = None,
    actions: Sequence[np.ndarray] | None = None,
) -> Game:
    """Plays the first evaluation game, or a part of it, by the best action of noiseless searches.

    Where the game goes on after the last step, or was ended by its time limit, the returns end with
    the value of a search there, as those do that values are trained towards. Lost lives end
    nothing here; with `env.episodic_life` training's values end with them.

    Args:
      model: see `restore`.
      max_steps: of a game that does not end before.
      num_simulations: instead of the training's.
      env: one environment, by default the task's own.
      actions: takes these instead, of a game that was played before.
    """
    config, network = model.config, model.network
    env = env or make(config.env, evaluation_seeds(1), training=False)
    spec = env.spec(config.env.stack)

    look = _compiled(network, replace(config, seed=0), num_simulations)
    timestep = env.reset()
    shape = (1, *observation_shape(spec))
    stack = push_frame(jnp.zeros(shape, spec.frame_dtype), timestep.frame, timestep.first)
    seen, steps, allowed = [np.asarray(stack[0])], [], []
    for step in range(max_steps if actions is None else len(actions)):
        found, policy = look(model.variables, stack, step, timestep.legal)
        if timestep.legal is not None:
            allowed.append(np.asarray(timestep.legal[0]))
            policy = jnp.where(timestep.legal, policy, -jnp.inf)
        action = np.asarray(found.action if actions is None else actions[step][None])
        timestep = env.step(action)
        stack = push_frame(stack, timestep.frame, timestep.first)
        steps.append(
            (
                action[0],
                float(timestep.score[0]),
                float(timestep.reward[0]),
                float(found.network_value[0]),
                float(found.search_value[0]),
                np.asarray(policy[0]),
                np.asarray(found.policy[0]),
            )
        )
        seen.append(np.asarray(stack[0]))
        if timestep.game_over[0]:
            break
    columns = [np.array(column) for column in zip(*steps)]
    action, score, reward, network_value, search_value, policy, target = columns
    returns = np.zeros(len(reward))
    following = 0.0
    if not timestep.game_over[0] or timestep.discount[0]:
        found, _ = look(model.variables, stack, len(steps), None)
        following = float(found.search_value[0])
    for step in range(len(reward) - 1, -1, -1):
        following = returns[step] = reward[step] + config.target.discount * following
    return Game(
        np.stack(seen),
        action,
        score,
        reward,
        returns,
        network_value,
        search_value,
        policy,
        target,
        np.stack(allowed) if allowed else None,
    )
