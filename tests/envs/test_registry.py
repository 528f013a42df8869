"""Tasks by id: what is refused, and in which words."""

import sys

import pytest

from ez_jax.config import EnvConfig
from ez_jax.envs import UnknownTask, check_task, make, registry

RAW = dict(clip_rewards=False, max_episode_steps=0, eval_max_episode_steps=0)


@pytest.mark.parametrize(
    "task, message",
    [
        ("LqrLqr21-v1", "LqrLqr21-v1 has unbounded actions (up to 1e+10)"),
        ("FetchReach-v4", "FetchReach-v4 has observations with achieved_goal, desired_goal;"),
        ("Game2048-v1", "Game2048-v1 has observations whose entry 'board' is no vector"),
        ("Brekout-v5", "unknown game 'Brekout'; the nearest are: Breakout"),
        ("HalfCheeta-v5", "unknown game 'HalfCheeta-v5'; the nearest are: HalfCheetah-v5"),
        ("CartPol-v1", "unknown game 'CartPol-v1'; the nearest are: CartPole-v1"),
        ("jax/Cath", "unknown game 'jax/Cath'; the nearest are: jax/Catch"),
        (
            "gymnax/CartPol-v1",
            "unknown game 'gymnax/CartPol-v1'; the nearest are: gymnax/CartPole-v1",
        ),
        (
            "pgx/minatar-brekout",
            "unknown game 'pgx/minatar-brekout'; the nearest are: pgx/minatar-breakout",
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


def test_missing_libraries_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)  # an import of it fails
    with pytest.raises(ValueError, match='gymnax/CartPole-v1 needs the extra "jaxenvs"'):
        check_task(EnvConfig(id="gymnax/CartPole-v1"))
    check_task(EnvConfig(id="CartPole-v1"))  # nothing else needs it
