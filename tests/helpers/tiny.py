"""Small runs that take the whole path: what the tests of stages, runs and meshes share."""

import dataclasses
import json
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import jax
import numpy as np

from ez_jax import restore
from ez_jax.config import Config, replace
from ez_jax.presets import DEBUG, classic

ROOT = Path(__file__).parents[2]

PONG = replace(
    DEBUG,
    env_steps=330,
    target__unroll_steps=2,
    env__height=32,
    env__width=32,
    network__channels=4,
    network__head_channels=2,
    network__lstm=8,
    network__head_hidden=8,
    network__projection=8,
    network__predictor=8,
    cycle__warmup_steps=240,
    run__log_every=4,
    run__checkpoint_every=30,
    run__eval_episodes=2,
    env__eval_max_episode_steps=20,
)
BREAKOUT = replace(PONG, env__id="Breakout-v5")
# A vector network compiles in a fraction of the time.
CARTPOLE = replace(PONG, env__id="CartPole-v1", env__stack=1, env__clip_rewards=False)


def small_classic(task: str) -> Config:
    """The classic preset in seconds."""
    return small(classic(task, debug=True))


def small(config: Config) -> Config:
    """A run in seconds. The cap on steps is no multiple of the 4 environments, and every act has
    two updates.
    """
    return replace(
        config,
        env_steps=150,
        target__unroll_steps=2,
        target__td_steps=3,
        network__channels=8,
        network__lstm=8,
        network__head_hidden=8,
        network__projection=8,
        network__predictor=8,
        cycle__warmup_steps=90,
        cycle__updates_per_act=2,
        run__log_every=4,
        run__checkpoint_every=30,
        run__eval_episodes=2,
    )


# A pure environment: its cycles are compiled.
CATCH = small_classic("jax/Catch")


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


BREAKOUT_WORDS = ["--game=Breakout", "--preset=debug", *options(BREAKOUT)]


def command(script: str, *words: str) -> list[str]:
    return [sys.executable, str(ROOT / "experiments" / script), *words]


def call(script: str, *words: str, timeout: float = 600, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(script, *words), capture_output=True, text=True, timeout=timeout, **options
    )


def start_and_wait(words: list[str], workdir: Path, lines: int) -> subprocess.Popen:
    """A run in the background that has written so many lines of metrics to `workdir`."""
    process = subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    path = workdir / "metrics.jsonl"
    while process.poll() is None and (not path.exists() or path.read_text().count("\n") < lines):
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it was hit"
    return process


def load_script(name: str) -> ModuleType:
    """A command as a module."""
    (path,) = (ROOT / "experiments").rglob(f"{name}.py")
    spec = spec_from_file_location(name, path)
    module = module_from_spec(spec)
    sys.modules[name] = module  # tyro looks up where a class was written
    spec.loader.exec_module(module)
    return module


def status(script: str, *words: str) -> int:
    """The exit status of a command, run in this process."""
    try:
        return load_script(script).main(list(words))
    except SystemExit as stop:
        return stop.code


def metrics(workdir: Path) -> list[dict]:
    """All lines without the times."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "wall_s"} for row in rows]


def numbers(workdir: Path) -> list[np.ndarray]:
    """All that the newest checkpoint holds."""
    raw = lambda x: (
        jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    )
    return [np.asarray(raw(x)) for x in jax.tree.leaves(restore(workdir).state)]


def assert_same_bits(first: Path, second: Path) -> None:
    """The newest checkpoints hold the same numbers, bit for bit."""
    for a, b in zip(numbers(first), numbers(second), strict=True):
        np.testing.assert_array_equal(a, b)
