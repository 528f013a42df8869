"""The agent's functions, compiled once for a mesh, their buffers donated.

Several seeds are one more axis in front of everything, by `jax.vmap`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ez_jax.agent.agent import Agent
from ez_jax.agent.losses import ExtraLosses, active_losses
from ez_jax.config import Config
from ez_jax.lowering import jit
from ez_jax.networks import Network
from ez_jax.program.mesh import (
    DATA,
    REPLICATED,
    DeviceLanes,
    own_lanes,
    sharding,
    state_shardings,
)
from ez_jax.program.transfer import pack, unpack
from ez_jax.types import Array, EnvSpec, State, TimeStep


class Stages:
    """The stages of one run, or of several seeds at once.

    Args:
      config: validated.
      spec: of the environments.
      mesh: environments and batch size must be multiples of its devices.
      env: abstract state of one seed's environments if they are pure functions.
      losses: extra loss terms, see `losses.active_losses`.
      num_seeds: trained at once; None leaves the axis away.

    Raises:
      ValueError: environments, batch or reanalysed positions cannot be split over the devices.
    """

    def __init__(
        self,
        config: Config,
        spec: EnvSpec,
        mesh: Mesh,
        *,
        env: Any = None,
        losses: ExtraLosses | None = None,
        num_seeds: int | None = None,
    ):
        check_divisible(config, mesh.size)
        self.config, self.spec, self.mesh, self.num_seeds = config, spec, mesh, num_seeds
        self.network = Network(config.network, spec)
        terms = active_losses(config, losses)
        self.agent = agent = Agent(config, self.network, terms, DeviceLanes(mesh))
        self.abstract = abstract_state(agent, env)
        """Shapes of the state of one seed."""
        self.shardings = state_shardings(self.abstract, mesh, self.seeds)
        self.lane_sharding = sharding(mesh, DATA, self.seeds)
        self.whole = sharding(mesh, REPLICATED, self.seeds)
        both = self.shardings, self.lane_sharding

        self.stack_seeds = jax.jit(lambda states: jax.tree.map(lambda *x: jnp.stack(x), *states))
        """Stacks a list of states of single seeds along a new first axis."""
        self.init = self._compiled(agent.init, (), out_shardings=self.shardings)
        self.begin = self._compiled(
            lambda state, first: agent.begin(state, unpack(first)), out_shardings=self.shardings
        )
        # A search keeps no batch beside replay: time counts here, memory in the other stages.
        self.select = self._compiled(agent.select, little_memory=False, out_shardings=both)
        self.select_randomly = self._compiled(agent.select_randomly, out_shardings=both)
        self.record = self._compiled(
            lambda state, selected, step: agent.record(state, selected, unpack(step)),
            out_shardings=self.shardings,
        )
        self.draw = self._compiled(agent.draw, out_shardings=both)
        self.reanalyse = self._compiled(agent.reanalyse, out_shardings=self.shardings)
        self.learn = self._compiled(agent.learn, out_shardings=(self.shardings, self.whole))
        self.diagnose = self._compiled(agent.diagnose, (), out_shardings=self.whole)

    @property
    def seeds(self) -> bool:
        """Whether there is an axis of seeds."""
        return self.num_seeds is not None

    def over_seeds(self, fn: Callable) -> Callable:
        """`fn` of one seed as a function of all."""
        return jax.vmap(fn) if self.seeds else fn

    def _compiled(
        self,
        stage: Callable,
        donated: tuple[int, ...] = (0,),
        little_memory: bool = True,
        **options,
    ) -> Callable:
        return jit(
            self.over_seeds(stage), donate_argnums=donated, little_memory=little_memory, **options
        )

    def to_lanes(self, tree: Any) -> Any:
        """Puts host arrays `[seeds * n, ...]` of this process's `n` lanes on its devices, a
        `TimeStep` packed.
        """

        lanes = own_lanes(self.mesh, self.config.env.num_envs)
        here = (lanes.stop - lanes.start,)
        shape = here if self.num_seeds is None else (self.num_seeds, *here)

        def one(x: Any) -> Array:
            mine = x.reshape(shape + x.shape[1:])
            return jax.make_array_from_process_local_data(self.lane_sharding, mine)

        return jax.tree.map(one, pack(tree) if isinstance(tree, TimeStep) else tree)

    def keys(self, seeds: Sequence[int]) -> Array:
        """The typed keys of the seeds: `[]`, or `[seeds]` where there is an axis of them."""
        keys = jax.vmap(jax.random.key)(np.array(seeds, np.uint32))
        return keys if self.seeds else keys[0]

    def update(self, state: State) -> tuple[State, dict[str, Array]]:
        """One update with its share of reanalysis, each of its stages a program of its own."""
        state, drawn = self.draw(state)
        state = self.reanalyse(state, drawn)
        return self.learn(state, drawn)


def check_divisible(config: Config, num_devices: int) -> None:
    """Raises `ValueError` where environments, batch or reanalysed positions cannot be split."""
    for name, size in (
        ("env.num-envs", config.env.num_envs),
        ("cycle.batch-size", config.cycle.batch_size),
        ("reanalyse.positions", config.reanalyse.positions),
    ):
        if size % num_devices:
            more = ""
            if name == "env.num-envs":
                more = "; cycle.updates-per-act in proportion keeps the updates of a run"
            raise ValueError(
                f"{name}={size} is out of range: it must be a multiple of the {num_devices} devices"
                + more
            )


def abstract_state(agent: Agent, env: Any = None) -> State:
    """Shapes of an agent's state; `env` is the abstract state of pure environments."""
    return jax.eval_shape(agent.init, jax.random.key(0), env)


def counters(state: State) -> tuple[int, int]:
    """Environment steps (of the seed that has taken the fewest) and updates so far."""
    steps, updates = jax.device_get((state.actor.env_steps, state.learner.updates))
    return int(np.min(steps)), int(np.max(updates))
