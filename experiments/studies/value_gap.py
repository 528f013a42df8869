"""How far a run's values are from the returns of its states, and from what training says they are.

    python experiments/studies/value_gap.py --workdir=runs/Pong-cpu-seed0 --output=value_gap.json

Searches and targets see the network in inference, with running averages in BatchNorm; the loss sees
it in training, with moments of the batch. Where inference says b more of the same states, the value
target (n steps and inference's value) carries b along from bootstrap to bootstrap, and values
settle near b / (1 - discount^n) above the returns.
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
from ez_jax.agent import diagnostics, priorities, reanalysis, targets, unroll
from ez_jax.agent import replay as replay_lib
from ez_jax.agent.transforms import logits_to_scalar
from ez_jax.cli import OfRun, expanded, import_modules
from ez_jax.config import Config, replace
from ez_jax.networks import Network, encode
from ez_jax.observations import frames_to_channels
from ez_jax.runner.provenance import make_folders, write_result
from ez_jax.runner.restore import restore_run
from ez_jax.types import Array, Batch, Drawn, Positions, State


@dataclass(frozen=True, kw_only=True)
class Args(OfRun):
    output: Path | None = None
    """JSON file to write."""
    batches: int = 8
    """Batches of the run's size, of positions whose episode's end is in replay, drawn by priority
    as training draws them.
    """
    uniform: bool = False
    """Draws all positions alike. Training never sees such batches: their moments are not those of
    prioritised ones.
    """


def values(network: Network, config: Config, variables: Any, batch: Batch) -> tuple[Array, Array]:
    """Of the first states of a batch, not augmented, in inference and in training: `[B]` each."""
    first = frames_to_channels(batch.frames[:, : config.env.stack])
    inference = network.apply(variables, encode(network, variables, first), method=Network.predict)
    plain = replace(config, loss__shift=0, loss__intensity=0.0)
    training, _ = unroll.unroll_model(
        network, plain, variables, jax.random.key(0), batch, config.loss.consistency > 0
    )
    told = logits_to_scalar(inference.value_logits, config.network)
    return told, logits_to_scalar(training.value_logits[:, 0], config.network)


def batch_of(network: Network, config: Config, state: State, drawn: Drawn) -> Batch:
    """The batch that an update learns from: `sampled` reanalysis refreshes what it reads, a teacher
    searches in its place.
    """
    replay, learner, key = state.replay, state.learner, jax.random.key(0)
    model = network, config, learner.target_variables, key
    if config.reanalyse.mode == "sampled":
        replay = reanalysis.reanalyse_sampled(*model, replay, drawn.positions, learner.updates)
    batch = replay_lib.gather(replay, drawn, state.actor.env_steps, learner.updates, config)
    return reanalysis.teach(*model, batch) if config.reanalyse.mode == "teacher" else batch


def main(argv: list[str] | None = None) -> int:
    setup()
    args = expanded(tyro.cli(Args, args=argv, description=__doc__))
    try:
        import_modules(args.imports)
        make_folders(args.output)
        restored, state = restore_run(args.workdir)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    config, network, variables = restored.config, restored.network, restored.variables
    replay, updates = state.replay, state.learner.updates
    returns, known = diagnostics.realised_returns(replay, config.target.discount)
    lane, slot = np.nonzero(known & priorities.drawable(replay, config))
    size = config.cycle.batch_size
    if len(lane) < size:
        print(
            f"error: {args.workdir} has {len(lane)} positions whose return is known, a batch has "
            f"{size}",
            file=sys.stderr,
        )
        return 2
    exponent = 0.0 if args.uniform else config.replay.priority_exponent
    weight = np.asarray(replay.priority, float)[lane, slot] ** exponent
    rng = np.random.default_rng(0)
    both = jax.jit(lambda variables, batch: values(network, config, variables, batch))
    gather = jax.jit(lambda state, drawn: batch_of(network, config, state, drawn))
    rows, ages = [], []
    for _ in range(args.batches):
        chosen = rng.choice(len(lane), size, replace=False, p=weight / weight.sum())
        at = lane[chosen], slot[chosen]
        positions = Positions(jnp.asarray(at[0], jnp.int32), replay_lib.slot_times(replay)[at[1]])
        drawn = Drawn(positions, jnp.ones(size))
        batch = gather(state, drawn)
        inference, training = both(variables, batch)
        target = targets.make_targets(batch, config, updates).value[:, 0]
        rows.append(np.stack([returns[at], target, inference, training]))
        ages.append(np.asarray(batch.age))
    found = np.concatenate(rows, axis=1)
    names = ("return", "target", "inference", "training")
    result = {name: round(float(x.mean()), 4) for name, x in zip(names, found)}
    if min(np.std(found, axis=1)) > 0:
        result |= {
            f"correlation_{name}": round(float(np.corrcoef(found[0], x)[0, 1]), 4)
            for name, x in zip(names[1:], found[1:])
        }
    # By the age of the data, in quarters of the run, the newest first: values of one policy are
    # alike in all of them, returns are those of the policy that played.
    quarter = np.minimum(4 * np.concatenate(ages) // max(int(state.actor.env_steps), 1), 3)
    by_age = [
        dict(zip(names, found[:, quarter == q].mean(axis=1).round(4).tolist()))
        | {"positions": int((quarter == q).sum())}
        for q in range(4)
        if (quarter == q).any()
    ]
    result |= {
        "by_age": by_age,
        "positions": found.shape[1],
        "uniform": args.uniform,
        "updates": int(updates),
        "env_steps": int(state.actor.env_steps),
    }
    print("\n".join(f"{name:24s} {value}" for name, value in result.items()))
    write_result(args.output, {"workdir": args.workdir.name} | result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
