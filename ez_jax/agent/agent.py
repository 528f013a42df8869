"""EfficientZero on one page: how it acts, and what one update is.

    act      search from the current observations; the environments step; one slot of replay each
    update   draw -> reanalyse -> targets -> loss -> priorities

Everything is a pure function `State -> State` for one seed. `lanes` runs what belongs to the
environments' lanes (search, replay) where these live: on the only device by default, on each
device of a mesh in `program`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from ez_jax.agent import acting, diagnostics, learning, priorities, reanalysis
from ez_jax.agent import replay as replay_lib
from ez_jax.agent.losses import ExtraLosses
from ez_jax.agent.targets import make_targets, progress
from ez_jax.config import Config
from ez_jax.networks import Network, init_variables
from ez_jax.types import Array, Batch, Drawn, PRNGKey, Replay, SearchOutput, State, TimeStep


class Lanes(Protocol):
    """Runs a function on the lanes of each device."""

    num_devices: int

    def __call__(
        self, fn: Callable, out: type, *, key: PRNGKey | None, shared: tuple, lanes: tuple
    ) -> Any:
        """`fn([key,] *shared, *lanes)` on each device's share.

        Args:
          fn: a pure function whose result is of type `out`.
          out: `Replay`, or a pytree whose leaves all have lanes or a batch in front.
          key: each device gets one of its own, derived from this.
          shared: the same on all devices.
          lanes: split over the devices along their first axis.
        """
        ...


class OneDevice:
    """All lanes are here."""

    num_devices = 1

    def __call__(
        self, fn: Callable, out: type, *, key: PRNGKey | None, shared: tuple, lanes: tuple
    ) -> Any:
        del out
        keys = () if key is None else (jax.random.fold_in(key, 0),)
        return fn(*keys, *shared, *lanes)


@dataclass(frozen=True, eq=False)
class Agent:
    """The algorithm of one run: its settings, its network and its loss terms."""

    config: Config
    network: Network
    terms: ExtraLosses  # see `losses.active_losses`
    lanes: Lanes = OneDevice()

    def __post_init__(self) -> None:
        if self.network.spec.action_size and self.config.search.algorithm != "gumbel":
            raise ValueError(
                f"search.algorithm={self.config.search.algorithm!r}: actions that are vectors need "
                "gumbel; env.action-slots makes indices of them"
            )

    # STATE

    def init(self, key: PRNGKey, env: Any = None) -> State:
        """A state before the first frames; `env` is the state of pure environments."""
        network_key, key = jax.random.split(key)
        config, spec = self.config, self.network.spec
        return State(
            learner=learning.init(config, init_variables(self.network, network_key)),
            actor=acting.init(config, spec, env),
            replay=replay_lib.empty(config, spec, config.env.num_envs),
            key=key,
        )

    def begin(self, state: State, timestep: TimeStep) -> State:
        """Adds the first frames, after the environments' reset."""
        return state.replace(actor=acting.start(state.actor, timestep))

    # ACT

    def select(self, state: State) -> tuple[State, SearchOutput]:
        """Searches from the current observations with exploration; repeats actions where idle."""
        key, search_key = jax.random.split(state.key)

        def local(
            key: PRNGKey, variables: Any, updates: Array, stack: Array, legal: Array | None
        ) -> SearchOutput:
            return acting.select(self.network, self.config, variables, key, stack, updates, legal)

        shared = state.learner.variables, state.learner.updates
        lanes = state.actor.stack, state.actor.legal
        selected = self.lanes(local, SearchOutput, key=search_key, shared=shared, lanes=lanes)
        if self.config.cycle.idle_steps:
            repeat_key = jax.random.fold_in(search_key, 1)
            selected = acting.repeat_where_idle(
                repeat_key, state.actor, state.replay, selected, self.config
            )
        return state.replace(key=key), selected

    def select_randomly(self, state: State) -> tuple[State, SearchOutput]:
        """Draws the actions of the warm-up."""
        key, select_key = jax.random.split(state.key)
        return state.replace(key=key), acting.select_randomly(
            select_key, state.actor, self.network.spec, self.config
        )

    def record(self, state: State, selected: SearchOutput, timestep: TimeStep) -> State:
        """Writes the step that the environments took to replay."""
        actor, replay = acting.record(
            state.actor, state.replay, selected, timestep, state.learner.updates, self.config
        )
        return state.replace(actor=actor, replay=replay)

    # UPDATE

    def update(self, state: State) -> tuple[State, dict[str, Array]]:
        """One update: draw -> reanalyse -> targets -> loss -> priorities."""
        state, drawn = self.draw(state)
        state = self.reanalyse(state, drawn)
        return self.learn(state, drawn)

    def draw(self, state: State) -> tuple[State, Drawn]:
        """Draws the positions of a batch, each device its own share."""
        key, draw_key = jax.random.split(state.key)
        devices = self.lanes.num_devices
        size = self.config.cycle.batch_size // devices

        def local(key: PRNGKey, replay: Replay) -> Drawn:
            drawn = priorities.sample(replay, key, size, self.config)
            return drawn._replace(probability=drawn.probability / devices)

        drawn = self.lanes(local, Drawn, key=draw_key, shared=(), lanes=(state.replay,))
        return state.replace(key=key), drawn

    def reanalyse(self, state: State, drawn: Drawn) -> State:
        """Searches again at replay positions, and writes policies and values back."""
        mode, learner = self.config.reanalyse.mode, state.learner
        if mode in ("off", "teacher"):  # a teacher searches in `learn`, and writes nothing back
            return state
        key, search_key = jax.random.split(state.key)
        size = self.config.reanalyse.positions // self.lanes.num_devices

        def local(
            key: PRNGKey, variables: Any, updates: Array, replay: Replay, drawn: Drawn
        ) -> Replay:
            args = self.network, self.config, variables, key, replay
            if mode == "sampled":
                return reanalysis.reanalyse_sampled(*args, drawn.positions, updates)
            return reanalysis.reanalyse_oldest(*args, size, updates)

        variables = learner.target_variables if mode == "sampled" else learner.variables
        replay = self.lanes(
            local,
            Replay,
            key=search_key,
            shared=(variables, learner.updates),
            lanes=(state.replay, drawn),
        )
        return state.replace(key=key, replay=replay)

    def learn(self, state: State, drawn: Drawn) -> tuple[State, dict[str, Array]]:
        """Targets, loss, gradient step and new priorities of a drawn batch."""
        key, loss_key = jax.random.split(state.key)
        learner, config = state.learner, self.config

        # The batch, as a teacher sees it, with its importance weights.
        def gather(env_steps: Array, updates: Array, replay: Replay, drawn: Drawn) -> Batch:
            return replay_lib.gather(replay, drawn, env_steps, updates, config)

        shared = state.actor.env_steps, learner.updates
        lanes: tuple = state.replay, drawn
        batch = self.lanes(gather, Batch, key=None, shared=shared, lanes=lanes)
        if config.reanalyse.mode == "teacher":
            teach_key, loss_key = jax.random.split(loss_key)

            def teach(key: PRNGKey, variables: Any, batch: Batch) -> Batch:
                return reanalysis.teach(self.network, config, variables, key, batch)

            teacher = (learner.target_variables,)
            batch = self.lanes(teach, Batch, key=teach_key, shared=teacher, lanes=(batch,))
        first = config.replay.importance_exponent
        beta = first + (1 - first) * progress(config, learner.updates)
        num_drawable = jnp.sum(priorities.drawable(state.replay, config))
        weight = priorities.importance_weights(
            batch.weight, num_drawable, beta, config.replay.min_importance_weight
        )
        batch = batch.replace(weight=weight)

        # One step towards its targets.
        targets = make_targets(batch, config, learner.updates)
        learner, output = learning.gradient_step(
            learner,
            loss_key,
            batch,
            targets,
            network=self.network,
            config=config,
            terms=self.terms,
        )

        # What the model got wrong is drawn more often.
        lanes = state.replay, drawn.positions, output.priority
        replay = self.lanes(priorities.set_priority, Replay, key=None, shared=(), lanes=lanes)
        return state.replace(learner=learner, replay=replay, key=key), output.metrics

    def diagnose(self, state: State) -> dict[str, Array]:
        """The diagnostics that read all of replay."""
        steps, updates = state.actor.env_steps, state.learner.updates
        return diagnostics.of_replay(state.replay, steps, updates, self.config)
