"""Plays games with a trained run's newest checkpoint: scores, and a video of the first game.

python experiments/evaluate.py --workdir=runs/Pong-cpu-seed0 --simulations=50 --video=pong.mp4
python experiments/evaluate.py --workdir=runs/Pong-cpu-seed0 --explore --output=pong.csv
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from ez_jax import restore, setup
from ez_jax.config import replace, validate
from ez_jax.runner.evaluation import (
    check_video,
    evaluate,
    game_name,
    record_video,
    summary,
    write_episodes,
)
from ez_jax.runner.provenance import provenance


@dataclass(frozen=True)
class Args:
    workdir: Path
    """Work directory of a run."""
    episodes: int = 32
    """Games, each with its own seed for the no-ops at its start."""
    simulations: int = 0
    """Simulations a search; 0: as in training."""
    explore: bool = False
    """Draws actions with the noise of training, rather than the best. Greedy games of a
    deterministic task repeat a few.
    """
    max_steps: int = 0
    """Ends a game after so many agent steps; 0: as the run's config says."""
    video: Path | None = None
    """Writes the first game here, e.g. pong.mp4."""
    output: Path | None = None
    """Writes the scores (.csv) and beside them their summary (.json) here."""


def main(argv: list[str] | None = None) -> int:
    setup()
    args = tyro.cli(Args, args=argv, description=__doc__)
    try:
        if args.episodes < 1 or args.simulations < 0 or args.max_steps < 0:
            raise ValueError(
                "--episodes must be at least 1, --simulations and --max-steps at least 0"
            )
        restored = restore(args.workdir)
        config = restored.config
        if args.video:
            check_video(config)
        if args.max_steps:
            config = replace(config, env__eval_max_episode_steps=args.max_steps)
        validate(config)
        found = evaluate(
            restored.network,
            config,
            restored.variables,
            episodes=args.episodes,
            simulations=args.simulations or None,
            explore=args.explore,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = {
        "game": game_name(config),
        "updates": int(restored.state.learner.updates),
        "env_steps": int(restored.state.actor.env_steps),
        "simulations": args.simulations or config.search.num_simulations,
        "explore": args.explore,
    } | summary(config, found)
    normalized = result["human_normalized"]
    print(
        f"{result['game']} after {result['env_steps']:,} steps: mean {result['eval_mean']:.2f}, "
        f"median {result['eval_median']:.2f}"
        + (f", human-normalised {normalized:.3f}" if normalized is not None else "")
        + f"; {result['eval_distinct']} distinct returns in {result['eval_episodes']} episodes"
    )
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_episodes(args.output.with_suffix(".csv"), found)
        args.output.with_suffix(".json").write_text(
            json.dumps(result | provenance(), indent=2) + "\n"
        )
    if args.video:
        record_video(config, found.actions, args.video)
        print(f"video of the first game: {args.video}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
