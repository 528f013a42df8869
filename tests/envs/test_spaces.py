"""Spaces of Gymnasium and EnvPool: what frames and actions they make, and what is refused."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from ez_jax.envs.spaces import Frames, Moves, check_spaces

REAL, TORQUE = Box(-np.inf, np.inf, (2,), np.float32), Box(-2, 2, (3,), np.float32)


@pytest.mark.parametrize(
    "observations, actions, message",
    [
        (REAL, MultiBinary(3), "actions of the kind MultiBinary"),
        (REAL, MultiDiscrete([2, 3]), "actions of the kind MultiDiscrete"),
        (REAL, Tuple([Discrete(2), TORQUE]), "actions of the kind Tuple"),
        (REAL, Dict(push=TORQUE), "actions of the kind Dict"),
        (REAL, Box(0, 5, (2,), np.int32), "actions of the kind Box"),
        (REAL, Discrete(3, start=1), "actions that start at 1"),
        (REAL, Box(-1, 1, (0,), np.float32), "actions without an entry"),
        (REAL, Box(-1, np.inf, (1,), np.float32), "unbounded actions"),
        (MultiDiscrete([3, 5]), TORQUE, "observations of the kind MultiDiscrete"),
        (Tuple([REAL, REAL]), TORQUE, "observations of the kind Tuple"),
        (Dict(a=REAL, b=Box(0, 255, (64, 64, 3), np.uint8)), TORQUE, r"'b' .* Box \[64, 64, 3\]"),
        (Dict(a=Dict(b=REAL)), TORQUE, "entry 'a' is of the kind Dict"),
        (Dict(a=Tuple([REAL])), TORQUE, "entry 'a' is of the kind Tuple"),
        (Dict(a=MultiDiscrete([3, 5])), TORQUE, "entry 'a' is of the kind MultiDiscrete"),
        (Dict(desired_goal=REAL, x=REAL), TORQUE, "observations with desired_goal"),
    ],
)
def test_refusals(observations, actions, message):
    with pytest.raises(ValueError, match="mine has .*" + message):
        check_spaces("mine", observations, actions)


def test_bounds_that_are_no_numbers():
    actions = Box(-1, 1, (2,), np.float32)
    actions.low = np.array([-1, np.nan], np.float32)
    with pytest.raises(ValueError, match="mine has actions whose bounds are no numbers"):
        check_spaces("mine", REAL, actions)


def test_entries_of_a_dict_stand_side_by_side_by_name():
    """An index is one-hot there too, a matrix is read by rows, a number is one entry."""
    space = Dict(z=REAL, index=Discrete(3, start=4), matrix=Box(0, 9, (2, 2)), one=Box(0, 1, ()))
    check_spaces("mine", space, TORQUE)
    frames = Frames(space)
    seen = dict(
        z=np.array([[7.0, 8.0], [-7.0, -8.0]], np.float64),
        index=np.array([4, 6]),
        matrix=np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], np.float32),
        one=np.array([0.25, 0.75], np.float32),
    )
    found = frames(seen)
    assert found.dtype == np.float32
    assert found.tolist() == [
        [1, 0, 0, 1, 2, 3, 4, 0.25, 7, 8],
        [0, 0, 1, 5, 6, 7, 8, 0.75, -7, -8],
    ]
    spec = frames.spec(Moves(TORQUE), 1)
    assert (spec.frame_shape, spec.frame_dtype, spec.action_size) == ((10,), np.float32, 3)


def test_bits_are_a_vector():
    bits = Frames(MultiBinary(3))
    check_spaces("mine", MultiBinary(3), TORQUE)
    assert bits(np.array([[0, 1, 1], [1, 0, 0]], np.int8)).tolist() == [[0, 1, 1], [1, 0, 0]]
    assert bits.spec(Moves(Discrete(2)), 1).frame_shape == (3,)


def test_actions_keep_the_shape_of_their_box():
    moves = Moves(
        Box(np.array([[0.0, -1], [-4, 2]]), np.array([[1.0, 1], [4, 4]]), dtype=np.float64)
    )
    assert moves.size == 4
    taken = moves(np.array([[-1, 0, 0.5, 9]], np.float32))
    np.testing.assert_array_equal(taken, [[[0, 0], [2, 4]]])
