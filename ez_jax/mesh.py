"""One mesh, one axis `data` over all devices: environments and replay are split along it,
parameters are replicated.
"""

from collections.abc import Callable

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ez_jax.types import Actor, Replay, State

DATA, REPLICATED = PartitionSpec("data"), PartitionSpec()


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh over the first `num_devices` devices, all by default."""
    devices = jax.devices()[:num_devices]
    # Explicit axes, JAX's default, break mctx and indexed updates.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def split(fn: Callable, mesh: Mesh, in_specs, out_specs) -> Callable:
    """Runs `fn` on each device's share. Under `check_vma=False` a tree search compiles without any
    collective.
    """
    return jax.shard_map(fn, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def replay_specs() -> Replay:
    lanes = dict.fromkeys(Replay.__dataclass_fields__, DATA)
    return Replay(**(lanes | {"cursor": REPLICATED}))


def actor_specs() -> Actor:
    lanes = dict.fromkeys(("env", "stack", "last", "discount", "offset", "score"), DATA)
    whole = dict.fromkeys(("recent_scores", "games", "env_steps", "acts"), REPLICATED)
    return Actor(**lanes, **whole, action_log=PartitionSpec(None, "data"))


def sharding(mesh: Mesh, spec: PartitionSpec, seeds: bool) -> NamedSharding:
    """Of an array, with one more axis in front where several `seeds` are trained at once."""
    return NamedSharding(mesh, PartitionSpec(None, *spec) if seeds else spec)


def state_shardings(state: State, mesh: Mesh, seeds: bool = False) -> State:
    """A `NamedSharding` for each leaf of `state` (arrays or their shapes; what is absent stays
    absent).
    """

    def named(specs, values):
        return jax.tree.map(
            lambda spec, x: jax.tree.map(lambda _: sharding(mesh, spec, seeds), x),
            specs,
            values,
            is_leaf=lambda x: isinstance(x, PartitionSpec),
        )

    return State(
        learner=jax.tree.map(lambda _: sharding(mesh, REPLICATED, seeds), state.learner),
        actor=named(actor_specs(), state.actor),
        replay=named(replay_specs(), state.replay),
        key=sharding(mesh, REPLICATED, seeds),
    )
