"""EfficientZero in JAX.

    from ez_jax import classic, evaluate, restore, run

    run(classic("jax/Catch"), "runs/catch")
    trained = restore("runs/catch")

Names are loaded when they are first used: `import ez_jax` itself imports neither JAX nor EnvPool.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ez_jax.agent.losses import LossFn as LossFn
    from ez_jax.config import Config as Config
    from ez_jax.config import replace as replace
    from ez_jax.envs import register as register
    from ez_jax.presets import PRESETS as PRESETS
    from ez_jax.presets import classic as classic
    from ez_jax.presets import continuous as continuous
    from ez_jax.runner.evaluation import evaluate as evaluate
    from ez_jax.runner.restore import restore as restore
    from ez_jax.runner.setup import setup as setup
    from ez_jax.runner.train import run as run
    from ez_jax.runner.train import run_seeds as run_seeds

__version__ = "0.1.0"

_HOME = {
    "Config": "config",
    "LossFn": "agent.losses",
    "PRESETS": "presets",
    "classic": "presets",
    "continuous": "presets",
    "evaluate": "runner.evaluation",
    "register": "envs",
    "replace": "config",
    "restore": "runner.restore",
    "run": "runner.train",
    "run_seeds": "runner.train",
    "setup": "runner.setup",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ez_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ez_jax.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
