"""The compiled stages, and the fixed ratio between them.

    act (select, step, record)  ->  draw  ->  reanalyse  ->  update

Each stage is a pure function `State -> State`, compiled once, its buffers donated. Nothing but
`config.cycle` decides how often each one runs: there is no race between acting and learning, and a
seed gives the same numbers.

Environments on the host step between the compiled stages. Environments that are pure functions step
inside: then a whole series of cycles is one program. Several seeds are one more axis in front of
everything, by `jax.vmap`.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ez_jax import actor as actor_lib
from ez_jax import diagnostics, reanalyser
from ez_jax import learner as learner_lib
from ez_jax import replay as replay_lib
from ez_jax.config import Config
from ez_jax.envs import Environments, JaxEnvs, make
from ez_jax.losses import LossFn, active_losses
from ez_jax.lowering import jit
from ez_jax.mesh import DATA, REPLICATED, replay_specs, sharding, split, state_shardings
from ez_jax.networks import Network, init_variables
from ez_jax.types import Array, Positions, PRNGKey, Selection, State, TimeStep


class Drawn(NamedTuple):
    """The batch of the next update."""

    positions: Positions
    probability: Array  # [B] of each in a single draw, over all devices


class Made(NamedTuple):
    """An update that was made."""

    update: int  # its number, from 1
    metrics: dict[str, Array]  # [] or [seeds] each


class Stages:
    """The stages of one run, or of several seeds at once, compiled for one mesh.

    Args:
      config: validated.
      env: the environments, those of one seed after another.
      mesh: environments and batch size must be multiples of its devices.
      losses: extra loss terms, name to `(function, weight)`; see `losses.active_losses`.
      num_seeds: trained at once; None leaves the axis away.

    Raises:
      ValueError: environments, batch or reanalysed positions cannot be split over the devices.
    """

    def __init__(
        self,
        config: Config,
        env: Environments,
        mesh: Mesh,
        losses: Mapping[str, tuple[LossFn, float]] | None = None,
        num_seeds: int | None = None,
    ):
        for name, size in (
            ("env.num-envs", config.env.num_envs),
            ("cycle.batch-size", config.cycle.batch_size),
            ("reanalyse.positions", config.reanalyse.positions),
        ):
            if size % mesh.size:
                raise ValueError(
                    f"{name}={size} is out of range: it must be a multiple of the {mesh.size} devices"
                )
        self.config, self.mesh, self.num_seeds = config, mesh, num_seeds
        self.spec = env.spec(config.env.stack)
        self.terms = active_losses(config, losses)
        self.network = Network(config.network, self.spec)
        self.pure = isinstance(env, JaxEnvs)
        self._advance = env.advance if self.pure else None
        self._lanes = (
            (config.env.num_envs,) if num_seeds is None else (num_seeds, config.env.num_envs)
        )
        self._lane_sharding = sharding(mesh, DATA, self.seeds)

        one_env = (
            jax.eval_shape(lambda: jax.tree.map(lambda x: x[: config.env.num_envs], env.state))
            if self.pure
            else None
        )
        self.abstract = jax.eval_shape(self._init, jax.random.key(0), one_env)
        """Shapes of the state of one seed."""
        shardings, whole = (
            state_shardings(self.abstract, mesh, self.seeds),
            sharding(mesh, REPLICATED, self.seeds),
        )
        self.stack = jax.jit(lambda states: jax.tree.map(lambda *x: jnp.stack(x), *states))
        """A list of the states of single seeds to one with the axis in front."""

        def compiled(stage, donated=(0,), little_memory=True, **options):
            return jit(
                jax.vmap(stage) if self.seeds else stage,
                donate_argnums=donated,
                little_memory=little_memory,
                **options,
            )

        self.init = compiled(self._init, (), out_shardings=shardings)
        self.begin = compiled(self._begin, out_shardings=shardings)
        # Replay and a full batch meet in the other stages; here time counts.
        self.select = compiled(
            self._select, little_memory=False, out_shardings=(shardings, self._lane_sharding)
        )
        self.select_randomly = compiled(
            self._select_randomly, out_shardings=(shardings, self._lane_sharding)
        )
        self.record = compiled(self._record, out_shardings=shardings)
        self.draw = compiled(self._draw, out_shardings=(shardings, self._lane_sharding))
        self.reanalyse = compiled(self._reanalyse, out_shardings=shardings)
        self.update = compiled(self._update, out_shardings=(shardings, whole))
        self.diagnose = compiled(self._diagnose, (), out_shardings=whole)
        self.cycles = jit(
            self._cycles, donate_argnums=0, static_argnums=3, out_shardings=(shardings, whole)
        )

    @property
    def seeds(self) -> bool:
        """Whether there is an axis of seeds."""
        return self.num_seeds is not None

    def put(self, tree: Any) -> Any:
        """What all environments say, `[seeds * N, ...]`, to the devices as lanes."""
        return jax.tree.map(
            lambda x: jax.device_put(x.reshape(self._lanes + x.shape[1:]), self._lane_sharding),
            tree,
        )

    # STATE

    def _init(self, key: PRNGKey, env: Any) -> State:
        network_key, key = jax.random.split(key)
        return State(
            learner=learner_lib.init(self.config, init_variables(self.network, network_key)),
            actor=actor_lib.init(self.config, self.spec, env),
            replay=replay_lib.empty(self.config, self.spec, self.config.env.num_envs),
            key=key,
        )

    def _begin(self, state: State, timestep: TimeStep) -> State:
        return state.replace(actor=actor_lib.start(state.actor, timestep))

    # ACT

    def _select(self, state: State) -> tuple[State, Selection]:
        key, select_key = jax.random.split(state.key)

        def local(variables: Any, key: PRNGKey, stack: Array, updates: Array) -> Selection:
            return actor_lib.select(
                self.network, self.config, variables, _local_key(key), stack, updates
            )

        run = split(local, self.mesh, (REPLICATED, REPLICATED, DATA, REPLICATED), DATA)
        selection = run(
            state.learner.variables, select_key, state.actor.stack, state.learner.updates
        )
        return state.replace(key=key), selection

    def _select_randomly(self, state: State) -> tuple[State, Selection]:
        key, select_key = jax.random.split(state.key)
        return state.replace(key=key), actor_lib.select_randomly(
            select_key, state.actor, self.spec.num_actions, self.config.cycle.warmup_repeat
        )

    def _record(self, state: State, selection: Selection, timestep: TimeStep) -> State:
        actor, replay = actor_lib.record(
            state.actor, state.replay, selection, timestep, state.learner.updates, self.config
        )
        return state.replace(actor=actor, replay=replay)

    # LEARN

    def _draw(self, state: State) -> tuple[State, Drawn]:
        key, draw_key = jax.random.split(state.key)
        size, devices = self.config.cycle.batch_size // self.mesh.size, self.mesh.size

        def local(replay, key: PRNGKey) -> Drawn:
            positions, probability = replay_lib.sample(replay, _local_key(key), size, self.config)
            return Drawn(positions, probability / devices)

        return state.replace(key=key), split(local, self.mesh, (replay_specs(), REPLICATED), DATA)(
            state.replay, draw_key
        )

    def _reanalyse(self, state: State, drawn: Drawn) -> State:
        mode, learner = self.config.reanalyse.mode, state.learner
        if mode == "off":
            return state
        key, search_key = jax.random.split(state.key)

        def local(variables: Any, key: PRNGKey, replay, positions: Positions, updates: Array):
            args = self.network, self.config, variables, _local_key(key), replay
            if mode == "sampled":
                return reanalyser.reanalyse_sampled(*args, positions, updates)
            return reanalyser.reanalyse_oldest(
                *args, self.config.reanalyse.positions // self.mesh.size, updates
            )

        variables = learner.target_variables if mode == "sampled" else learner.variables
        run = split(
            local,
            self.mesh,
            (REPLICATED, REPLICATED, replay_specs(), DATA, REPLICATED),
            replay_specs(),
        )
        return state.replace(
            key=key,
            replay=run(variables, search_key, state.replay, drawn.positions, learner.updates),
        )

    def _update(self, state: State, drawn: Drawn) -> tuple[State, dict[str, Array]]:
        key, loss_key = jax.random.split(state.key)
        learner, config = state.learner, self.config

        def gather(replay, drawn: Drawn, env_steps: Array, updates: Array):
            return replay_lib.gather(replay, *drawn, env_steps, updates, config)

        run = split(gather, self.mesh, (replay_specs(), DATA, REPLICATED, REPLICATED), DATA)
        batch = run(state.replay, drawn, state.actor.env_steps, learner.updates)
        progress = jnp.minimum(learner.updates / max(config.total_updates, 1), 1.0)
        beta = (
            config.replay.importance_exponent + (1 - config.replay.importance_exponent) * progress
        )
        num_drawable = jnp.sum(replay_lib.drawable(state.replay, config))
        batch = batch.replace(
            weight=replay_lib.importance_weights(
                batch.weight, num_drawable, beta, config.replay.min_importance_weight
            )
        )

        learner, output = learner_lib.update(
            learner, loss_key, batch, network=self.network, config=config, terms=self.terms
        )
        run = split(
            replay_lib.set_priority, self.mesh, (replay_specs(), DATA, DATA), replay_specs()
        )
        replay = run(state.replay, drawn.positions, output.priority)
        return state.replace(learner=learner, replay=replay, key=key), output.metrics

    def _diagnose(self, state: State) -> dict[str, Array]:
        return diagnostics.of_replay(
            state.replay, state.actor.env_steps, state.learner.updates, self.config
        )

    # MANY CYCLES WITHOUT THE HOST

    def _cycles(
        self, state: State, count: Array, updates: Array, mode: Literal["warmup", "online", "final"]
    ):
        """`count` cycles of pure environments, with `updates` each, as one program; the metrics are
        those of the last update.
        """

        def lift(stage):
            return jax.vmap(stage) if self.seeds else stage

        def act(state: State) -> State:
            state, selection = (self._select_randomly if mode == "warmup" else self._select)(state)
            env, timestep = self._advance(state.actor.env, selection.action)
            return self._record(
                state.replace(actor=state.actor.replace(env=env)), selection, timestep
            )

        def learn(state: State) -> tuple[State, dict[str, Array]]:
            state, drawn = self._draw(state)
            return self._update(self._reanalyse(state, drawn), drawn)

        if mode == "warmup":
            return jax.lax.fori_loop(0, count, lambda _, s: lift(act)(s), state), {}
        metrics = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lift(learn), state)[1]
        )

        def one(_: int, carry):
            state, metrics = carry
            state = lift(act)(state) if mode == "online" else state
            return jax.lax.fori_loop(0, updates, lambda _, c: lift(learn)(c[0]), (state, metrics))

        return jax.lax.fori_loop(0, count, one, (state, metrics))


def start(stages: Stages, env: Environments, seed: int) -> State:
    """The state of a new run from `seed` on, after the environments' reset."""
    timestep = env.reset()
    seeds = (
        np.arange(seed, seed + stages.num_seeds, dtype=np.uint32)
        if stages.seeds
        else np.uint32(seed)
    )
    keys = jax.vmap(jax.random.key)(seeds) if stages.seeds else jax.random.key(seeds)
    return stages.begin(
        stages.init(keys, stages.put(env.state) if stages.pure else None), stages.put(timestep)
    )


