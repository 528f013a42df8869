"""The compiled stages, and the fixed ratio between them.

    act (select, step, record)  ->  draw  ->  reanalyse  ->  update

Each stage is a pure function `State -> State`, compiled once, its buffers donated. Nothing but `config.cycle` decides how often each
one runs: there is no race between acting and learning, and a seed gives the same numbers.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ez_jax import actor as actor_lib
from ez_jax import learner as learner_lib
from ez_jax import reanalyser
from ez_jax import replay as replay_lib
from ez_jax.config import Config
from ez_jax.envs import EnvPool
from ez_jax.losses import LossFn, active_losses
from ez_jax.mesh import DATA, REPLICATED, put_lanes, replay_specs, split, state_shardings
from ez_jax.networks import Network, init_variables
from ez_jax.types import Array, EnvSpec, Positions, PRNGKey, Selection, State, TimeStep


class Drawn(NamedTuple):
    """The batch of the next update."""
    positions: Positions
    probability: Array  # [B] of each in a single draw, over all devices


class Stages:
    """The stages of one run, compiled for one mesh.

    Args:
      config: validated.
      spec: of the environments.
      mesh: environments and batch size must be multiples of its devices.
      losses: extra loss terms, name to `(function, weight)`; see `losses.active_losses`.

    Raises:
      ValueError: environments, batch or reanalysed positions cannot be split over the devices.
    """

    def __init__(self, config: Config, spec: EnvSpec, mesh: Mesh,
                 losses: Mapping[str, tuple[LossFn, float]] | None = None):
        for name, size in (("env.num-envs", config.env.num_envs), ("cycle.batch-size", config.cycle.batch_size),
                           ("reanalyse.positions", config.reanalyse.positions)):
            if size % mesh.size:
                raise ValueError(f"{name}={size} is out of range: it must be a multiple of the {mesh.size} devices")
        self.config, self.spec, self.mesh = config, spec, mesh
        self.terms = active_losses(config, losses)
        self.network = Network(config.network, spec)
        shardings = state_shardings(jax.eval_shape(self._init, jax.random.key(0)), mesh)
        lanes, whole = NamedSharding(mesh, DATA), NamedSharding(mesh, REPLICATED)
        self.init = jax.jit(self._init, out_shardings=shardings)
        donated = functools.partial(jax.jit, donate_argnums=0)
        self.begin = donated(self._begin, out_shardings=shardings)
        self.select = donated(self._select, out_shardings=(shardings, lanes))
        self.select_randomly = donated(self._select_randomly, out_shardings=(shardings, lanes))
        self.record = donated(self._record, out_shardings=shardings)
        self.draw = donated(self._draw, out_shardings=(shardings, lanes))
        self.reanalyse = donated(self._reanalyse, out_shardings=shardings)
        self.update = donated(self._update, out_shardings=(shardings, whole))

    # STATE

    def _init(self, key: PRNGKey) -> State:
        network_key, key = jax.random.split(key)
        return State(
            learner=learner_lib.init(self.config, init_variables(self.network, network_key)),
            actor=actor_lib.init(self.config, self.spec),
            replay=replay_lib.empty(self.config, self.spec, self.config.env.num_envs), key=key)  # fmt: skip

    def _begin(self, state: State, timestep: TimeStep) -> State:
        return state.replace(actor=actor_lib.start(state.actor, timestep))

    # ACT

    def _select(self, state: State) -> tuple[State, Selection]:
        key, select_key = jax.random.split(state.key)

        def local(variables: Any, key: PRNGKey, stack: Array, updates: Array) -> Selection:
            return actor_lib.select(self.network, self.config, variables, _local_key(key), stack, updates)

        run = split(local, self.mesh, (REPLICATED, REPLICATED, DATA, REPLICATED), DATA)
        selection = run(state.learner.variables, select_key, state.actor.stack, state.learner.updates)
        return state.replace(key=key), selection

    def _select_randomly(self, state: State) -> tuple[State, Selection]:
        key, select_key = jax.random.split(state.key)
        return state.replace(key=key), actor_lib.select_randomly(select_key, self.config.env.num_envs, self.spec.num_actions)

    def _record(self, state: State, selection: Selection, timestep: TimeStep) -> State:
        actor, replay = actor_lib.record(state.actor, state.replay, selection, timestep, state.learner.updates, self.config)
        return state.replace(actor=actor, replay=replay)

    # LEARN

    def _draw(self, state: State) -> tuple[State, Drawn]:
        key, draw_key = jax.random.split(state.key)
        size, devices = self.config.cycle.batch_size // self.mesh.size, self.mesh.size

        def local(replay, key: PRNGKey) -> Drawn:
            positions, probability = replay_lib.sample(replay, _local_key(key), size, self.config)
            return Drawn(positions, probability / devices)

        return state.replace(key=key), split(local, self.mesh, (replay_specs(), REPLICATED), DATA)(state.replay, draw_key)

    def _reanalyse(self, state: State, drawn: Drawn) -> State:
        mode, learner = self.config.reanalyse.mode, state.learner
        if mode == "off":
            return state
        key, search_key = jax.random.split(state.key)

        def local(variables: Any, key: PRNGKey, replay, positions: Positions, updates: Array):
            args = self.network, self.config, variables, _local_key(key), replay
            if mode == "sampled":
                return reanalyser.reanalyse_sampled(*args, positions, updates)
            return reanalyser.reanalyse_oldest(*args, self.config.reanalyse.positions // self.mesh.size, updates)

        variables = learner.target_variables if mode == "sampled" else learner.variables
        run = split(local, self.mesh, (REPLICATED, REPLICATED, replay_specs(), DATA, REPLICATED), replay_specs())
        return state.replace(key=key, replay=run(variables, search_key, state.replay, drawn.positions, learner.updates))

    def _update(self, state: State, drawn: Drawn) -> tuple[State, dict[str, Array]]:
        key, loss_key = jax.random.split(state.key)
        learner, config = state.learner, self.config

        def gather(replay, drawn: Drawn, env_steps: Array, updates: Array):
            return replay_lib.gather(replay, *drawn, env_steps, updates, config)

        run = split(gather, self.mesh, (replay_specs(), DATA, REPLICATED, REPLICATED), DATA)
        batch = run(state.replay, drawn, state.actor.env_steps, learner.updates)
        progress = jnp.minimum(learner.updates / max(config.total_updates, 1), 1.0)
        beta = config.replay.importance_exponent + (1 - config.replay.importance_exponent) * progress
        num_drawable = jnp.sum(replay_lib.drawable(state.replay, config))
        batch = batch.replace(weight=replay_lib.importance_weights(batch.weight, num_drawable, beta))

        learner, output = learner_lib.update(learner, loss_key, batch, network=self.network, config=config, terms=self.terms)
        run = split(replay_lib.set_priority, self.mesh, (replay_specs(), DATA, DATA), replay_specs())
        replay = run(state.replay, drawn.positions, output.priority)
        metrics = output.metrics | {"replay/max_priority": jnp.max(replay.priority)}
        return state.replace(learner=learner, replay=replay, key=key), metrics


def start(stages: Stages, env: EnvPool, seed: int) -> State:
    """The state of a new run, after the environments' reset."""
    return stages.begin(stages.init(jax.random.key(seed)), put_lanes(stages.mesh, env.reset()))


