"""Small runs that take the whole path: what the tests of stages, runs and meshes share."""

import dataclasses
import subprocess
import sys
from pathlib import Path

from ez_jax.config import DEBUG, Config, classic, replace

ROOT = Path(__file__).parent.parent

PONG = replace(
    DEBUG, env_steps=330, target__unroll_steps=2, env__height=32, env__width=32, network__channels=4, network__head_channels=2, network__lstm=8,
    network__head_hidden=8, network__projection=8, network__predictor=8, cycle__warmup_steps=240, run__log_every=4,
    run__checkpoint_every=30, run__eval_episodes=2, env__eval_max_episode_steps=20)  # fmt: skip
BREAKOUT = replace(PONG, env__id="Breakout-v5")
# A vector network compiles in a fraction of the time.
CARTPOLE = replace(PONG, env__id="CartPole-v1", env__stack=1, env__clip_rewards=False)
# A pure environment. The cap on steps is no multiple of the 4 environments, and every act has two updates.
CATCH = replace(
    classic("jax/Catch", debug=True), env_steps=150, target__unroll_steps=2, target__td_steps=3, network__channels=8,
    network__lstm=8, network__head_hidden=8, network__projection=8, network__predictor=8, cycle__warmup_steps=90,
    cycle__updates_per_act=2, run__log_every=4, run__checkpoint_every=30, run__eval_episodes=2)  # fmt: skip


def options(config: Config, base: Config = DEBUG, prefix: str = "") -> list[str]:
    """The command-line options that turn `base` into `config`."""
    words = []
    for field in dataclasses.fields(config):
        new, old, name = getattr(config, field.name), getattr(base, field.name), prefix + field.name
        if dataclasses.is_dataclass(new):
            words += options(new, old, f"{name}.")
        elif new != old and name != "env.id":
            words.append(f"--{name.replace('_', '-')}={new}")
    return words


def command(script: str, *words: str) -> list[str]:
    return [sys.executable, str(ROOT / "experiments" / script), *words]


def call(script: str, *words: str, timeout: float = 200) -> subprocess.CompletedProcess:
    return subprocess.run(command(script, *words), capture_output=True, text=True, timeout=timeout)
