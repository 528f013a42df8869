"""Acting: one search per environment, one step of the environments, one slot in replay.

The environments step between `select` and `record`. A step that they ignore (the one after an
episode's end) is recorded as the slot of the final frame and counts for nothing.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ez_jax.agent import replay as replay_lib
from ez_jax.agent.priorities import prioritise_by_model_error
from ez_jax.agent.search import search
from ez_jax.config import Config
from ez_jax.networks import Network
from ez_jax.observations import observation_shape, push_frame
from ez_jax.types import Actor, Array, EnvSpec, Replay, SearchOutput, TimeStep

RECENT_GAMES = 16


def init(config: Config, spec: EnvSpec, env: Any) -> Actor:
    """An actor that has seen no frame yet; `start` adds the first ones.

    Args:
      config: of the run.
      spec: of the environments.
      env: state of environments that are pure functions, None for those on the host.
    """
    n = config.env.num_envs
    return Actor(
        env=env,
        stack=jnp.zeros((n, *observation_shape(spec)), spec.frame_dtype),
        legal=jnp.ones((n, spec.num_actions), bool) if spec.masked else None,
        last=jnp.zeros(n, bool),
        discount=jnp.ones(n),
        offset=jnp.zeros(n, jnp.int32),
        score=jnp.zeros(n),
        recent_scores=jnp.zeros(RECENT_GAMES),
        games=jnp.zeros((), jnp.int32),
        env_steps=jnp.zeros((), jnp.int32),
        acts=jnp.zeros((), jnp.int32),
        action_log=jnp.zeros(
            (longest(config, config.env_steps), n, *spec.actions.shape), spec.actions.log_dtype
        ),
    )


def longest(config: Config, env_steps: int) -> int:
    """The most lock-steps that so many environment steps take."""
    # At most two ignored steps follow a real one: after a lost life, and when the no-op after it
    # loses the game.
    return 3 * (env_steps // config.env.num_envs + 1)


def start(actor: Actor, timestep: TimeStep) -> Actor:
    """Adds the first frames, after the environments' reset."""
    stack = push_frame(actor.stack, timestep.frame, timestep.first)
    return actor.replace(stack=stack, legal=timestep.legal)


def temperature(updates: Array, config: Config) -> Array:
    """Visit-count temperature by progress of the online updates: `[]`."""
    early, middle, late = config.search.temperature
    progress = updates / max(config.online_updates, 1)
    return jnp.where(progress < 0.5, early, jnp.where(progress < 0.75, middle, late))


def select(
    network: Network,
    config: Config,
    variables: Any,
    key: Array,
    stack: Array,
    updates: Array,
    legal: Array | None = None,
) -> SearchOutput:
    """Searches from the current observations `[N, ..., S * C]` with exploration."""
    heat = temperature(updates, config)
    return search(
        network, config, variables, key, stack, explore=True, temperature=heat, legal=legal
    )


def uniform(
    key: Array, number: int, spec: EnvSpec, candidates: int, legal: Array | None = None
) -> tuple[Array, Array]:
    """Uniform actions of so many environments, and the uniform policy as a target.

    Args:
      key: typed PRNG key, consumed.
      number: of environments, N.
      spec: of them.
      candidates: of a target, where actions are vectors.
      legal: `[N, A]` bool, actions to choose from, None for all.
    """
    action, policy = spec.actions.random(key, number, candidates)
    if legal is not None:
        action = jax.random.categorical(key, jnp.where(legal, 0.0, -jnp.inf))
        policy = legal / jnp.sum(legal, axis=1, keepdims=True, dtype=jnp.float32)
    return action, policy


def select_randomly(key: Array, actor: Actor, spec: EnvSpec, config: Config) -> SearchOutput:
    """Draws uniform actions for the warm-up, with the uniform policy as target.

    With probability `cycle.warmup_repeat` an environment repeats its action of the step before.
    """
    num_envs, repeat = actor.last.shape[0], config.cycle.warmup_repeat
    action, policy = uniform(key, num_envs, spec, config.search.sampled_actions, actor.legal)
    if repeat > 0:
        again = jax.random.bernoulli(jax.random.fold_in(key, 1), repeat, (num_envs,))
        action = _repeated(actor, action, again)
    zeros = jnp.zeros(num_envs)
    return SearchOutput(action, policy, zeros, zeros)


