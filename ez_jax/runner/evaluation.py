"""Evaluation: whole games, raw scores, one seed an episode.

By default a greedy search without noise; uniform random actions give the score of chance.
"""

import csv
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ez_jax.actions import Continuous
from ez_jax.agent import acting
from ez_jax.agent.budget import budget
from ez_jax.agent.search import search
from ez_jax.config import Config, replace
from ez_jax.envs import Environments, make, time_limit
from ez_jax.envs.seeds import evaluation_seeds
from ez_jax.lowering import jit
from ez_jax.networks import Network
from ez_jax.observations import observation_shape, push_frame
from ez_jax.runner.scores import RANDOM_HUMAN, human_normalized

DEFAULT_LIMIT = 27_000
"""Agent steps of a game where neither the task nor the config ends it."""
PROTOCOL_FRAMES = 108_000
"""The least limit of a game of Atari whose score can be compared, in frames."""


class Episode(NamedTuple):
    episode: int
    seed: int
    score: float  # raw return
    length: int  # agent steps


class Evaluation(NamedTuple):
    episodes: list[Episode]
    actions: list[np.ndarray]  # of the first episode
    simulations: int  # of each search, 0 where there was none

    @property
    def scores(self) -> np.ndarray:
        return np.array([e.score for e in self.episodes])


def game_key(network: Network, step: jax.typing.ArrayLike, explore: bool = False) -> jax.Array:
    """The key of the search at a step of a game that is not trained on.

    It makes evaluation a function of the parameters. Of a noiseless search over indices it breaks
    ties, the same way at each step. Vectors are drawn: with the same draws at each step all actions
    would err to the same side.
    """
    key = jax.random.key(0)
    drawn = explore or isinstance(network.spec.actions, Continuous)
    return jax.random.fold_in(key, step) if drawn else key


@functools.cache
def _compiled(network: Network, config: Config, simulations: int | None, explore: bool) -> Callable:
    return jit(functools.partial(_act, network, config, simulations, explore))


def _act(
    network: Network,
    config: Config,
    simulations: int | None,
    explore: bool,
    variables,
    stack,
    step,
    legal=None,
):
    return search(
        network,
        config,
        variables,
        game_key(network, step, explore),
        stack,
        explore=explore,
        temperature=config.search.temperature[-1] if explore else 0.0,
        num_simulations=simulations,
        legal=legal,
    ).action


@functools.cache
def _compiled_uniform(network: Network) -> Callable:
    return jit(functools.partial(_draw, network))


def _draw(network: Network, variables, stack, step, legal=None):
    key = game_key(network, step, explore=True)
    return acting.uniform(key, stack.shape[0], network.spec, 1, legal)[0]


_push = jax.jit(push_frame)


def make_evaluation_envs(config: Config, episodes: int) -> Environments:
    """Environments for so many games, with the seeds of `envs.seeds.evaluation_seeds`."""
    return make(config.env, evaluation_seeds(episodes), training=False)


def longest_game(config: Config) -> int:
    """Agent steps after which a game is cut, whatever its environment does.

    The config's limit, or the task's own and one step: some end that late. Neither known:
    `DEFAULT_LIMIT`.
    """
    own = time_limit(config.env)
    return config.env.eval_max_episode_steps or (DEFAULT_LIMIT if own is None else own + 1)