def act(stages: Stages, env: Environments, state: State, *, random: bool) -> State:
    """One lock-step of all environments, stepped by the host."""
    state, selection = (stages.select_randomly if random else stages.select)(state)
    timestep = env.step(np.asarray(jax.device_get(selection.action)).reshape(-1))
    return stages.record(state, selection, stages.put(timestep))


def learn(stages: Stages, state: State) -> tuple[State, dict[str, Array]]:
    """One update with its share of reanalysis."""
    state, drawn = stages.draw(state)
    state = stages.reanalyse(state, drawn)
    return stages.update(state, drawn)


def counters(state: State) -> tuple[int, int]:
    """Environment steps (of the seed that has taken the fewest) and updates so far."""
    steps, updates = jax.device_get((state.actor.env_steps, state.learner.updates))
    return int(np.min(steps)), int(np.max(updates))


def cycle(stages: Stages, env: Environments, state: State) -> tuple[State, list[Made]]:
    """Goes on with the run's schedule: an act while environment steps are left, then its updates.

    With host environments this is one cycle and all its updates; with pure ones as many cycles as
    there are to the next line of the log, and the last of their updates. Seeds that are trained
    together act and learn in lock-step: one that has taken all its environment steps goes on
    learning while others still act.

    Returns:
      the state, and the updates made: none during warm-up, nor once the run is complete.
    """
    config = stages.config
    steps, updates = counters(state)
    acting, warmup = steps < config.env_steps, steps < config.cycle.warmup_steps
    left = config.total_updates - updates
    if stages.pure:
        # An act takes at most `num_envs` steps: so many acts are still to come, or more.
        acts = -(
            -((config.cycle.warmup_steps if warmup else config.env_steps) - steps)
            // config.env.num_envs
        )
        if warmup:
            return stages.cycles(state, acts, 0, "warmup")[0], []
        until_log = config.run.log_every - updates % config.run.log_every
        per_act = min(config.cycle.updates_per_act, left)
        if acting and per_act == 0:
            return stages.cycles(state, acts, 0, "online")[0], []
        if acting:
            count = min(acts, max(until_log // per_act, 1), left // per_act)
            state, metrics = stages.cycles(state, count, per_act, "online")
        else:
            count, per_act = 1, min(until_log, left)
            state, metrics = stages.cycles(state, count, per_act, "final")
        return state, [Made(updates + count * per_act, metrics)]

    if acting:
        state = act(stages, env, state, random=warmup)
        if warmup:
            return state, []
    made = []
    for i in range(min(config.cycle.updates_per_act if acting else 1, left)):
        state, metrics = learn(stages, state)
        made.append(Made(updates + i + 1, metrics))
    return state, made


def finished(config: Config, state: State) -> bool:
    """All environment steps taken and all updates made."""
    steps, updates = counters(state)
    return steps >= config.env_steps and updates >= config.total_updates


def make_env(config: Config, num_seeds: int = 1) -> Environments:
    """The training environments; their seeds follow from the run's and are the same on any number
    of devices.
    """
    seeds = [
        (config.seed + s) * 1000 + i for s in range(num_seeds) for i in range(config.env.num_envs)
    ]
    return make(config.env, seeds, training=True)


def _local_key(key: PRNGKey) -> PRNGKey:
    return jax.random.fold_in(key, jax.lax.axis_index("data"))
