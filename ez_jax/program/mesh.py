"""One mesh, one axis `data` over all devices.

Environments and replay are split along it, parameters are replicated.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ez_jax.types import Actor, PRNGKey, Replay, State

DATA, REPLICATED = PartitionSpec("data"), PartitionSpec()


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh over the first `num_devices` devices, all of all processes by default.

    Raises:
      ValueError: there are not so many.
    """
    devices = jax.devices()[:num_devices]
    if num_devices is not None and len(devices) < num_devices:
        raise ValueError(f"num-devices={num_devices}, but there are {len(devices)} devices")
    if jax.process_index() not in {device.process_index for device in devices}:
        raise ValueError(f"num-devices={num_devices} leaves some processes without a device")
    # Explicit axes, JAX's default, break mctx and indexed updates.
    axis_types = (AxisType.Auto,)
    return jax.make_mesh((len(devices),), ("data",), axis_types=axis_types, devices=devices)


def own_lanes(mesh: Mesh, num_lanes: int) -> slice:
    """Those of `num_lanes` environments whose devices are this process's."""
    parts = NamedSharding(mesh, DATA).addressable_devices_indices_map((num_lanes,)).values()
    bounds = [part[0].indices(num_lanes) for part in parts if part]
    return slice(min(b[0] for b in bounds), max(b[1] for b in bounds))


class DeviceLanes:
    """`agent.Lanes` over the devices of a mesh, by `jax.shard_map`."""

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self.num_devices = mesh.size

    def __call__(
        self, fn: Callable, out: type, *, key: PRNGKey | None, shared: tuple, lanes: tuple
    ) -> Any:
        def local(key: PRNGKey | None, shared: tuple, lanes: tuple) -> Any:
            keys = () if key is None else (jax.random.fold_in(key, jax.lax.axis_index("data")),)
            return fn(*keys, *shared, *lanes)

        lane_specs = tuple(replay_specs(x) if isinstance(x, Replay) else DATA for x in lanes)
        in_specs = REPLICATED, REPLICATED, lane_specs
        replays = (x for x in lane_specs if isinstance(x, Replay))
        out_specs = next(replays) if out is Replay else DATA
        # Under `check_vma=False` a tree search compiles without any collective.
        return jax.shard_map(
            local, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )(key, shared, lanes)


def replay_specs(replay: Replay) -> Replay:
    """Partition of each field of a replay."""
    lanes = dict.fromkeys(Replay.__dataclass_fields__, DATA)
    return replay.replace(**(lanes | {"cursor": REPLICATED, "frame_shape": replay.frame_shape}))


def actor_specs() -> Actor:
    """Partition of each field of an actor."""
    lanes: dict[str, Any] = dict.fromkeys(
        ("env", "stack", "legal", "last", "discount", "offset", "score"), DATA
    )
    whole: dict[str, Any] = dict.fromkeys(
        ("recent_scores", "games", "env_steps", "acts"), REPLICATED
    )
    whole["action_log"] = PartitionSpec(None, "data")
    return Actor(**lanes, **whole)


def sharding(mesh: Mesh, spec: PartitionSpec, seeds: bool) -> NamedSharding:
    """Sharding of an array, with one more axis in front where several seeds train at once."""
    return NamedSharding(mesh, PartitionSpec(None, *spec) if seeds else spec)


def state_shardings(state: State, mesh: Mesh, seeds: bool = False) -> State:
    """A `NamedSharding` for each leaf of `state` (arrays or their shapes)."""

    def named(specs: Any, values: Any) -> Any:
        # A spec may stand for a whole subtree, and absent fields stay absent.
        def spread(spec: PartitionSpec, value: Any) -> Any:
            return jax.tree.map(lambda _: sharding(mesh, spec, seeds), value)

        return jax.tree.map(spread, specs, values, is_leaf=lambda x: isinstance(x, PartitionSpec))

    return state.replace(
        learner=jax.tree.map(lambda _: sharding(mesh, REPLICATED, seeds), state.learner),
        actor=named(actor_specs(), state.actor),
        replay=named(replay_specs(state.replay), state.replay),
        key=sharding(mesh, REPLICATED, seeds),
    )
