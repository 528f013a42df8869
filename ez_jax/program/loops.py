"""The two loops that carry out the schedule.

    act (select, step, record)  ->  draw  ->  reanalyse  ->  learn

Environments on the host step between the compiled stages. Environments that are pure functions
step inside: then a whole plan of cycles is one program.
"""

import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ez_jax import hosts
from ez_jax.agent.losses import ExtraLosses
from ez_jax.agent.replay import to_rows
from ez_jax.config import Config
from ez_jax.envs import Environments, PureEnvironments, describe, make
from ez_jax.envs.seeds import training_seeds
from ez_jax.lowering import jit
from ez_jax.observations import push_frame
from ez_jax.program.mesh import own_lanes
from ez_jax.program.schedule import Plan, schedule
from ez_jax.program.stages import Stages, check_divisible, counters
from ez_jax.program.transfer import Packed, unpack
from ez_jax.types import Array, State

PROGRAM_S = 3.0
"""About the time that a program of many cycles takes: a run that is asked to stop does so between
two."""
FIRST_CYCLES = 16
"""Of the first such program, whose speed is not known yet."""
OTHER = "the environments did not repeat the recorded run: is this another EnvPool version?"


class Update(NamedTuple):
    """An update that was made."""

    number: int  # from 1
    metrics: dict[str, Array]  # [] or [seeds] each


class Loop(Protocol):
    """Carries out plans with one kind of environments."""

    stages: Stages

    def start(self, *seeds: int) -> State:
        """The state of a new run, or of several with a seed each, after the reset."""
        ...

    def run(self, state: State, plan: Plan) -> tuple[State, list[Update]]:
        """Carries out cycles of `plan`, at least one; `state` is consumed.

        Returns:
          the state, and the updates made whose metrics are known.
        """
        ...

    def regenerate(self, state: State) -> State:
        """Brings fresh environments to where a restored state's are, and its frames back.

        Raises:
          ValueError: the environments do not repeat what they did.
        """
        ...


class HostLoop:
    """Environments that step on the host, between the stages: one cycle at a time."""

    def __init__(self, stages: Stages, env: Environments):
        self.stages, self.env = stages, env

    def start(self, *seeds: int) -> State:
        stages = self.stages
        first = stages.to_lanes(self.env.reset())
        return stages.begin(stages.init(stages.keys(seeds), None), first)

    def act(self, state: State, *, random: bool) -> State:
        """One lock-step of all environments."""
        stages = self.stages
        state, selected = (stages.select_randomly if random else stages.select)(state)
        shape = stages.spec.actions.shape
        action = hosts.own_part(selected.action, -1 - len(shape)).reshape(-1, *shape)
        timestep = self.env.step(action)
        return stages.record(state, selected, stages.to_lanes(timestep))

    def run(self, state: State, plan: Plan) -> tuple[State, list[Update]]:
        _, done = counters(state)
        if plan.phase != "final":
            state = self.act(state, random=plan.phase == "warmup")
        updates = []
        for number in range(1, plan.updates + 1):
            state, metrics = self.stages.update(state)
            updates.append(Update(done + number, metrics))
        return state, updates

    def regenerate(self, state: State) -> State:
        """Steps fresh emulators through the action log."""
        stages = self.stages
        fresh = self.start(*range(stages.num_seeds or 1))  # whatever the keys are
        acts = np.asarray(state.actor.acts)  # [] or [seeds]
        # Of this process's lanes: [M, n] or [M, seeds, n], and D behind where actions are vectors.
        shape = stages.spec.actions.shape
        lanes = -1 - len(shape)
        log = np.moveaxis(hosts.own_part(state.actor.action_log, lanes), lanes - 1, 0)
        reward = hosts.own_part(state.replay.reward, -2)
        ended = hosts.own_part(state.replay.last, -2)

        def put_frame(frames: Array, stack: Array, index: Array, running: Array, packed: Packed):
            timestep = unpack(packed)
            kept = jax.lax.dynamic_index_in_dim(frames, index, axis=1, keepdims=False)
            newest = jax.vmap(to_rows)(stack[..., -timestep.frame.shape[-1] :])
            newest = jnp.where(running, newest, kept)
            pushed = push_frame(stack, timestep.frame, timestep.first)
            return (
                jax.lax.dynamic_update_index_in_dim(frames, newest, index, axis=1),
                jnp.where(running, pushed, stack),
            )

        if stages.seeds:
            put_frame = jax.vmap(put_frame, (0, 0, None, 0, 0))
        frames, stack = fresh.replay.frame, fresh.actor.stack
        placed = frames.sharding, stack.sharding
        put_frame = jax.jit(put_frame, donate_argnums=(0, 1), out_shardings=placed)
        slots = fresh.replay.reward.shape[-1]
        last = hosts.own_part(fresh.actor.last, -1)
        for i in range(int(acts.max())):
            running = i < acts  # a seed that had taken all its steps waits for the others
            timestep = self.env.step(log[i].reshape(-1, *shape))
            seen = timestep.reward.reshape(reward.shape[:-1])
            known = running & (i >= acts - slots)  # not written over since
            known = known[..., None] & ~ended[..., i % slots]
            if np.any(known & (seen != reward[..., i % slots])):
                raise ValueError(OTHER)
            packed = stages.to_lanes(timestep)
            frames, stack = put_frame(frames, stack, np.int32(i % slots), running, packed)
            last = np.where(running[..., None], timestep.last.reshape(last.shape), last)
        if not np.array_equal(last, hosts.own_part(state.actor.last, -1)):
            raise ValueError(OTHER)
        return state.replace(
            replay=state.replay.replace(frame=frames), actor=state.actor.replace(stack=stack)
        )


