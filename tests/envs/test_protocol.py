"""Environments of one's own that are not as the protocol asks."""

import jax.numpy as jnp
import pytest

from ez_jax.envs import ProtocolError, register
from ez_jax.envs.checks import check_protocol
from ez_jax.envs.functional import Reset, Step
from ez_jax.envs.registry import FUNCTIONAL


class Bare:
    """One of four cells; the right thing unless a part is replaced."""

    def __init__(self, **parts):
        self.num_actions = parts.pop("num_actions", 3)
        self.parts = parts

    def reset(self, key):
        made = dict(state=jnp.zeros((), jnp.int32), observation=jnp.zeros(4))
        return Reset(**(made | self.parts.get("reset", {})))

    def step(self, state, action, key):
        no = jnp.zeros((), bool)
        made = dict(
            state=state + 1,
            observation=jnp.zeros(4),
            reward=jnp.zeros(()),
            terminated=no,
            truncated=no,
        )
        return Step(**(made | self.parts.get("step", {})))


def test_what_is_right_passes():
    check_protocol(Bare(), "mine")


@pytest.mark.parametrize(
    "parts, message",
    [
        (dict(num_actions=0), "num_actions is 0; expected a positive int"),
        (dict(num_actions=2.0), "num_actions is 2.0; expected a positive int"),
        (dict(num_actions=True), "num_actions is True; expected a positive int"),
        (
            dict(reset=dict(observation={"x": jnp.zeros(3)})),
            "the observation of reset is dict; expected one array with at least one axis",
        ),
        (
            dict(reset=dict(observation=jnp.zeros(()))),
            r"the observation of reset is float32\[\]; expected one array",
        ),
        (
            dict(step=dict(observation=jnp.zeros(5))),
            r"the observation of step is float32\[5\]; expected float32\[4\] as of reset",
        ),
        (
            dict(step=dict(observation=jnp.zeros(4, jnp.int32))),
            r"the observation of step is int32\[4\]; expected float32\[4\] as of reset",
        ),
        (
            dict(step=dict(reward=jnp.zeros(1))),
            r"reward is float32\[1\]; expected a number of shape \[\]",
        ),
        (
            dict(step=dict(terminated=jnp.zeros(()))),
            r"terminated is float32\[\]; expected a bool of shape \[\]",
        ),
        (
            dict(step=dict(state=jnp.zeros(()))),
            r"the state of step is float32\[\]; expected int32\[\] as of reset",
        ),
    ],
)
def test_what_came_and_what_is_expected(parts, message):
    with pytest.raises(ProtocolError, match="^environment mine/Bare: " + message):
        register("mine/Bare", lambda: Bare(**parts))
    assert "mine/Bare" not in FUNCTIONAL


class Vectors:
    """The same with two numbers as an action; its parts are those of an instance."""

    reset, step, parts = Bare.reset, Bare.step, {}

    def __init__(self, **more):
        self.action_size = 2
        for name, value in more.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    "more, message",
    [
        (dict(action_size=0), "action_size is 0; expected a positive int"),
        (dict(action_size=True), "action_size is True; expected a positive int"),
        (dict(action_size=jnp.array([2, 3])), "action_size is .*; expected a positive int"),
        (
            dict(num_actions=3),
            "what says which actions there are is num_actions and action_size; expected num_actio",
        ),
        (
            dict(legal_actions=lambda state: jnp.ones(2, bool)),
            "legal_actions is there; expected none of them beside action_size",
        ),
    ],
)
def test_actions_that_are_vectors(more, message):
    register("mine/Vectors", Vectors)
    del FUNCTIONAL["mine/Vectors"]
    with pytest.raises(ProtocolError, match="^environment mine/Vectors: " + message):
        register("mine/Vectors", lambda: Vectors(**more))


def test_actions_that_nothing_is_said_of():
    bare = Bare()
    del bare.num_actions
    with pytest.raises(ProtocolError, match="is missing; expected num_actions for indices, or act"):
        check_protocol(bare, "mine")


def test_other_results_and_errors():
    plain = Bare()
    plain.reset = lambda key: (jnp.zeros(()), jnp.zeros(4))
    with pytest.raises(ProtocolError, match="what reset returns is tuple; expected Reset"):
        check_protocol(plain, "mine")
    broken = Bare()
    broken.step = lambda state, action, key: 1 / 0
    with pytest.raises(ProtocolError, match="step cannot be compiled: division by zero"):
        check_protocol(broken, "mine")
    masked = Bare()
    masked.legal_actions = lambda state: jnp.ones(2, bool)
    with pytest.raises(
        ProtocolError, match=r"legal_actions returns is bool\[2\]; expected bool\[3\]"
    ):
        check_protocol(masked, "mine")