def repeat_where_idle(
    key: Array, actor: Actor, replay: Replay, selected: SearchOutput, config: Config
) -> SearchOutput:
    """Actions of the step before, now and then, where rewards of either sign stay away.

    Noise of single steps cancels out: what lies a hundred steps in one direction is not found by
    it. A repeated action goes far (Dabney et al. 2021, arXiv 2006.01782). Targets stay those of the
    search.
    """
    idle = replay_lib.idle(replay, config.cycle.idle_steps)
    again = idle & jax.random.bernoulli(key, config.cycle.idle_repeat, idle.shape)
    return selected._replace(action=_repeated(actor, selected.action, again))


def _repeated(actor: Actor, action: Array, again: Array) -> Array:
    """The action of the step before where `again [N]` says so, if there is one and it is legal."""
    again &= actor.acts > 0
    before = actor.action_log[actor.acts - 1].astype(action.dtype)
    if actor.legal is not None:
        again &= jnp.take_along_axis(actor.legal, before[:, None], axis=1)[:, 0]
    return jnp.where(again.reshape(-1, *(1,) * (action.ndim - 1)), before, action)


def record(
    actor: Actor,
    replay: Replay,
    selected: SearchOutput,
    timestep: TimeStep,
    updates: Array,
    config: Config,
) -> tuple[Actor, Replay]:
    """Writes the slot of the current frame and moves on to the next.

    The cap on environment steps is hard: of the environments that would pass it, the first ones
    count, and what the others did is never seen (their slot becomes a final frame). Beyond the cap,
    where a seed waits for others, nothing is recorded at all.
    """
    running = actor.env_steps < config.env_steps
    before = actor.replace(action_log=None)
    ready = ~actor.last
    taken = ready & (actor.env_steps + jnp.cumsum(ready) <= config.env_steps)
    channels = timestep.frame.shape[-1]
    replay = replay_lib.write(
        replay,
        running,
        frame=actor.stack[..., -channels:],
        action=selected.action,
        reward=jnp.where(taken, timestep.reward, 0.0),
        discount=jnp.where(taken, timestep.discount, actor.discount),
        last=~taken,
        offset=actor.offset,
        born=jnp.full_like(actor.offset, actor.env_steps),
        policy=selected.policy,
        search_value=selected.search_value,
        network_value=selected.network_value,
        refreshed=jnp.full_like(actor.offset, updates),
        legal=actor.legal,
    )

    if config.replay.initial_priority == "model_error":
        # Errors of a network that was never trained carry no information.
        replay = prioritise_by_model_error(replay, config.target.discount, running & (updates > 0))

    # A game's raw score counts each step, the forced no-op after a lost life included.
    score = actor.score + jnp.where(taken | actor.last, timestep.score, 0.0)
    finished = taken & timestep.game_over | actor.last & timestep.game_over
    place = jnp.where(
        finished, (actor.games + jnp.cumsum(finished) - 1) % RECENT_GAMES, RECENT_GAMES
    )
    row = jnp.where(running, actor.acts, actor.action_log.shape[0])  # out of range: dropped
    action = selected.action.astype(actor.action_log.dtype)
    log = actor.action_log.at[row].set(action, mode="drop")
    after = before.replace(
        stack=push_frame(actor.stack, timestep.frame, timestep.first),
        legal=timestep.legal,
        last=timestep.last,
        discount=timestep.discount,
        offset=jnp.where(timestep.first, 0, actor.offset + 1),
        score=jnp.where(finished, 0.0, score),
        recent_scores=actor.recent_scores.at[place].set(score, mode="drop"),
        games=actor.games + jnp.sum(finished),
        env_steps=actor.env_steps + jnp.sum(taken),
        acts=actor.acts + 1,
    )
    after = jax.tree.map(lambda new, old: jnp.where(running, new, old), after, before)
    return after.replace(action_log=log), replay


def recent_score(actor: Actor) -> Array:
    """Mean raw score of the last finished games, NaN before the first: `[]`."""
    count = jnp.minimum(actor.games, RECENT_GAMES)
    known = jnp.arange(RECENT_GAMES) < count
    mean = jnp.sum(jnp.where(known, actor.recent_scores, 0.0)) / jnp.maximum(count, 1)
    return jnp.where(count > 0, mean, jnp.nan)
