"""How soon a network sees what the points of a game hang on, from the frames of a run.

    python experiments/studies/sight.py --workdir=runs/Pong-cpu-seed0 --output=sight.json
    python experiments/studies/sight.py --workdir=runs/Pong-cpu-seed0 --switch network.motion=12

The representation and the value head learn nothing but the rewards of the next steps, discounted,
with no bootstrap: what they mistake is neither policy nor target. The last tenth of the replay is
kept to measure on. In minutes this ranks what enters the network, its width and the augmentation;
it says nothing about the model's later steps, nor about games whose rewards are rare, nor about
what longer training learns by heart (`foresight.py`).
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from ez_jax import setup
from ez_jax.agent import diagnostics
from ez_jax.agent import replay as replay_lib
from ez_jax.agent.augment import augment
from ez_jax.agent.transforms import logits_to_scalar, scalar_to_probs
from ez_jax.cli import OfRun, expanded, import_modules
from ez_jax.config import Config, from_dict, to_dict, validate
from ez_jax.lowering import jit
from ez_jax.networks import Network, init_variables
from ez_jax.observations import frames_to_channels
from ez_jax.runner.provenance import make_folders, write_result
from ez_jax.runner.restore import restore_run
from ez_jax.types import Array, Positions, Replay

HELD_OUT = 10
"""One part in so many of the replay, the newest, is measured on."""
SETTINGS = (
    "network",
    "loss.shift",
    "loss.intensity",
    "optimizer.learning_rate",
    "cycle.batch_size",
)
"""What is read of the settings, besides the environment."""
MEASURED = 2048
"""Positions that are measured on, at most."""


@dataclass(frozen=True, kw_only=True)
class Args(OfRun):
    output: Path | None = None
    """JSON file to write."""
    switch: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg()] = ()
    """Settings as name=value, other than the run's: of `network`, the augmentation (`loss.shift`,
    `loss.intensity`), `optimizer.learning-rate` and `cycle.batch-size`."""
    updates: int = 4000
    """Gradient steps."""
    lines: int = 8
    """Measurements, evenly spaced."""
    steps: int = 10
    """Steps whose rewards are summed."""


def switched(config: Config, switches: tuple[str, ...]) -> Config:
    """A config with other settings, each `section.name=value`.

    Raises:
      ValueError: no such setting, or a bad value.
    """
    values = to_dict(config)
    for switch in switches:
        name, equals, value = switch.partition("=")
        name = name.replace("-", "_")
        section, _, field = name.partition(".")
        read = name in SETTINGS or (section in SETTINGS and field in values[section])
        if not equals or not read:
            raise ValueError(
                f"switch {switch!r} must be name=value with a setting of `network` or one of "
                + ", ".join(SETTINGS[1:])
            )
        try:
            values[section][field] = json.loads(value)
        except json.JSONDecodeError:
            values[section][field] = value
    try:
        changed = from_dict(values)
        validate(changed)
    except TypeError as error:
        raise ValueError(f"{' '.join(switches)} has a value of another type: {error}") from error
    return changed


def main(argv: list[str] | None = None) -> int:
    setup()
    args = expanded(tyro.cli(Args, args=argv, description=__doc__))
    try:
        if min(args.updates, args.lines, args.steps) < 1:
            raise ValueError("--updates, --lines and --steps must be at least 1")
        make_folders(args.output)
        import_modules(args.imports)
        restored, state = restore_run(args.workdir, whole=True)
        if len(restored.network.spec.frame_shape) != 3:
            raise ValueError(f"{args.workdir} is a run on vectors")
        config = switched(restored.config, args.switch)
        own_rate = config.optimizer.learning_rate == restored.config.optimizer.learning_rate
        if config.optimizer.name != "adamw" and own_rate:
            raise ValueError(
                f"the run's rate is one of {config.optimizer.name}, and AdamW trains here: give "
                "one, e.g. --switch optimizer.learning-rate=0.001"
            )
        rows = fit(config, restored.network, state.replay, args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    settings = {
        "switches": list(args.switch),
        "steps": args.steps,
        "learning_rate": config.optimizer.learning_rate,
    }
    write_result(args.output, {"workdir": args.workdir.name} | settings | {"rows": rows})
    return 0


def fit(config: Config, run: Network, replay: Replay, args: Args) -> list[dict[str, Any]]:
    """Trains a new network and measures it on what it has not seen: a row for each measurement.

    Raises:
      ValueError: the replay is too short.
    """
    network = Network(config.network, run.spec)
    target = np.asarray(diagnostics.rewards_to_come(replay, config.target.discount, args.steps))
    times, filled = np.asarray(replay_lib.slot_times(replay)), int(replay.cursor)
    usable = ~np.asarray(replay.last)[:, : target.shape[1]] & (times[: target.shape[1]] >= 0)
    usable &= times[: target.shape[1]] < filled - args.steps
    newest = times[: target.shape[1]] >= filled * (1 - 1 / HELD_OUT)
    seen, held_out = np.argwhere(usable & ~newest), np.argwhere(usable & newest)
    rng = np.random.default_rng(config.seed)
    variables = init_variables(network, jax.random.key(config.seed))
    params, batch_stats = variables["params"], variables["batch_stats"]
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.optimizer.clip_norm),
        optax.adamw(config.optimizer.learning_rate, weight_decay=config.optimizer.weight_decay),
    )

    def logits(params: Any, frames: Array) -> Array:
        # In training mode: moments of the batch, so that no running average is in the way.
        both = {"params": params, "batch_stats": batch_stats}
        options: dict[str, Any] = {"train": True, "mutable": ["moments"]}
        encoded = network.apply(both, frames_to_channels(frames), method="encode", **options)[0]
        return network.apply(both, encoded, method="predict", **options)[0].value_logits

    def stacks(replay: Replay, at: Array) -> Array:
        return replay_lib.stacks(replay, Positions(at[:, 0], at[:, 1]), 1, config.env.stack)

    @jit
    def step(params: Any, opt_state: Any, key: Array, replay: Replay, at: Array, wanted: Array):
        def loss(params: Any) -> Array:
            frames = stacks(replay, at)
            frames = augment(key, frames, config.loss.shift, config.loss.intensity)
            probs = scalar_to_probs(wanted, config.network)
            return optax.softmax_cross_entropy(logits(params, frames), probs).mean()

        moved, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, moved), opt_state

    @jit
    def predict(params: Any, replay: Replay, at: Array) -> Array:
        return logits_to_scalar(logits(params, stacks(replay, at)), config.network)

    size = min(8 * config.cycle.batch_size, MEASURED)
    measured = held_out[rng.permutation(len(held_out))[: MEASURED // size * size]]
    measured = measured[: len(measured) // size * size]
    if not len(measured):
        raise ValueError(f"the run is too short: a measurement takes {size} held out positions")
    reward = np.asarray(replay.reward)[measured[:, 0], measured[:, 1]]
    wanted = target[measured[:, 0], measured[:, 1]]
    opt_state, key = optimizer.init(params), jax.random.key(config.seed)
    rows, begun = [], time.process_time()
    for number in range(1, args.updates + 1):
        at = seen[rng.integers(len(seen), size=config.cycle.batch_size)]
        params, opt_state = step(
            params,
            opt_state,
            jax.random.fold_in(key, number),
            replay,
            jnp.asarray(at, jnp.int32),
            jnp.asarray(target[at[:, 0], at[:, 1]]),
        )
        if number % max(args.updates // args.lines, 1):
            continue
        parts = np.split(measured.astype(np.int32), len(measured) // size)
        told = np.concatenate([predict(params, replay, jnp.asarray(part)) for part in parts])
        row = {
            "cpu_s": time.process_time() - begun,
            "error": float(np.mean((told - wanted) ** 2)),
            "variance": float(np.var(wanted)),
        }
        # At the very steps that end in a point: the frame alone decides.
        for name, there in (("at_losses", reward < 0), ("at_gains", reward > 0)):
            if there.any():
                row[name] = float(told[there].mean())
        rows.append(
            {"updates": number} | {name: float(f"{value:.5g}") for name, value in row.items()}
        )
        print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
