"""Environments of one's own, looked at before a run: the protocol, and the values of images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ez_jax.envs.functional import Environment, Reset, Step, actions_of, bounds
from ez_jax.observations import check_image, is_image
from ez_jax.types import Array, PRNGKey


class ProtocolError(ValueError):
    """An environment is not as `Environment` asks; the message says what came and what should."""


def _shown(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "dtype") else type(x).__name__


def check_protocol(environment: Environment, name: str) -> None:
    """Evaluates both functions abstractly: nothing is computed.

    Raises:
      ProtocolError: the first thing that is not as `Environment` asks.
    """

    def need(condition: bool, what: str, found: Any, expected: str) -> None:
        if not condition:
            raise ProtocolError(f"environment {name}: {what} is {found}; expected {expected}")

    vectors, indices = (
        getattr(environment, kind, None) is not None for kind in ("action_size", "num_actions")
    )
    need(
        vectors != indices,
        "what says which actions there are",
        "num_actions and action_size" if vectors else "missing",
        "num_actions for indices, or action_size for vectors",
    )
    name_of_count = "action_size" if vectors else "num_actions"
    count: Any = getattr(environment, name_of_count)
    whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
    need(whole and count > 0, name_of_count, repr(count), "a positive int")
    key = jax.eval_shape(lambda: jax.random.key(0))
    taken = actions_of(environment)
    action = jax.ShapeDtypeStruct(taken.shape, taken.dtype)

    def abstract(method: str, *args: Any) -> Any:
        try:
            return jax.eval_shape(getattr(environment, method), *args)
        except Exception as error:  # whatever the environment raises
            raise ProtocolError(
                f"environment {name}: {method} cannot be compiled: "
                + (str(error).strip().splitlines() or [type(error).__name__])[0]
            ) from error

    reset = abstract("reset", key)
    need(isinstance(reset, Reset), "what reset returns", type(reset).__name__, "Reset")
    step = abstract("step", reset.state, action, key)
    need(isinstance(step, Step), "what step returns", type(step).__name__, "Step")
    seen = reset.observation
    need(
        isinstance(seen, jax.ShapeDtypeStruct) and len(seen.shape) > 0,
        "the observation of reset",
        _shown(seen),
        "one array with at least one axis",
    )
    after = step.observation
    same = isinstance(after, jax.ShapeDtypeStruct) and (after.shape, after.dtype) == (
        seen.shape,
        seen.dtype,
    )
    need(same, "the observation of step", _shown(after), f"{_shown(seen)} as of reset")
    for part, kinds, kind in (
        ("reward", "fiu", "a number"),
        ("terminated", "b", "a bool"),
        ("truncated", "b", "a bool"),
    ):
        value = getattr(step, part)
        good = hasattr(value, "shape") and value.shape == () and value.dtype.kind in kinds
        need(good, part, _shown(value), f"{kind} of shape []")
    before = jax.tree.map(_shown, reset.state), jax.tree.map(_shown, step.state)
    need(before[0] == before[1], "the state of step", before[1], f"{before[0]} as of reset")
    if hasattr(environment, "legal_actions"):
        need(indices, "legal_actions", "there", "none of them beside action_size")
        legal = abstract("legal_actions", reset.state)
        good = getattr(legal, "shape", None) == (count,) and legal.dtype == bool
        need(good, "what legal_actions returns", _shown(legal), f"bool[{count}]")


def check_values(environment: Environment) -> None:
    """Plays a few random steps; raises `ValueError` where an image or a board leaves its bounds.

    Nothing is played where observations are vectors, or bytes that were not drawn.
    """
    key = jax.random.key(0)
    if hasattr(environment, "check_board"):  # drawn: a frame does not tell
        environment.check_board(key)
        return
    seen = jax.eval_shape(environment.reset, key).observation
    if is_image(seen.shape) and seen.dtype not in ("uint8", "bool"):
        check_image(played(environment, key), bounds(environment))


def played(environment: Environment, key: PRNGKey, steps: int = 32) -> np.ndarray:
    """Observations along random actions: `[steps + 1, ...]`, of several episodes if they are short.

    The first frames of the later episodes are left out.
    """

    def one(carry: Any, key: PRNGKey) -> tuple[Any, Array]:
        action_key, step_key, reset_key = jax.random.split(key, 3)
        action = actions_of(environment).random(action_key, 1, 1)[0][0]
        step = environment.step(carry, action, step_key)
        # What lies behind an end says nothing.
        over, fresh = step.terminated | step.truncated, environment.reset(reset_key).state
        state = jax.tree.map(lambda a, b: jnp.where(over, a, b), fresh, step.state)
        return state, step.observation

    @jax.jit
    def play(key: PRNGKey) -> Array:
        first = environment.reset(key)
        _, seen = jax.lax.scan(one, first.state, jax.random.split(key, steps))
        return jnp.concatenate([first.observation[None], seen])

    return np.asarray(play(key))
