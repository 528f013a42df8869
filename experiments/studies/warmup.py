"""How many rewards the random play of a warm-up finds, by how long actions are repeated.

    python experiments/studies/warmup.py --output=warmup.json
    python experiments/studies/warmup.py --games Freeway PrivateEye --repeats 0 0.9 --seeds=3

Where nothing is found nothing can be learned: single random actions cancel out, and where a goal
takes many steps one way they never reach it. Repeats last a geometric time (compare
temporally-extended exploration, Dabney et al. 2021, arXiv 2006.01782).
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from ez_jax import setup
from ez_jax.config import EnvConfig, replace
from ez_jax.envs import check_task
from ez_jax.presets import CPU
from ez_jax.program.loops import HostLoop, make_training_envs
from ez_jax.program.mesh import make_mesh
from ez_jax.program.stages import Stages, counters
from ez_jax.runner.provenance import make_folders, write_result
from ez_jax.runner.scores import RANDOM_HUMAN


@dataclass(frozen=True)
class Args:
    games: tuple[str, ...] = tuple(RANDOM_HUMAN)
    """Games to play."""
    repeats: tuple[float, ...] = (0.0, 0.75, 0.9, 0.97)
    """Probabilities that a step repeats the action before it."""
    steps: int = 2000
    """Agent steps of a warm-up."""
    seeds: int = 1
    """Warm-ups of each kind."""
    output: Path | None = None
    """JSON file to write."""


def rewarded_steps(game: str, repeat: float, steps: int, seed: int) -> int:
    """Steps of one warm-up whose reward is not zero."""
    config = replace(
        CPU,
        seed=seed,
        env_steps=steps,
        env__id=f"{game}-v5",
        replay__capacity=2 * steps,
        cycle__warmup_steps=steps,
        cycle__warmup_repeat=repeat,
    )
    env = make_training_envs(config)
    loop = HostLoop(Stages(config, env.spec(config.env.stack), make_mesh(1)), env)
    state = loop.start(seed)
    while counters(state)[0] < steps:
        state = loop.act(state, random=True)
    return int(np.count_nonzero(np.asarray(state.replay.reward)))


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv, description=__doc__)
    setup()
    try:
        for game in args.games:
            check_task(EnvConfig(id=f"{game}-v5"))
        make_folders(args.output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("| game | " + " | ".join(f"repeat {repeat:g}" for repeat in args.repeats) + " |")
    print("|---" * (1 + len(args.repeats)) + "|")
    found: dict[str, dict[str, list[int]]] = {}
    for game in args.games:
        found[game] = {
            f"{repeat:g}": [
                rewarded_steps(game, repeat, args.steps, seed) for seed in range(args.seeds)
            ]
            for repeat in args.repeats
        }
        cells = [f"{np.mean(counts):.1f}" for counts in found[game].values()]
        print(f"| {game} | " + " | ".join(cells) + " |", flush=True)
    write_result(args.output, {"steps": args.steps, "rewarded_steps": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
