"""Run by `program/test_mesh.py` in a process with four simulated devices."""

import jax
import jax.numpy as jnp
import numpy as np

from ez_jax.config import replace
from ez_jax.program.ahead import collectives
from ez_jax.program.loops import HostLoop, make_training_envs
from ez_jax.program.mesh import make_mesh, state_shardings
from ez_jax.program.stages import Stages, counters
from ez_jax.runner.setup import setup
from ez_jax.types import Drawn, Positions
from helpers.loops import advance, start
from helpers.tiny import CATCH, PONG


def same_update_on_one_and_four_devices(groups, most):
    """With as many groups of BatchNorm as devices, moments do not cross them within the network."""
    config = replace(
        PONG,
        network__norm_groups=groups,
        reanalyse__mode="off",
        optimizer__name="sgd",
        optimizer__learning_rate=0.05,
        optimizer__warmup_updates=0,
    )
    env = make_training_envs(config)
    one, four = (Stages(config, env.spec(config.env.stack), make_mesh(n)) for n in (1, 4))
    loop = HostLoop(one, env)
    state = loop.start(0)
    while int(state.actor.env_steps) < config.cycle.warmup_steps:
        state, _ = advance(loop, state)
    copy = jax.device_put(
        jax.device_get(state.replace(key=jax.random.key_data(state.key))),
        state_shardings(jax.eval_shape(lambda: state), four.mesh),
    )
    copy = copy.replace(key=jax.random.wrap_key_data(copy.key))
    # The same windows: lane i is the first lane of device i.
    lanes, times = jnp.repeat(jnp.arange(4), 4), jnp.tile(jnp.array([5, 11, 23, 31]), 4)
    drawn = lambda lane: Drawn(Positions(lane, times), jnp.full(16, 1 / 16))
    program = four.learn.lower(copy, drawn(jnp.zeros_like(lanes))).compile()
    number, _ = collectives(program.as_text())
    assert 0 < number <= most, number
    first, first_metrics = one.learn(state, drawn(lanes))
    second, second_metrics = four.learn(copy, drawn(jnp.zeros_like(lanes)))
    for a, b in zip(
        jax.tree.leaves(first.learner.variables),
        jax.tree.leaves(second.learner.variables),
        strict=True,
    ):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-5)
    np.testing.assert_allclose(
        np.asarray(first.replay.priority), np.asarray(second.replay.priority), atol=1e-4
    )
    np.testing.assert_allclose(
        float(first_metrics["loss/total"]), float(second_metrics["loss/total"]), rtol=1e-4
    )
    assert float(first_metrics["gradient_norm"]) > 0.1


def whole_cycle_on_four_devices():
    config = replace(PONG, reanalyse__mode="sampled", cycle__batch_size=8)
    loop, state = start(config, devices=4)
    assert (
        len(state.replay.frame.addressable_shards) == 4
        and state.replay.frame.addressable_shards[0].data.shape[0] == 1
    )
    text = loop.stages.select.lower(state).compile().as_text()
    assert "while" in text and not any(
        name in text for name in ("all-reduce", "all-gather", "all-to-all")
    )
    while int(state.learner.updates) < 4:
        state, made = advance(loop, state)
        assert all(np.isfinite(float(x)) for m in made for x in m.metrics.values())
    assert int(state.actor.env_steps) == 4 * int(state.replay.cursor)  # nobody's game is over yet


def two_seeds_in_compiled_cycles_on_four_devices():
    """The lanes of each seed are split, and the warm-up is that of one device, to the bit;
    reanalysis of the `oldest`.
    """
    warm = {}
    for devices in (1, 4):
        loop, state = start(CATCH, devices=devices, num_seeds=2)
        shards = state.replay.frame.addressable_shards
        assert len(shards) == devices and shards[0].data.shape[:2] == (2, 4 // devices)
        while counters(state)[0] < CATCH.cycle.warmup_steps:
            state, _ = advance(loop, state)
        warm[devices] = jax.tree.map(np.array, jax.device_get(state.replay))
    jax.tree.map(np.testing.assert_array_equal, warm[1], warm[4])
    state, made = advance(loop, state)
    assert counters(state)[1] == made[-1].number > 0
    assert all(
        np.all(np.isfinite(x)) and x.shape == (2,)
        for x in jax.device_get(made[-1].metrics).values()
    )


if __name__ == "__main__":
    setup()
    assert jax.device_count() == 4
    same_update_on_one_and_four_devices(groups=1, most=120)
    same_update_on_one_and_four_devices(groups=4, most=16)
    whole_cycle_on_four_devices()
    two_seeds_in_compiled_cycles_on_four_devices()
    print("ok")
