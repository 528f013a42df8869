"""Tasks by id: what is refused, and in which words."""

import sys

import pytest
from envpool import registration

from ez_jax.config import EnvConfig
from ez_jax.envs import UnknownTask, check_task, dmc_task, make, registry, time_limit

RAW = dict(clip_rewards=False, max_episode_steps=0, eval_max_episode_steps=0)


@pytest.mark.parametrize(
    "task, message",
    [
        ("LqrLqr21-v1", "LqrLqr21-v1 has unbounded actions (up to 1e+10)"),
        ("FetchReach-v4", "FetchReach-v4 has observations with achieved_goal, desired_goal;"),
        ("Brekout-v5", "unknown game 'Brekout'; the nearest are: Breakout"),
        ("HalfCheeta-v5", "unknown task 'HalfCheeta-v5'; the nearest are: HalfCheetah-v5"),
        ("CartPol-v1", "unknown task 'CartPol-v1'; the nearest are: CartPole-v1"),
        ("MetaWorld/Assembly-v9", "unknown task 'MetaWorld/Assembly-v9'; the nearest are: MetaWo"),
        ("", "unknown task ''"),
        ("jax/Cath", "unknown task 'jax/Cath'; the nearest are: jax/Catch"),
        (
            "gymnax/CartPol-v1",
            "unknown task 'gymnax/CartPol-v1'; the nearest are: gymnax/CartPole-v1",
        ),
        (
            "pgx/minatar-brekout",
            "unknown task 'pgx/minatar-brekout'; the nearest are: pgx/minatar-breakout",
        ),
        ("pgx/tic_tac_toe", "tic_tac_toe is a game of 2 players; only one is supported"),
    ],
)
def test_refusals_are_one_line_before_any_work(monkeypatch, task, message):
    if task.startswith(("gymnax/", "pgx/")):
        pytest.importorskip(task.partition("/")[0])

    def never(*_, **__):
        raise AssertionError("environments were built")

    monkeypatch.setattr(registry, "EnvPool", never)
    monkeypatch.setattr(registry, "JaxEnvs", never)
    for attempt in (
        lambda: check_task(EnvConfig(id=task)),
        lambda: make(EnvConfig(id=task), [0], training=True),
    ):
        with pytest.raises(ValueError) as caught:
            attempt()
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
        assert isinstance(caught.value, UnknownTask) == message.startswith("unknown")


@pytest.mark.parametrize(
    "task", ["CartPole-v1", "Breakout-v5", "Catch-v0", "jax/Catch", "Pendulum-v1", "WalkerWalk-v1"]
)
def test_what_is_supported_is_not_refused(task):
    check_task(EnvConfig(id=task))


@pytest.mark.parametrize(
    "task, steps",
    [
        ("CliffWalking-v1", None),  # in agent steps, which take two of the environment's
        ("CartPole-v1", 250),
        ("WalkerWalk-v1", 500),
        ("BabyAI-GoToRedBall-v0", None),
        ("Pong-v5", 27_000),
        ("jax/Catch", 5),
        ("drawn/jax/Catch", 5),
        ("gymnasium/CartPole-v1", 250),
        ("gymnasium/CliffWalking-v1", None),
    ],
)
def test_the_limit_that_a_task_says_it_has(task, steps):
    assert time_limit(EnvConfig(id=task, action_repeat=2)) == steps


def test_all_of_deepmind_control_is_supported_but_what_is_unbounded():
    specs = registration.registry.specs
    refused, known = [], [task for task, spec in specs.items() if spec[0] == registry.CONTROL]
    for task in known:
        try:
            check_task(EnvConfig(id=task))
        except ValueError:
            refused.append(task)
    assert len(known) == 51
    assert sorted(refused) == [dmc_task("lqr-lqr_2_1"), dmc_task("lqr-lqr_6_2")]


def test_missing_libraries_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)  # an import of it fails
    with pytest.raises(ValueError, match='gymnax/CartPole-v1 needs the extra "jaxenvs"'):
        check_task(EnvConfig(id="gymnax/CartPole-v1"))
    check_task(EnvConfig(id="CartPole-v1"))  # nothing else needs it
