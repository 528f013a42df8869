"""Tasks by id."""

import difflib
import re
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import envpool
import numpy as np
from envpool import registration

from ez_jax.config import EnvConfig
from ez_jax.envs import checks, drawing, functional
from ez_jax.envs import envpool as envpool_lib
from ez_jax.envs import gymnasium as gymnasium_lib
from ez_jax.envs.catch import Catch
from ez_jax.envs.drawn import Drawn
from ez_jax.envs.envpool import EnvPool, check_supported, is_atari
from ez_jax.envs.functional import Environment, JaxEnvs
from ez_jax.types import Array, EnvSpec, TimeStep

FUNCTIONAL: dict[str, Callable[[], Environment]] = {
    "jax/Catch": Catch,
    "jax/Catch-12x12": lambda: Catch(12, 12),
    "jax/Catch-20x20": lambda: Catch(20, 20),
}
"""Environments written in JAX by id; `register` adds to it."""
DRAWN = "drawn/"
"""In front of the id of a pure environment with boards: the same as images."""
LIBRARIES = ("gymnax", "pgx")
CONTROL = "envpool.mujoco.dmc"
"""EnvPool's module of DeepMind Control."""
GYMNASIUM = "gymnasium/"
"""In front of an id of Gymnasium."""


class UnknownTask(ValueError):
    """No task has this id; the message names the nearest ones."""


class Environments(Protocol):
    """N environments in lock-step, stepped from the host."""

    num_envs: int

    def spec(self, stack: int) -> EnvSpec:
        """Describes them for a network, with observations of `stack` frames."""
        ...

    def reset(self) -> TimeStep:
        """The first frames."""
        ...

    def step(self, action: np.ndarray) -> TimeStep:
        """Steps each environment with `action [N]`, or `[N, D]` in [-1, 1]."""
        ...


@runtime_checkable
class PureEnvironments(Environments, Protocol):
    """N environments that can also step inside a compiled program."""

    state: Any  # [N, ...] where `reset` and `step` left them

    def advance(self, state: Any, action: Array) -> tuple[Any, TimeStep]:
        """`step` as a pure function of the state."""
        ...


class Description(NamedTuple):
    """A task without its environments."""

    spec: EnvSpec
    state: Any  # shapes of the state of pure environments, None for those on the host


def register(task: str, make_environment: Callable[[], Environment]) -> None:
    """Gives a pure environment of one's own an id, e.g. `register("mine/Maze", Maze)`.

    Raises:
      ProtocolError: it is not as `Environment` asks.
    """
    checks.check_protocol(make_environment(), task)
    FUNCTIONAL[task] = make_environment


def make(config: EnvConfig, seeds: list[int], *, training: bool) -> Environments:
    """The environments of a task, one for each seed.

    Raises:
      UnknownTask: no such id.
      ValueError: actions or observations are of a kind that is not supported, images or boards
        leave their bounds, or the library is not installed.
    """
    if (environment := _pure(config)) is not None:
        checks.check_protocol(environment, config.id)
        if training:
            checks.check_values(environment)
        return JaxEnvs(environment, config, seeds, training=training)
    _check_on_host(config)
    if config.id.startswith(GYMNASIUM):
        task = config.id.removeprefix(GYMNASIUM)
        return gymnasium_lib.Gymnasium(task, config, seeds, training=training)
    return EnvPool(config, seeds, training=training)


def describe(config: EnvConfig, stack: int) -> Description:
    """Describes a task without starting an emulator; raises as `make` does."""
    if (environment := _pure(config)) is not None:
        return Description(*functional.describe(environment, config.num_envs, stack))
    if config.id.startswith(GYMNASIUM):
        task = config.id.removeprefix(GYMNASIUM)
        return Description(gymnasium_lib.describe(task, stack, config.action_slots), None)
    _check_on_host(config)
    return Description(envpool_lib.describe(config, stack), None)