def act(stages: Stages, env: EnvPool, state: State, *, random: bool) -> State:
    """One lock-step of all environments."""
    state, selection = (stages.select_randomly if random else stages.select)(state)
    timestep = env.step(np.asarray(jax.device_get(selection.action)))
    return stages.record(state, selection, put_lanes(stages.mesh, timestep))


def learn(stages: Stages, state: State) -> tuple[State, dict[str, Array]]:
    """One update with its share of reanalysis."""
    state, drawn = stages.draw(state)
    state = stages.reanalyse(state, drawn)
    return stages.update(state, drawn)


def cycle(stages: Stages, env: EnvPool, state: State) -> tuple[State, list[dict[str, Array]]]:
    """One step of the run's schedule: an act while environment steps are left, then its updates.

    Returns:
      the state, and the metrics of each update: none during warm-up, nor once the run is complete.
    """
    config = stages.config
    acting = int(state.actor.env_steps) < config.env_steps
    if acting:
        warmup = int(state.actor.env_steps) < config.cycle.warmup_steps
        state = act(stages, env, state, random=warmup)
        if warmup:
            return state, []
    left = config.total_updates - int(state.learner.updates)
    metrics = []
    for _ in range(min(config.cycle.updates_per_act if acting else 1, left)):
        state, m = learn(stages, state)
        metrics.append(m)
    return state, metrics


def finished(config: Config, state: State) -> bool:
    """All environment steps taken and all updates made."""
    return int(state.actor.env_steps) >= config.env_steps and int(state.learner.updates) >= config.total_updates


def make_env(config: Config) -> EnvPool:
    """The training environments; their seeds follow from the run's and are the same on any number of devices."""
    return EnvPool(config.env, [config.seed * 1000 + i for i in range(config.env.num_envs)], training=True)


def _local_key(key: PRNGKey) -> PRNGKey:
    return jax.random.fold_in(key, jax.lax.axis_index("data"))
