"""n-step values of one window, by hand."""

import jax
import numpy as np

from ez_jax.agent.targets import (
    n_step_value,
)

REWARD = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
VALUE = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]


def n_step(steps=3, *, terminal=(), timeout=(), max_steps=3):
    """Targets of the first slots of a six-slot window with a discount of 1/2 and final frames at
    the slots given.

    The rewards at final frames are no step's and must never be read.
    """
    discount, last = np.full(6, 0.5, np.float32), np.zeros(6, bool)
    for slot in terminal:
        discount[[slot - 1, slot] if slot else slot] = 0.0
    last[[*terminal, *timeout]] = True
    fn = jax.jit(n_step_value, static_argnums=5)
    return fn(
        np.array(REWARD, np.float32),
        discount,
        last,
        np.array(VALUE, np.float32),
        np.int32(steps),
        max_steps,
    )


def test_plain_window():
    """z_0 = 1 + 2/2 + 3/4 + 40/8."""
    np.testing.assert_allclose(n_step(), [7.75, 10.75, 13.75])


def test_shortened_horizon():
    """z_0 = 1 + 20/2, and z_0 = 1 + 2/2 + 30/4."""
    np.testing.assert_allclose(n_step(1), [11.0, 17.0, 23.0])
    np.testing.assert_allclose(n_step(2), [9.5, 13.5, 17.5])


def test_terminal_step_inside_the_horizon():
    """The step from slot 1 is terminal: z_0 = 1 + 2/2, z_1 = 2, and the final frame at slot 2 is
    worth nothing.
    """
    np.testing.assert_allclose(n_step(terminal=[2]), [2.0, 2.0, 0.0])


def test_timeout_inside_the_horizon():
    """Bootstraps early from the final frame: z_0 = 1 + 2/2 + 30/4, z_1 = 2 + 30/2, z_2 = 30."""
    np.testing.assert_allclose(n_step(timeout=[2]), [9.5, 17.0, 30.0])


def test_final_frame_exactly_at_the_horizon():
    """Slot 2 is two steps after slot 0."""
    np.testing.assert_allclose(n_step(2, terminal=[2])[0], 2.0)
    np.testing.assert_allclose(n_step(2, timeout=[2])[0], 9.5)


def test_final_frame_beyond_the_horizon():
    """An end that comes later than the horizon changes nothing, even if the step to it is the next
    one.
    """
    np.testing.assert_allclose(n_step(1, terminal=[2])[0], 11.0)
    np.testing.assert_allclose(n_step(1, timeout=[2])[0], 11.0)
    np.testing.assert_allclose(n_step(3, terminal=[5])[:2], [7.75, 10.75])


def test_slot_that_is_the_final_frame():
    """Nothing after a terminal step, its own value after a time-out; the slot behind starts another
    episode.
    """
    np.testing.assert_allclose(n_step(terminal=[0])[:2], [0.0, 10.75])
    np.testing.assert_allclose(n_step(timeout=[0])[:2], [10.0, 10.75])


def test_two_episodes_in_a_window():
    """Time-out at slot 1, terminal end at slot 3: z_0 = 1 + 20/2, z_1 = 20, z_2 = 3."""
    np.testing.assert_allclose(n_step(terminal=[3], timeout=[1]), [11.0, 20.0, 3.0])
    # The other way round: z_0 = 1, z_1 = 0, z_2 = 3 + 40/2.
    np.testing.assert_allclose(n_step(terminal=[1], timeout=[3]), [1.0, 0.0, 23.0])