def evaluate(
    network: Network,
    config: Config,
    variables,
    *,
    episodes: int,
    simulations: int | None = None,
    explore: bool = False,
    uniform: bool = False,
    sticky: float = 0.0,
    env: Environments | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Plays games side by side, one of each seed of `envs.seeds.evaluation_seeds`.

    The seed draws the no-ops at the start. A game that its environment does not end is cut after
    `longest_game`, which is said.

    Args:
      network: the model.
      config: `config.env.eval_max_episode_steps` ends a game.
      variables: of the network.
      episodes: how many.
      simulations: instead of the training's.
      explore: root noise and the last temperature of training, so that games differ. Greedy games
        of a deterministic task repeat a few trajectories.
      uniform: instead of searches uniform actions, legal ones where the task says which are, from
        a fixed key at each step.
      sticky: probability that an environment repeats its action of the step before (Machado et al.
        2018, arXiv 1709.06009) where that is legal, drawn from the game's seed.
      env: of `make_evaluation_envs`, to play in; only pure ones can be played in again.
      progress: called with steps done and games finished.

    Raises:
      ValueError: `uniform` beside what is asked of searches.
    """
    if uniform and (explore or simulations):
        raise ValueError("uniform actions need no search: no simulations and no exploring")
    env = env or make_evaluation_envs(config, episodes)
    spec = env.spec(config.env.stack)
    made = budget(config.search, spec.num_actions or config.search.sampled_actions).simulations
    made = 0 if uniform else simulations or made
    # The compiled program does not depend on the seed.
    plain = replace(config, seed=0)
    act = _compiled_uniform(network) if uniform else _compiled(network, plain, simulations, explore)
    timestep = env.reset()
    stack = _push(
        jnp.zeros((episodes, *observation_shape(spec)), spec.frame_dtype),
        timestep.frame,
        timestep.first,
    )
    seeds = evaluation_seeds(episodes)
    dice = [np.random.default_rng(seed) for seed in seeds]
    limit, cut = longest_game(config), np.zeros(episodes, bool)
    if not config.env.eval_max_episode_steps and time_limit(config.env) is None:
        said = f"{config.env.id} has no limit that is known"
        print(f"{said}: games end after {limit:,} steps at the latest", flush=True)
    progress = progress or Talk(episodes)
    before = np.zeros((episodes, *spec.actions.shape), spec.actions.dtype)
    score, length, over = np.zeros(episodes), np.zeros(episodes, int), np.zeros(episodes, bool)
    actions = []
    while not over.all():
        action = np.array(act(variables, stack, int(length.max()), timestep.legal))
        if sticky:
            stuck = np.array([one.random() < sticky for one in dice]) & ~timestep.first
            if timestep.legal is not None:
                stuck &= np.asarray(timestep.legal)[np.arange(episodes), before]
            action = np.where(stuck.reshape(-1, *(1,) * (action.ndim - 1)), before, action)
            before = action
        if not over[0]:
            actions.append(action[0])
        timestep = env.step(action)
        score += np.where(over, 0, timestep.score)
        length += ~over
        cut |= ~over & ~timestep.game_over & (length >= limit)
        over |= timestep.game_over | cut
        stack = _push(stack, timestep.frame, timestep.first)
        progress(int(length.max()), int(over.sum()))
    if cut.any():
        print(f"{cut.sum()} games did not end by themselves: cut after {limit:,} steps", flush=True)
    return Evaluation(
        [Episode(i, seeds[i], float(score[i]), int(length[i])) for i in range(episodes)],
        actions,
        made,
    )


class Talk:
    """Says how far an evaluation is, every `seconds`."""

    def __init__(self, episodes: int, seconds: float = 10.0):
        self._episodes, self._seconds, self._last = episodes, seconds, time.monotonic()

    def __call__(self, steps: int, over: int) -> None:
        """Called after each step with steps done and games finished."""
        if steps == 1:  # compiled only now
            self._last = time.monotonic()
        if time.monotonic() - self._last >= self._seconds and over < self._episodes:
            self._last = time.monotonic()
            print(f"{over} of {self._episodes} games are over after {steps:,} steps", flush=True)


def summary(config: Config, evaluation: Evaluation) -> dict[str, Any]:
    """Mean, median and human-normalised score of an evaluation, and simulations of its searches.

    The normalised score is None where the games were not whole: cut before 108,000 frames (Mnih et
    al. 2015).
    """
    game, scores = game_name(config), evaluation.scores
    random, human = RANDOM_HUMAN.get(game, (None, None))
    limit = config.env.eval_max_episode_steps
    whole = not limit or limit * config.env.frame_skip >= PROTOCOL_FRAMES
    return {
        "eval_mean": float(scores.mean()),
        "eval_median": float(np.median(scores)),
        "eval_episodes": len(scores),
        "eval_distinct": len(set(scores.tolist())),
        "eval_simulations": evaluation.simulations,
        "human_normalized": human_normalized(game, float(scores.mean())) if whole else None,
        "random_score": random,
        "human_score": human,
    }


def write_episodes(path: Path, evaluation: Evaluation) -> None:
    """Writes the raw scores as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["episode", "seed", "return", "length"])
        writer.writerows(evaluation.episodes)


def game_name(config: Config) -> str:
    """The task's id without the version of EnvPool's Atari games."""
    return config.env.id.removesuffix("-v5")
