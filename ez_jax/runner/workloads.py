"""Models, batches and replays with random contents, to measure the stages on."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ez_jax.agent import replay as replay_lib
from ez_jax.agent.search import make_recurrent_fn, make_root
from ez_jax.config import Config, replace
from ez_jax.networks import Network, init_variables
from ez_jax.observations import observation_shape
from ez_jax.presets import PRESETS
from ez_jax.runner.timing import Work, count_work
from ez_jax.types import Batch, EnvSpec, Replay

ACTIONS = 6
"""Of Pong."""


@dataclass(frozen=True)
class Model:
    """A preset's network with fresh parameters and random images."""

    size: str
    config: Config
    spec: EnvSpec
    network: Network
    variables: dict
    key: jax.Array

    def observation(self, roots: int) -> jax.Array:
        return jax.random.randint(self.key, (roots, *observation_shape(self.spec)), 0, 256).astype(
            jnp.uint8
        )

    def step_work(self, roots: int) -> Work:
        """One step of the model in a search of so many roots."""
        root = jax.eval_shape(
            lambda: make_root(self.network, self.variables, self.observation(roots), jnp.float32)
        )
        step = make_recurrent_fn(self.network, self.config)
        return count_work(
            lambda v, node: step(v, self.key, jnp.zeros(roots, jnp.int32), node),
            self.variables,
            root.embedding,
        )

    def root_work(self, roots: int) -> Work:
        """Encoding and prediction, the images not cut into chunks: a loop would count once."""

        def run(variables, x):
            state = self.network.apply(variables, x, method=Network.encode)
            return self.network.apply(variables, state, method=Network.predict)

        return count_work(run, self.variables, self.observation(roots))

    def search_work(self, roots: int, simulations: int) -> Work:
        return self.root_work(roots) + self.step_work(roots).times(simulations)


def make_model(size: str) -> Model:
    """The network of a preset with fresh parameters."""
    config = PRESETS[size]
    spec = EnvSpec(
        ACTIONS,
        (config.env.height, config.env.width, 1 if config.env.grayscale else 3),
        np.uint8,
        config.env.stack,
    )
    network = Network(config.network, spec)
    return Model(
        size, config, spec, network, init_variables(network, jax.random.key(0)), jax.random.key(1)
    )


def random_batch(model: Model, size: int) -> Batch:
    """Windows of random frames, actions and policies."""
    k = model.config.target.unroll_steps
    length = k + model.config.target.td_steps + 1
    keys = jax.random.split(model.key, 3)
    frames = jax.random.randint(
        keys[0], (size, model.spec.stack + k, *model.spec.frame_shape), 0, 256
    ).astype(jnp.uint8)
    zeros, ints = jnp.zeros((size, length)), jnp.zeros(size, jnp.int32)
    return Batch(
        frames=frames,
        action=jax.random.randint(keys[1], (size, length), 0, ACTIONS),
        reward=zeros,
        discount=zeros + 1,
        last=zeros > 0,
        policy=jax.nn.softmax(jax.random.normal(keys[2], (size, length, ACTIONS))),
        search_value=zeros,
        network_value=zeros,
        age=ints,
        staleness=ints,
        weight=jnp.ones(size),
    )


def random_replay(config: Config, spec: EnvSpec, slots: int) -> Replay:
    """A full replay of one endless episode in each lane."""
    config = replace(config, replay__capacity=slots * config.env.num_envs)
    made = replay_lib.empty(config, spec, config.env.num_envs)
    return made.replace(
        policy=made.policy + 1 / made.policy.shape[-1],
        discount=made.discount + 1,
        priority=made.priority + 1,
        offset=jnp.broadcast_to(jnp.arange(slots), made.offset.shape),
        cursor=jnp.asarray(slots),
    )
