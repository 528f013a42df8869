"""Plays games with a trained run's newest checkpoint: scores, and a video of the first game.

With --uniform it plays at random instead: the score of chance, beside which others can be read.

python experiments/evaluate.py --workdir=runs/Pong-cpu-seed0 --simulations=50 --video=pong.mp4
python experiments/evaluate.py --workdir=runs/Pong-cpu-seed0 --video=pong.mp4 --beliefs
python experiments/evaluate.py --workdir=runs/Pong-cpu-seed0 --sticky=0.25
python experiments/evaluate.py --workdir=runs/Pong-cpu-seed0 --uniform
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from ez_jax import restore, setup
from ez_jax.cli import OfRun, expanded, import_modules
from ez_jax.config import replace, validate
from ez_jax.look import Panel, play
from ez_jax.runner.evaluation import evaluate, game_name, summary, write_episodes
from ez_jax.runner.provenance import make_folders, write_result
from ez_jax.runner.video import check_video, record_video


@dataclass(frozen=True, kw_only=True)
class Args(OfRun):
    """Options; the work directory may be a folder that export.py made."""

    episodes: int = 32
    """Games, each with its own seed for the no-ops at its start."""
    simulations: int = 0
    """Simulations a search; 0: as in training."""
    explore: bool = False
    """Draws actions with the noise of training, rather than the best. Greedy games of a
    deterministic task repeat a few. Searches of vectors are the same with it and without.
    """
    uniform: bool = False
    """Plays uniform random actions, legal ones where the task says which are, without a search."""
    sticky: float = 0.0
    """Probability that the environment repeats the action before, drawn by the game's seed: greedy
    games then differ.
    """
    max_steps: int = 0
    """Ends a game after so many agent steps; 0: as the run's config says."""
    video: Path | None = None
    """Writes the first game here, e.g. pong.mp4."""
    beliefs: bool = False
    """Draws values, policies and the score beside the frames of the video."""
    output: Path | None = None
    """Writes the scores (.csv) and beside them their summary (.json) here; by default into the work
    directory, under a name that tells the options.
    """


def default_name(args: Args) -> str:
    """A file name that tells which games were played; `eval.csv` is the run's own."""
    parts = [f"evaluate-{args.episodes}"]
    parts += [f"{args.simulations}simulations"] if args.simulations else []
    parts += ["explore"] if args.explore else []
    parts += ["uniform"] if args.uniform else []
    parts += [f"sticky{args.sticky}".replace(".", "_")] if args.sticky else []
    parts += [f"{args.max_steps}steps"] if args.max_steps else []
    return "-".join(parts)


def main(argv: list[str] | None = None) -> int:
    setup()
    args = expanded(tyro.cli(Args, args=argv, description=__doc__))
    try:
        import_modules(args.imports)
        if not 0 <= args.sticky < 1:
            raise ValueError(f"--sticky={args.sticky} is out of range: it must be in [0, 1)")
        if args.episodes < 1 or args.simulations < 0 or args.max_steps < 0:
            raise ValueError(
                "--episodes must be at least 1, --simulations and --max-steps at least 0"
            )
        if args.beliefs and not args.video:
            raise ValueError("--beliefs draws into a video: give --video too")
        if args.uniform and (args.explore or args.simulations):
            raise ValueError("--uniform searches nothing: leave out --explore and --simulations")
        restored = restore(args.workdir)
        config = restored.config
        if args.video:
            check_video(config, args.video)
        if args.max_steps:
            config = replace(config, env__eval_max_episode_steps=args.max_steps)
        validate(config)
        output = args.output or args.workdir / default_name(args)
        base = output.stem if output.suffix in (".csv", ".json") else output.name
        table, told = (output.with_name(base + suffix) for suffix in (".csv", ".json"))
        make_folders(table, told)
        found = evaluate(
            restored.network,
            config,
            restored.variables,
            episodes=args.episodes,
            simulations=args.simulations or None,
            explore=args.explore,
            uniform=args.uniform,
            sticky=args.sticky,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = {
        "game": game_name(config),
        "updates": restored.updates,
        "env_steps": restored.env_steps,
        "simulations": found.simulations,
        "explore": args.explore,
        "uniform": args.uniform,
        "sticky": args.sticky,
    } | summary(config, found)
    normalized = result["human_normalized"]
    print(
        f"{result['game']} after {result['env_steps']:,} steps: mean {result['eval_mean']:.2f}, "
        f"median {result['eval_median']:.2f}"
        + (f", human-normalised {normalized:.3f}" if normalized is not None else "")
        + f"; {result['eval_distinct']} distinct returns in {result['eval_episodes']} episodes"
    )
    write_episodes(table, found)
    write_result(told, result)
    print(f"scores: {table}")
    if args.video:
        panel = None
        if args.beliefs:
            model = dataclasses.replace(restored, config=config)
            simulations = args.simulations or None
            game = play(model, num_simulations=simulations, actions=found.actions)
            panel = Panel(game, restored.network.spec.actions)
        record_video(config, found.actions, args.video, beside=panel)
        print(f"video of the first game: {args.video}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
