"""Batches, networks and settings small enough for a plain loop."""

import jax
import numpy as np

from ez_jax import config as config_lib
from ez_jax.networks import Network, init_variables
from ez_jax.types import Batch, EnvSpec, Targets
from helpers.small import SMALL

BATCH, STACK, UNROLL, TD, ACTIONS = 4, 2, 3, 2, 3
VECTOR = EnvSpec(ACTIONS, (3,), np.float32, STACK)
IMAGE = EnvSpec(ACTIONS, (16, 16, 1), np.uint8, STACK)


def make_config(unroll=UNROLL, **changes):
    return config_lib.replace(
        SMALL,
        env__stack=STACK,
        target__unroll_steps=unroll,
        target__td_steps=TD,
        target__prefix_horizon=2,
        network__channels=8,
        network__head_channels=2,
        network__head_hidden=4,
        network__lstm=5,
        network__support=3,
        network__projection=6,
        network__predictor=4,
        loss__shift=0,
        loss__intensity=0.0,
        **{"network__joint_norm": False, **changes},
    )


def make_network(config, spec):
    """A network whose every parameter is random: the zero-initialised heads would hide mistakes."""
    network = Network(config.network, spec)
    variables = jax.jit(lambda key: init_variables(network, key))(jax.random.key(0))
    rng = np.random.default_rng(0)
    variables["params"] = jax.tree.map(
        lambda x: x + rng.normal(0, 0.2, x.shape).astype(np.float32), variables["params"]
    )
    return network, variables


def make_batch(spec, size=BATCH, unroll=UNROLL):
    """Random windows without any end."""
    rng = np.random.default_rng(0)
    length = unroll + TD + 1
    shape = (size, STACK + unroll, *spec.frame_shape)
    frames = rng.normal(size=shape) if len(spec.frame_shape) == 1 else rng.integers(0, 256, shape)
    zeros, flat = np.zeros(size, np.int32), np.zeros((size, length), np.float32)
    return Batch(
        frames=frames.astype(spec.frame_dtype),
        action=rng.integers(0, ACTIONS, (size, length)).astype(np.int32),
        reward=rng.normal(size=(size, length)).astype(np.float32),
        discount=flat + 1,
        last=flat > 0,
        policy=rng.dirichlet(np.ones(ACTIONS), (size, length)).astype(np.float32),
        search_value=flat,
        network_value=rng.normal(0, 3, (size, length)).astype(np.float32),
        age=zeros,
        staleness=zeros,
        weight=rng.uniform(0.1, 1, size).astype(np.float32),
    )


def make_targets(size=BATCH, unroll=UNROLL):
    """Random targets; the samples' episodes end after different steps."""
    rng = np.random.default_rng(1)
    end = np.arange(size)[:, None] + 1
    steps = np.arange(unroll + 1)
    return Targets(
        value=rng.normal(0, 5, (size, unroll + 1)).astype(np.float32),
        value_prefix=rng.normal(0, 2, (size, unroll)).astype(np.float32),
        policy=rng.dirichlet(np.ones(ACTIONS), (size, unroll + 1)).astype(np.float32),
        # Other masks for values than for states, as when terminal states absorb.
        value_mask=((steps <= end) | (np.arange(size)[:, None] == 1)).astype(np.float32),
        policy_mask=(steps < end).astype(np.float32),
        state_mask=(steps <= end).astype(np.float32),
    )
