"""The stages together: ratio, caps, one compilation each, no implicit transfers, and what each
ablation switch changes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.loops import advance, finished, start, warmed_up
from helpers.tiny import BREAKOUT, CARTPOLE

from ez_jax.agent import acting, reanalysis
from ez_jax.agent.replay import empty, from_rows
from ez_jax.agent.targets import horizon
from ez_jax.config import replace
from ez_jax.program import transfer
from ez_jax.program.loops import make_training_envs
from ez_jax.program.mesh import make_mesh
from ez_jax.program.stages import Stages
from ez_jax.types import EnvSpec, SearchOutput, TimeStep


def begin(config, updates: int = 0):
    """A run just after its warm-up and so many updates."""
    loop, state = warmed_up(config, updates)
    return loop.stages, loop.env, state


@pytest.fixture(scope="module")
def whole_run():
    """Every cycle of a run: environment steps, updates and metrics after each."""
    loop, state = start(BREAKOUT)
    trace = []
    while not finished(BREAKOUT, state):
        before = int(state.learner.updates)
        state, made = advance(loop, state)
        assert [m.number for m in made] == list(range(before + 1, int(state.learner.updates) + 1))
        trace.append((int(state.actor.env_steps), int(state.learner.updates), len(made)))
    return loop.stages, state, trace


def test_ratio_and_hard_caps(whole_run):
    _, state, trace = whole_run
    steps, updates, made = map(np.array, zip(*trace))
    warmup, per_act = BREAKOUT.cycle.warmup_steps, BREAKOUT.cycle.updates_per_act
    before = np.concatenate([[0], steps[:-1]])
    assert np.all(made[before < warmup] == 0)  # no update before the warm-up is over
    online = (before >= warmup) & (before < BREAKOUT.env_steps)
    assert np.all(made[online] == per_act)
    assert np.all(made[before >= BREAKOUT.env_steps] == 1)
    assert steps[-1] == BREAKOUT.env_steps and updates[-1] == BREAKOUT.total_updates
    stored = int(
        jnp.sum(~state.replay.last & (jnp.arange(state.replay.last.shape[1]) < state.replay.cursor))
    )
    assert (
        stored == BREAKOUT.env_steps
    )  # each step taken is one transition in replay, and nothing else is


def test_one_compilation_per_stage(whole_run):
    stages, _, _ = whole_run
    names = ("init", "begin", "select", "select_randomly", "record", "draw", "reanalyse", "learn")
    assert {name: getattr(stages, name)._cache_size() for name in names} == dict.fromkeys(names, 1)


def test_replay_holds_what_the_emulator_played(whole_run):
    """The action log drives fresh emulators through the same rewards, ends and frames."""
    _, state, _ = whole_run
    env = make_training_envs(BREAKOUT)
    timestep, replay = env.reset(), jax.device_get(state.replay)
    for i in range(int(state.replay.cursor)):
        shown = from_rows(replay.frame[:, i], replay.frame_shape)
        np.testing.assert_array_equal(shown, timestep.frame)
        was_last, timestep = timestep.last, env.step(np.asarray(state.actor.action_log[i]))
        taken = ~replay.last[:, i]
        assert not np.any(taken & was_last)  # the ignored step is never a transition
        np.testing.assert_array_equal(replay.reward[taken, i], timestep.reward[taken])
        np.testing.assert_array_equal(replay.discount[taken, i], timestep.discount[taken])
        assert np.all(replay.priority[was_last, i] == 0)


@pytest.mark.slow
def test_no_implicit_transfers():
    stages, env, state = begin(CARTPOLE, updates=1)
    with jax.transfer_guard("disallow"):
        state, selection = stages.select(state)
        timestep = env.step(jax.device_get(selection.action))
        state = stages.record(state, selection, stages.to_lanes(timestep))
        state, drawn = stages.draw(state)
        state = stages.reanalyse(state, drawn)
        state, _ = stages.learn(state, drawn)
        with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device"):  # the guard does bite
            jax.jit(jnp.sum)(np.ones(3))


def test_donated_state_cannot_be_used_again():
    stages, _, state = begin(CARTPOLE)
    stages.draw(state)
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(state.replay.frame)


@functools.cache
def learn_once(config):
    stages, _, state = begin(config)
    before = jax.device_get(
        (state.replay.policy, state.replay.network_value, state.replay.refreshed)
    )
    variables = jax.device_get(state.learner.variables)
    state, drawn = stages.draw(state)
    state = stages.reanalyse(state, drawn)
    after = jax.device_get(
        (state.replay.policy, state.replay.network_value, state.replay.refreshed)
    )
    state, metrics = stages.learn(state, drawn)
    return dict(
        before=before, after=after, variables=variables, state=state, metrics=metrics, stages=stages
    )


@pytest.mark.slow
def test_switch_consistency():
    config = replace(
        CARTPOLE, optimizer__name="sgd", optimizer__warmup_updates=0, optimizer__weight_decay=0.0
    )
    full, without = learn_once(config), learn_once(replace(config, loss__consistency=0.0))
    assert "loss/consistency" in full["metrics"] and "loss/consistency" not in without["metrics"]

    def moved(run):
        old, new = (
            run["variables"]["params"]["projector"],
            run["state"].learner.variables["params"]["projector"],
        )
        return max(
            np.abs(np.asarray(a) - b).max()
            for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old))
        )

    assert moved(full) > 0 and moved(without) == 0


@pytest.mark.slow
def test_switch_value_prefix():
    full, without = learn_once(CARTPOLE), learn_once(replace(CARTPOLE, network__value_prefix=False))
    names = lambda run: set(run["variables"]["params"]["value_prefix"])
    assert any("LSTM" in name for name in names(full)) and not any(
        "LSTM" in name for name in names(without)
    )


@pytest.mark.slow
def test_switch_off_policy_correction():
    age = jnp.array([0, 99, 200, 329])
    assert horizon(age, CARTPOLE).tolist() == [5, 4, 3, 2]  # one step less for each 99 of 330 steps
    assert horizon(age, replace(CARTPOLE, target__off_policy_correction=False)).tolist() == [5] * 4
    full, without = (
        learn_once(CARTPOLE),
        learn_once(replace(CARTPOLE, target__off_policy_correction=False)),
    )
    # The same batch from the same key, other value targets.
    assert float(full["metrics"]["replay/age"]) == float(without["metrics"]["replay/age"])
    assert float(full["metrics"]["target/value"]) != float(without["metrics"]["target/value"])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["oldest", "sampled", "off"])
def test_switch_reanalysis(mode):
    # Counts of visits follow the noise; completed Q-values of a network that knows nothing stay
    # uniform.
    run = learn_once(
        replace(
            CARTPOLE, reanalyse__mode=mode, optimizer__warmup_updates=0, search__algorithm="muzero"
        )
    )
    changed = [np.any(a != b) for a, b in zip(run["before"], run["after"])]
    policy = np.any(run["before"][0] != run["after"][0], axis=-1)
    assert changed[:2] == [mode != "off"] * 2
    if mode == "oldest":
        assert (
            policy.sum() <= CARTPOLE.reanalyse.positions
            and policy.sum() > CARTPOLE.reanalyse.positions // 2
        )
    if mode == "sampled":
        assert policy.sum() > CARTPOLE.cycle.batch_size  # the unroll positions of the batch too


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["oldest", "sampled"])
def test_which_network_searches(mode):
    """The target network is still the initial one, whose zero heads say 0; the newest says more.

    Acting and `oldest` take the newest, `sampled` the target network, for whole windows.
    """
    config = replace(
        CARTPOLE,
        network__support=20,  # rounding grows with the atoms
        reanalyse__mode=mode,
        cycle__target_interval=10**6,
        optimizer__warmup_updates=0,
    )
    stages, _, state = begin(config, updates=3)
    state, selected = stages.select(state)
    assert np.abs(np.asarray(selected.network_value)).max() > 1e-3
    state, drawn = stages.draw(state)
    lane, time = np.asarray(drawn.positions.lane), np.asarray(drawn.positions.time)
    slots = state.replay.network_value.shape[1]
    marked = jnp.full_like(state.replay.network_value, 7)
    state = state.replace(replay=state.replay.replace(network_value=marked))
    state = stages.reanalyse(state, drawn)
    values = np.asarray(state.replay.network_value)
    refreshed = values != 7
    if mode == "oldest":
        assert refreshed.sum() == config.reanalyse.positions
        assert np.abs(values[refreshed]).max() > 1e-3
        return
    read = np.zeros_like(refreshed)
    for step in range(config.target.unroll_steps + config.target.td_steps + 1):
        read[lane, (time + step) % slots] = True
    np.testing.assert_array_equal(refreshed, read)
    np.testing.assert_allclose(values[refreshed], 0.0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["oldest", "sampled"])
def test_reanalysis_in_pieces(mode, monkeypatch):
    """The same positions get the same network values, however many are searched at once."""
    config = replace(
        CARTPOLE,
        network__support=20,  # rounding grows with the atoms
        reanalyse__mode=mode,
        optimizer__warmup_updates=0,
        search__algorithm="muzero",
    )
    found = []
    stages, env, state = begin(config, updates=3)
    state, drawn = stages.draw(state)
    for roots in (256, 4):
        monkeypatch.setattr(reanalysis, "ROOTS_AT_ONCE", roots)
        copy = jax.tree.map(jnp.copy, state)  # donated
        found.append(
            jax.device_get(
                Stages(config, env.spec(config.env.stack), make_mesh())
                .reanalyse(copy, drawn)
                .replay
            )
        )
    searched = found[0].refreshed > 0
    assert found[0].refreshed.max() == 3 and found[0].network_value[searched].std() > 2e-4
    np.testing.assert_array_equal(found[0].refreshed, found[1].refreshed)
    # An expectation over atoms up to 20 is exact to several times 20 * 2**-24, however small it is.
    np.testing.assert_allclose(found[0].network_value, found[1].network_value, rtol=0, atol=1e-5)
    assert np.any(found[0].policy != found[1].policy)  # other noise


@pytest.mark.parametrize("repeat", [0.0, 0.75, 1.0])
def test_random_actions_may_repeat(repeat):
    """An action comes again with the probability asked for, and else by chance."""
    config = replace(CARTPOLE, env__num_envs=4000, env_steps=8000, cycle__warmup_repeat=repeat)
    spec = EnvSpec(4, (1,), np.float32, 1)
    actor = acting.init(config, spec, None)
    choose = jax.jit(lambda actor, key: acting.select_randomly(key, actor, spec, config).action)
    first = choose(actor, jax.random.key(0))  # there is nothing to repeat yet
    np.testing.assert_allclose(np.bincount(first, minlength=4) / 4000, 0.25, atol=0.04)
    actor = actor.replace(
        acts=actor.acts + 1, action_log=actor.action_log.at[0].set(first.astype(jnp.int16))
    )
    again = np.mean(np.asarray(choose(actor, jax.random.key(1)) == first))
    np.testing.assert_allclose(again, repeat + (1 - repeat) / 4, atol=0.04)


def test_idle_environments_repeat_their_actions():
    """Those without a reward, of either sign, in the last three of ten slots; a ring of eight."""
    config = replace(CARTPOLE, env__num_envs=4000, env_steps=8000, replay__capacity=32_000)
    config = replace(config, cycle__idle_steps=3, cycle__idle_repeat=0.75)
    spec = EnvSpec(4, (1,), np.float32, 1)
    kinds, ones = np.arange(4000) % 5, jnp.ones(4000)
    reward = np.zeros((4000, 8))
    reward[kinds == 0, 9 % 8] = 1.0  # the newest slot
    reward[kinds == 1, 7] = -1.0  # the third from the end
    reward[kinds == 2, 6] = 1.0  # the fourth
    reward[kinds == 3, 2] = 1.0  # the oldest: the ring has turned
    replay = empty(config, spec, 4000).replace(reward=jnp.asarray(reward), cursor=jnp.int32(10))
    actor = acting.init(config, spec, None)
    before = jnp.arange(4000) % 4
    actor = actor.replace(
        acts=actor.acts + 1, action_log=actor.action_log.at[0].set(before.astype(jnp.int16))
    )
    searched = SearchOutput((before + 1) % 4, jnp.ones((4000, 4)) / 4, ones, ones)

    def share(replay, actor=actor):
        found = acting.repeat_where_idle(jax.random.key(0), actor, replay, searched, config)
        for name in ("policy", "search_value", "network_value"):
            assert getattr(found, name) is getattr(searched, name)
        again = np.asarray(found.action == before)
        assert np.all(again | np.asarray(found.action == searched.action))
        return [again[kinds == kind].mean() for kind in range(5)]

    np.testing.assert_allclose(share(replay), [0, 0, 0.75, 0.75, 0.75], atol=0.06)
    assert share(replay)[:2] == [0, 0]
    assert share(replay.replace(cursor=jnp.int32(2))) == 5 * [0]  # too short to be idle
    legal = jnp.asarray(kinds != 4)[:, None] & jnp.ones((1, 4), bool)
    assert share(replay, actor.replace(legal=legal))[4] == 0


def test_too_many_devices_names_the_field():
    env = make_training_envs(CARTPOLE)

    class TwoThirds:
        size = 3

    with pytest.raises(
        ValueError, match=r"env.num-envs=4 is out of range: it must be a multiple of the 3 devices"
    ):
        Stages(CARTPOLE, env.spec(1), TwoThirds())


def test_a_packed_time_step_is_the_same():
    rng = np.random.default_rng(0)
    flags = {name: rng.random(5) < 0.5 for name in ("last", "first", "game_over")}
    numbers = {name: rng.normal(size=5).astype(np.float32) for name in ("reward", "score")}
    timestep = TimeStep(
        frame=rng.integers(0, 256, (5, 4, 4, 1)).astype(np.uint8),
        discount=np.array([0, 1, 1, 0, 1], np.float32),
        legal=rng.random((5, 3)) < 0.5,
        **flags,
        **numbers,
    )
    packed = transfer.pack(timestep)
    assert packed.small.shape == (5, 6) and packed.small.dtype == np.float32
    back = jax.jit(transfer.unpack)(packed)
    for name, before in timestep._asdict().items():
        after = getattr(back, name)
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after, before)
