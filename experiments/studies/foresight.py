"""Whether a run's values foretell what it has hardly trained on as well as what it knows by heart.

    python experiments/studies/foresight.py --workdir=runs/Pong-cpu-seed0 --output=foresight.json

Searches meet new positions, losses old ones. Where the values of the old follow the rewards to come
and those of the new do not, the network has learned its replay by heart: more updates make that
worse, augmentation (`loss.shift`, `loss.intensity`) and decay help.
"""

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from ez_jax import setup
from ez_jax.agent import diagnostics
from ez_jax.agent import replay as replay_lib
from ez_jax.agent.transforms import logits_to_scalar
from ez_jax.cli import OfRun, expanded, import_modules
from ez_jax.networks import Network, encode
from ez_jax.observations import frames_to_channels
from ez_jax.runner.provenance import make_folders, write_result
from ez_jax.runner.restore import Restored, restore_run
from ez_jax.types import Array, Positions, Replay

AGES = (0, 1200, 2400, 4800, 9600, 19200)
"""Groups of positions, by the environment steps of the run since they were played."""
AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Args(OfRun):
    output: Path | None = None
    """JSON file to write."""
    steps: int = 20
    """Steps whose rewards are summed, discounted."""
    positions: int = 4000
    """Positions of a group, at most."""


def measure(restored: Restored, replay: Replay, args: Args) -> list[dict[str, Any]]:
    """Values against the rewards that came, by age: a row for each group."""
    config, network = restored.config, restored.network
    to_come = np.asarray(diagnostics.rewards_to_come(replay, config.target.discount, args.steps))
    slots = np.arange(to_come.shape[1])
    known = ~np.asarray(replay.last)[:, : len(slots)] & (slots < int(replay.cursor) - args.steps)
    age = restored.env_steps - np.asarray(replay.born)[:, : len(slots)]

    @jax.jit
    def told(variables: Any, replay: Replay, at: Array) -> Array:
        positions = Positions(at[:, 0], at[:, 1])
        frames = replay_lib.stacks(replay, positions, 1, config.env.stack)
        state = encode(network, variables, frames_to_channels(frames))
        found = network.apply(variables, state, method=Network.predict)
        return logits_to_scalar(found.value_logits, config.network)

    rng, rows = np.random.default_rng(0), []
    for youngest, oldest in itertools.pairwise(AGES):
        at = np.argwhere(known & (age >= youngest) & (age < oldest)).astype(np.int32)
        at = at[rng.permutation(len(at))[: args.positions]]
        if len(at) < 2:
            continue
        parts = np.split(at, range(AT_ONCE, len(at), AT_ONCE))
        values = np.concatenate([told(restored.variables, replay, jnp.asarray(x)) for x in parts])
        came = to_come[at[:, 0], at[:, 1]]
        row = {
            "age": [youngest, oldest],
            "positions": len(at),
            "value": float(values.mean()),
            "rewards": float(came.mean()),
        }
        if min(values.std(), came.std()) > 0:
            row["correlation"] = float(np.corrcoef(values, came)[0, 1])
        rows.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
        print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    return rows


def main(argv: list[str] | None = None) -> int:
    setup()
    args = expanded(tyro.cli(Args, args=argv, description=__doc__))
    try:
        if args.steps < 1 or args.positions < 2:
            raise ValueError("--steps must be at least 1, --positions at least 2")
        make_folders(args.output)
        import_modules(args.imports)
        restored, state = restore_run(args.workdir, whole=True)
        rows = measure(restored, state.replay, args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = {"updates": restored.updates, "env_steps": restored.env_steps, "steps": args.steps}
    write_result(args.output, {"workdir": args.workdir.name} | counts | {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