def time_limit(config: EnvConfig) -> int | None:
    """Agent steps after which a task says that it ends its episodes by itself.

    None where it says nothing. The limits of the config do not matter.
    """
    if (environment := _functional(config.id)) is not None:
        steps = getattr(environment, "time_limit", None)
    elif config.id.startswith(GYMNASIUM):
        steps = gymnasium_lib.time_limit(config.id.removeprefix(GYMNASIUM))
    else:
        steps = envpool_lib.time_limit(config.id)
    # With legal actions a repeat may end sooner.
    single = is_atari(config.id) or hasattr(environment, "legal_actions")
    repeat = 1 if single else config.action_repeat
    return None if steps is None else -(-int(steps) // repeat)


def check_task(config: EnvConfig) -> None:
    """Raises as `make` does, before anything is built, unless there is such a task."""
    if _pure(config) is None:
        _check_on_host(config)


def _check_on_host(config: EnvConfig) -> None:
    """`check_task` of what is not a pure environment."""
    task, slots = config.id, config.action_slots
    if task.startswith(GYMNASIUM):
        gymnasium_lib.check(task.removeprefix(GYMNASIUM), slots)
        return
    known = envpool.list_all_envs()
    if task not in known:
        raise _unknown(task, {name.lower(): name for name in (*known, *FUNCTIONAL)})
    check_supported(task, slots)
    if config.pixels:
        drawing.check()


def _pure(config: EnvConfig) -> Environment | None:
    """`_functional` with the options of the config: a grid of actions, and no drawn frames."""
    task, slots = config.id, config.action_slots
    if config.pixels and not is_control(task):
        raise ValueError(f"env.pixels=True is for tasks of DeepMind Control, which {task} is not")
    environment = _functional(task)
    if environment is None or not slots:
        return environment
    if not getattr(environment, "action_size", 0):
        raise ValueError(f"env.action-slots={slots}, but {task} has discrete actions")
    from ez_jax.envs.adapters import Slots

    return Slots(environment, slots)


def _functional(task: str) -> Environment | None:
    """The pure environment of this id, None where it must be EnvPool's."""
    if task.startswith(DRAWN):
        inner = _functional(task.removeprefix(DRAWN))
        return Drawn(inner) if inner is not None else None
    if task in FUNCTIONAL:
        return FUNCTIONAL[task]()
    library, _, name = task.partition("/")
    if library not in LIBRARIES:
        return None
    try:
        import gymnax
        import pgx
    except ImportError as error:
        raise ValueError(
            f'{task} needs the extra "jaxenvs" (pip install -e ".[jaxenvs]"): {error}'
        ) from error
    from ez_jax.envs.adapters import Gymnax, Pgx

    known = gymnax.registered_envs if library == "gymnax" else pgx.available_envs()
    if name not in known:
        raise _unknown(task, {f"{library}/{n}".lower(): f"{library}/{n}" for n in known})
    return Gymnax(*gymnax.make(name)) if library == "gymnax" else Pgx(pgx.make(name))


def is_control(task: str) -> bool:
    """Whether an id is a task of DeepMind Control, whose returns lie between 0 and 1000."""
    return registration.registry.specs.get(task, ("",))[0] == CONTROL


def dmc_task(name: str) -> str:
    """EnvPool's id of a task of DeepMind Control, from its domain and task.

    Args:
      name: as in `ball_in_cup-catch`; capitals, hyphens and underscores do not matter.

    Raises:
      UnknownTask: no such task; the message names the nearest ones.
    """
    lower = {}
    for task, (module, *_) in registration.registry.specs.items():
        if module == CONTROL:
            words = re.findall("[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+", task.removesuffix("-v1"))
            lower["-".join(words).lower()] = task
    wanted = re.sub("[^a-z0-9]", "", name.lower())
    for known, task in lower.items():
        if wanted == known.replace("-", ""):
            return task
    raise _unknown(name, {known: known for known in lower})


def _unknown(task: str, lower: dict[str, str]) -> UnknownTask:
    kind = "task"
    near = [lower[n] for n in difflib.get_close_matches(task.lower(), lower, n=3, cutoff=0.4)]
    if task.endswith("-v5") and all(is_atari(name) for name in near):
        # Games of Atari are named without their version.
        task, near = task.removesuffix("-v5"), [name.removesuffix("-v5") for name in near]
        kind = "game"
    return UnknownTask(
        f"unknown {kind} {task!r}" + (f"; the nearest are: {', '.join(near)}" if near else "")
    )
