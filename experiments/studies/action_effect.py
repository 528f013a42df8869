"""Whether a run's model knows what an action changes.

    python experiments/studies/action_effect.py --workdir=runs/Pong-cpu-seed0 --output=effect.json

A search compares states that the model imagines after different actions. Where an action changes
little in one step, an error of the model that is small beside the state may be large beside that
change, and the search then compares errors. Here the state after the action taken and the state
after another one, drawn at random, are compared with the encoded state that followed: the share of
positions at which the former is nearer is 1/2 for a model that knows nothing of actions.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from ez_jax import setup
from ez_jax.actions import Discrete
from ez_jax.agent import replay as replay_lib
from ez_jax.cli import OfRun, expanded, import_modules
from ez_jax.networks import Network, encode
from ez_jax.observations import frames_to_channels
from ez_jax.runner.provenance import make_folders, write_result
from ez_jax.runner.restore import Restored, restore_run
from ez_jax.types import Array, Positions, Replay

AT_ONCE = 256
NEWEST = 0.1
"""Share of the steps that are new: the run has hardly trained on them."""


@dataclass(frozen=True, kw_only=True)
class Args(OfRun):
    output: Path | None = None
    """JSON file to write."""
    positions: int = 4096
    """Positions of a row, at most."""


def other_actions(restored: Restored, key: Array, taken: Array) -> Array:
    """A random action at each position; never the one taken, where actions are indices."""
    actions = restored.network.spec.actions
    if isinstance(actions, Discrete):
        return (taken + jax.random.randint(key, taken.shape, 1, actions.count)) % actions.count
    return jax.random.uniform(key, taken.shape, minval=-1.0, maxval=1.0)


def measure(restored: Restored, replay: Replay, args: Args) -> list[dict[str, Any]]:
    """Errors after the action taken and after another one, of all positions and of new ones."""
    network, stack = restored.network, restored.config.env.stack

    @jax.jit
    def errors(variables: Any, key: Array, replay: Replay, at: Array) -> dict[str, Array]:
        positions = Positions(at[:, 0], at[:, 1])
        frames = replay_lib.stacks(replay, positions, 2, stack)  # [B, S + 1, ...]
        state, truth = (
            encode(network, variables, frames_to_channels(frames[:, first : first + stack]))
            for first in (0, 1)
        )
        taken = replay.action[positions.lane, positions.time]

        def apply(method: Any, *args: Array) -> Array:
            return network.apply(variables, *args, method=method)

        def nearer(one: Array, other: Array) -> Array:
            return 1.0 * (one < other) + 0.5 * (one == other)

        def flat(x: Array) -> Array:
            return x.reshape(x.shape[0], -1)

        after = [
            apply(Network.advance, state, action)
            for action in (taken, other_actions(restored, key, taken))
        ]
        seen = apply(Network.project, truth)
        cosine = [
            jnp.sum(x * seen, axis=-1)
            / (jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(seen, axis=-1))
            for x in (
                apply(Network.predict_projection, apply(Network.project, state)) for state in after
            )
        ]
        distance = [jnp.linalg.norm(flat(x - truth), axis=-1) for x in after]
        return {
            "state_error": distance[0],
            "state_effect": jnp.linalg.norm(flat(after[0] - after[1]), axis=-1),
            "state_told_apart": nearer(*distance),
            "projection_error": 1 - cosine[0],
            "projection_error_of_another": 1 - cosine[1],
            "projection_told_apart": nearer(-cosine[0], -cosine[1]),
        }

    rng, rows = np.random.default_rng(0), []
    written = np.arange(replay.reward.shape[1]) < int(replay.cursor) - 1
    known = ~np.asarray(replay.last) & written
    age = restored.env_steps - np.asarray(replay.born)
    for name, group in (("all", known), ("new", known & (age <= NEWEST * restored.env_steps))):
        at = np.argwhere(group).astype(np.int32)
        at = at[rng.permutation(len(at))[: args.positions]]
        parts = np.split(at, range(AT_ONCE, len(at), AT_ONCE))
        found = [
            errors(restored.variables, jax.random.key(i), replay, jnp.asarray(part))
            for i, part in enumerate(parts)
        ]
        means = {k: float(np.mean(np.concatenate([x[k] for x in found]))) for k in found[0]}
        row = {field: round(mean, 4) for field, mean in means.items()}
        rows.append({"steps": name, "positions": len(at)} | row)
        print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    return rows


def main(argv: list[str] | None = None) -> int:
    setup()
    args = expanded(tyro.cli(Args, args=argv, description=__doc__))
    try:
        if args.positions < 1:
            raise ValueError("--positions must be at least 1")
        make_folders(args.output)
        import_modules(args.imports)
        restored, state = restore_run(args.workdir, whole=True)
        rows = measure(restored, state.replay, args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = {"updates": restored.updates, "env_steps": restored.env_steps}
    write_result(args.output, {"workdir": args.workdir.name} | counts | {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