class CompiledLoop:
    """Environments that are pure functions: all cycles of a plan are one program."""

    def __init__(self, stages: Stages, env: PureEnvironments):
        self.stages, self.env = stages, env
        self._cycles = jit(
            self._run_cycles,
            donate_argnums=0,
            static_argnums=3,
            out_shardings=(stages.shardings, stages.whole),
        )

    def start(self, *seeds: int) -> State:
        stages = self.stages
        first = self.env.reset()
        state = stages.init(stages.keys(seeds), stages.to_lanes(self.env.state))
        return stages.begin(state, stages.to_lanes(first))

    def run(self, state: State, plan: Plan) -> tuple[State, list[Update]]:
        _, done = counters(state)
        state, metrics = self._cycles(state, plan.cycles, plan.updates, plan.phase)
        made = plan.cycles * plan.updates
        return state, [Update(done + made, metrics)] if made else []

    def regenerate(self, state: State) -> State:
        """Nothing is missing: the environments are part of the state."""
        return state

    def _run_cycles(
        self,
        state: State,
        count: Array,
        updates: Array,
        phase: Literal["warmup", "online", "final"],
    ) -> tuple[State, dict[str, Array]]:
        """`count` cycles with `updates` each; the metrics are those of the last update."""
        agent = self.stages.agent

        def act(state: State) -> State:
            select = agent.select_randomly if phase == "warmup" else agent.select
            state, selected = select(state)
            before = state.actor
            env, timestep = self.env.advance(before.env, selected.action)
            state = agent.record(state, selected, timestep)
            # A seed that waits for others stands still with its environments, so that it can be
            # given more steps.
            moved = state.actor.acts > before.acts
            env = jax.tree.map(lambda new, old: jnp.where(moved, new, old), env, before.env)
            return state.replace(actor=state.actor.replace(env=env))

        act, update = self.stages.over_seeds(act), self.stages.over_seeds(agent.update)
        if phase == "warmup":
            return jax.lax.fori_loop(0, count, lambda _, s: act(s), state), {}
        shapes = jax.eval_shape(update, state)[1]
        metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def one(_: int, carry: Any) -> Any:
            state, metrics = carry
            state = act(state) if phase == "online" else state
            return jax.lax.fori_loop(0, updates, lambda _, c: update(c[0]), (state, metrics))

        return jax.lax.fori_loop(0, count, one, (state, metrics))


def train(loop: Loop, state: State) -> Iterator[tuple[State, list[Update]]]:
    """Follows the schedule to its end.

    Each state is consumed when the next one is asked for. Seeds that are trained together act and
    learn in lock-step: one that has taken all its environment steps goes on learning while others
    still act.

    Yields:
      the state after a few cycles, and the updates made in them whose metrics are known.
    """
    most, phase = FIRST_CYCLES, ""
    while (plan := schedule(loop.stages.config, *counters(state))).cycles:
        if plan.phase != phase:
            most, phase = FIRST_CYCLES, plan.phase
        cycles, start = min(plan.cycles, most), time.monotonic()
        state, updates = loop.run(state, plan._replace(cycles=cycles))
        if isinstance(loop, CompiledLoop):
            counters(state)  # waits for the program
            each = (time.monotonic() - start) / cycles
            # All processes must take as many.
            most = hosts.agree(lambda: max(1, int(PROGRAM_S / each)))
        yield state, updates


def make_training_envs(
    config: Config, seeds: Sequence[int] = (), lanes: slice = slice(None)
) -> Environments:
    """The training environments of some lanes, those of one seed after another.

    Their seeds follow from the run's and are the same on any number of devices and processes.

    Args:
      config: of the runs.
      seeds: of runs that are trained together; by default the config's alone.
      lanes: of each run.
    """
    own = [
        one
        for seed in seeds or (config.seed,)
        for one in training_seeds(seed, config.env.num_envs)[lanes]
    ]
    return make(config.env, own, training=True)


def make_loop(
    config: Config,
    mesh: Mesh,
    *,
    losses: ExtraLosses | None = None,
    seeds: Sequence[int] = (),
) -> Loop:
    """Environments, compiled stages and the loop that joins them.

    Args:
      config: validated.
      mesh: see `Stages`.
      losses: extra loss terms, see `losses.active_losses`.
      seeds: of runs that are trained together, along an axis of their own; by default the config's
        alone, without that axis.
    """
    check_divisible(config, mesh.size)
    num_seeds = len(seeds) or None
    env = make_training_envs(config, seeds, own_lanes(mesh, config.env.num_envs))
    stages = functools.partial(
        Stages, config, env.spec(config.env.stack), mesh, losses=losses, num_seeds=num_seeds
    )
    if not isinstance(env, PureEnvironments):
        return HostLoop(stages(), env)
    return CompiledLoop(stages(env=describe(config.env, config.env.stack).state), env)
