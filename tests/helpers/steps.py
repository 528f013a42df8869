"""Time steps of environments, collected and compared."""

import jax
import numpy as np

from ez_jax.types import TimeStep


def play(env, actions) -> TimeStep:
    """The time steps along `actions [T, N]`, stacked; the reset is not among them."""
    env.reset()
    return jax.tree.map(lambda *x: np.stack(x), *[env.step(np.asarray(a)) for a in actions])


def lane(steps: TimeStep, i: int = 0) -> TimeStep:
    return jax.tree.map(lambda x: x[:, i], steps)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))
