"""What follows training: evaluation games, a video of the first, `result.json`."""

import functools
import json
from collections.abc import Sequence
from typing import Any

import jax

from ez_jax import hosts
from ez_jax.agent.losses import ExtraLosses
from ez_jax.envs import Environments, PureEnvironments
from ez_jax.program.loops import Loop
from ez_jax.runner import evaluation, watch
from ez_jax.runner.metrics import MetricsFile
from ez_jax.runner.stopping import Clock
from ez_jax.runner.video import record_video, shows_frames
from ez_jax.runner.workdir import SeedRun, describe_losses, write_atomically
from ez_jax.types import State

VIDEO = "eval.mp4"


def finish_runs(
    loop: Loop,
    runs: Sequence[SeedRun],
    state: State,
    files: Sequence[MetricsFile],
    clock: Clock,
    *,
    preset: str,
    origin: dict[str, Any],
    losses: ExtraLosses | None,
    evaluate: bool,
) -> list[dict[str, Any]]:
    """Evaluates trained runs and writes their results; see `train.run_together`."""
    config, several = runs[0].config, len(runs) > 1
    trained_s, results, played = round(clock(), 1), [], None
    # Pure environments can be played again: compiled once for all seeds. Emulators cannot.
    if evaluate and hosts.first():
        played = evaluation.make_evaluation_envs(config, config.run.eval_episodes)
    for i, one in enumerate(runs):
        learner, actor = watch.of_seed((state.learner, watch.small(state.actor)), i, several)
        result = {
            "game": evaluation.game_name(config),
            "preset": preset,
            "seed": one.config.seed,
            "env_steps": int(actor.env_steps),
            "updates": int(learner.updates),
            "seeds_together": len(runs),
            "train_wall_s": trained_s,
        }
        result |= watch.spent(loop.stages, actor, int(learner.updates), len(runs), trained_s)
        if losses:
            result["extra_losses"] = describe_losses(losses)
        if evaluate:
            env = played if i == 0 or isinstance(played, PureEnvironments) else None
            record = any(board.takes_videos for board in files[i].boards)
            play = functools.partial(_evaluate_into, loop, one, learner.variables, env, record)
            result |= hosts.agree(play)
        results.append(result)
    for one, file, result in zip(runs, files, results):
        result |= {"wall_s": round(clock(), 1), **origin}
        write_atomically(one.workdir / "result.json", json.dumps(result, indent=2) + "\n")
        video = one.workdir / VIDEO
        file.result(result, video if video.exists() else None)
    return results


def _evaluate_into(
    loop: Loop, one: SeedRun, variables: Any, env: Environments | None, record: bool
) -> dict[str, Any]:
    config = one.config
    print(f"evaluating {config.run.eval_episodes} episodes of seed {config.seed}", flush=True)
    # Away from the mesh: evaluation is one batch on one device.
    variables = jax.device_put(jax.device_get(variables), jax.local_devices()[0])
    found = evaluation.evaluate(
        loop.stages.network,
        config,
        variables,
        episodes=config.run.eval_episodes,
        simulations=config.run.eval_simulations or None,
        env=env,
    )
    evaluation.write_episodes(one.workdir / "eval.csv", found)
    if record and shows_frames(config):
        record_video(config, found.actions, one.workdir / VIDEO)
    return evaluation.summary(config, found)
