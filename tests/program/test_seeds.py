"""Pure environments: many cycles in one program, and several seeds at once."""

import jax
import numpy as np
import pytest
from helpers.loops import advance, finished, start
from helpers.tiny import CATCH

from ez_jax.config import replace
from ez_jax.program.loops import HostLoop, make_training_envs
from ez_jax.program.mesh import make_mesh
from ez_jax.program.schedule import Plan
from ez_jax.program.stages import Stages, counters


def snapshot(state):
    """A copy on the host, which no later stage can overwrite."""
    env = state.actor.env
    if env is not None:
        env = env._replace(key=jax.random.key_data(env.key))
    key, actor = jax.random.key_data(state.key), state.actor.replace(env=env)
    return jax.tree.map(np.array, jax.device_get(state.replace(key=key, actor=actor)))


def of_seed(tree, index: int):
    return jax.tree.map(lambda x: x[index], tree)


def assert_same(a, b, context=""):
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=f"{context}{jax.tree_util.keystr(path)}")


def differ(a, b) -> bool:
    return any(np.any(x != y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def warmed_up(loop, *seeds: int):
    """A run after its warm-up, and snapshots of its start and of where it stands."""
    state = loop.start(*seeds)
    first = snapshot(state)
    while counters(state)[0] < CATCH.cycle.warmup_steps:
        state, made = advance(loop, state)
        assert not made
    return state, first, snapshot(state)


def to_the_end(loop, state):
    """The rest of a run: counters and the updates made after each plan."""
    trace = []
    while not finished(CATCH, state):
        state, made = advance(loop, state)
        trace.append((*counters(state), made))
    return snapshot(state), trace


def transitions(replay) -> int:
    """Steps of one seed that are stored."""
    return int(np.sum(~replay.last[:, : replay.cursor]))


@pytest.fixture(scope="module")
def alone():
    """A pure environment's run in compiled cycles, and the warm-up of the next seed."""
    loop, _ = start(CATCH)
    state, first, warm = warmed_up(loop, 0)
    end, trace = to_the_end(loop, state)
    _, *other = warmed_up(start(replace(CATCH, seed=1))[0], 1)
    return dict(loop=loop, first=[first, other[0]], warm=[warm, other[1]], end=end, trace=trace)


@pytest.fixture(scope="module")
def hosted():
    """The same run as the host steps it."""
    env = make_training_envs(CATCH)
    loop = HostLoop(Stages(CATCH, env.spec(CATCH.env.stack), make_mesh()), env)
    state, _, warm = warmed_up(loop, 0)
    end, trace = to_the_end(loop, state)
    return dict(warm=warm, end=end, trace=trace)


@pytest.fixture(scope="module")
def pair():
    """Two seeds at once."""
    loop, _ = start(CATCH, num_seeds=2)
    state, first, warm = warmed_up(loop, 0, 1)
    end, trace = to_the_end(loop, state)
    return dict(loop=loop, first=first, warm=warm, end=end, trace=trace)


@pytest.mark.slow
def test_compiled_cycles_take_the_schedule_of_host_steps(alone, hosted):
    # Both had the same random steps, to the bit.
    assert_same(alone["warm"][0].replay, hosted["warm"].replay)
    for run in (alone, hosted):
        assert (
            int(run["end"].actor.env_steps) == CATCH.env_steps
            and int(run["end"].learner.updates) == CATCH.total_updates
        )
        assert transitions(run["end"].replay) == CATCH.env_steps
    assert (
        int(alone["end"].actor.acts)
        == int(hosted["end"].actor.acts)
        == int(alone["end"].replay.cursor)
    )
    np.testing.assert_array_equal(alone["end"].replay.last, hosted["end"].replay.last)
    np.testing.assert_array_equal(alone["end"].replay.born, hosted["end"].replay.born)
    # Wherever the compiled program comes back to the host, it stands where the host would stand.
    places, stops = [t[:2] for t in hosted["trace"]], [t[:2] for t in alone["trace"]]
    assert set(stops) <= set(places) and len(stops) < len(places) / 2
    online = [u for s, u in places if s < CATCH.env_steps]
    assert (
        online == list(range(2, 2 * len(online) + 2, 2)) and len(online) > 10
    )  # two updates an act


@pytest.mark.slow
def test_compiled_cycles_come_back_for_each_line_of_the_log(alone):
    lines = [made[-1].number // CATCH.run.log_every for *_, made in alone["trace"]]
    assert lines[-1] == CATCH.total_updates // CATCH.run.log_every
    assert np.all(np.diff([0, *lines]) <= 1)
    for _, updates, made in alone["trace"]:
        assert [m.number for m in made] == [updates]
        assert np.isfinite(made[0].metrics["loss/total"]) and "loss/value" in made[0].metrics
    assert alone["loop"]._cycles._cache_size() == 3  # warm-up, with updates, and updates alone


@pytest.mark.slow
def test_compiled_replay_holds_what_the_environments_gave(alone, pair):
    """The action log drives fresh environments through the same frames, rewards and ends."""
    for seed, end in enumerate((alone["end"], of_seed(pair["end"], 0), of_seed(pair["end"], 1))):
        env, replay = make_training_envs(replace(CATCH, seed=max(seed - 1, 0))), end.replay
        timestep, stored = env.reset(), 0
        for i in range(int(replay.cursor)):
            np.testing.assert_array_equal(replay.frame[:, i], timestep.frame)
            was_last, timestep = timestep.last, env.step(end.actor.action_log[i])
            taken = ~replay.last[:, i]
            # Only the cap leaves a step out.
            np.testing.assert_array_equal(
                taken, ~was_last & (stored + np.cumsum(~was_last) <= CATCH.env_steps)
            )
            np.testing.assert_array_equal(replay.action[taken, i], end.actor.action_log[i][taken])
            np.testing.assert_array_equal(replay.reward[taken, i], timestep.reward[taken])
            np.testing.assert_array_equal(replay.discount[taken, i], timestep.discount[taken])
            stored += taken.sum()
        assert (
            stored == CATCH.env_steps
            and replay.reward.any()
            and replay.last.any()
            and end.actor.games >= 12
        )


@pytest.mark.slow
def test_two_seeds_start_as_each_would_alone(alone, pair):
    for seed in (0, 1):
        assert_same(of_seed(pair["first"], seed), alone["first"][seed], f"seed {seed}: ")
        assert_same(
            of_seed(pair["warm"], seed).replay, alone["warm"][seed].replay, f"seed {seed}: "
        )
        assert_same(of_seed(pair["warm"], seed).actor, alone["warm"][seed].actor, f"seed {seed}: ")


@pytest.mark.slow
def test_each_seed_has_its_own_numbers(pair):
    first, second = of_seed(pair["end"], 0), of_seed(pair["end"], 1)
    assert differ(first.learner.variables, second.learner.variables) and differ(
        first.key, second.key
    )
    assert differ(first.replay.frame, second.replay.frame) and differ(
        first.actor.action_log, second.actor.action_log
    )
    for end in (first, second):
        assert (
            int(end.actor.env_steps) == CATCH.env_steps
            and int(end.learner.updates) == CATCH.total_updates
        )
        assert transitions(end.replay) == CATCH.env_steps
    for *_, made in pair["trace"]:
        values = jax.device_get(made[0].metrics)
        assert (
            all(x.shape == (2,) for x in values.values())
            and values["loss/total"][0] != values["loss/total"][1]
        )


@pytest.mark.slow
def test_a_seed_at_its_cap_waits_for_the_others(pair):
    loop = pair["loop"]
    state = loop.start(0, 1)
    while counters(state)[1] < 4:
        state, _ = advance(loop, state)
    # By hand: the first seed has taken all its steps.
    steps = np.array(state.actor.env_steps)
    state = state.replace(
        actor=state.actor.replace(
            env_steps=jax.device_put(
                np.array([CATCH.env_steps, steps[1]], np.int32), state.actor.env_steps.sharding
            )
        )
    )
    before = snapshot(state)
    after = snapshot(loop.run(state, Plan(3, "online", 0))[0])
    assert_same(of_seed(before.replay, 0), of_seed(after.replay, 0))
    assert_same(of_seed(before.actor, 0), of_seed(after.actor, 0))  # its environments too
    assert differ(of_seed(before.actor.env, 1), of_seed(after.actor.env, 1))
    assert after.replay.cursor[1] == before.replay.cursor[1] + 3 == after.actor.acts[1]
    grown = transitions(of_seed(after.replay, 1)) - transitions(of_seed(before.replay, 1))
    assert 4 < grown <= 12 and after.actor.env_steps[1] == steps[1] + grown
    assert after.learner.updates.tolist() == before.learner.updates.tolist()


@pytest.mark.slow
def test_a_seed_at_its_cap_goes_on_learning(pair):
    loop = pair["loop"]
    state, *_ = warmed_up(loop, 0, 1)
    state = state.replace(
        actor=state.actor.replace(
            env_steps=jax.device_put(
                np.array([CATCH.env_steps, CATCH.cycle.warmup_steps], np.int32),
                state.actor.env_steps.sharding,
            )
        )
    )
    before = snapshot(state)
    state, made = advance(loop, state)
    after = snapshot(state)
    assert after.learner.updates.tolist() == [made[-1].number] * 2 == [CATCH.run.log_every] * 2
    for seed in (0, 1):
        assert differ(
            of_seed(before.learner.variables["params"], seed),
            of_seed(after.learner.variables["params"], seed),
        )
    assert (after.replay.cursor - before.replay.cursor).tolist() == [
        0,
        CATCH.run.log_every // CATCH.cycle.updates_per_act,
    ]
