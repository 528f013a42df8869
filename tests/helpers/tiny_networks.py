"""Networks of the smallest size, on images and on vectors."""

import jax
import numpy as np

from ez_jax import config as config_lib
from ez_jax.networks import Network, init_variables
from ez_jax.types import EnvSpec
from helpers.small import SMALL

IMAGE = EnvSpec(3, (16, 16, 1), np.uint8, 2)
VECTOR = EnvSpec(3, (4,), np.float32, 2)
TINY = config_lib.replace(
    SMALL.network,
    patch=1,
    pools=1,
    channels=4,
    head_channels=2,
    head_hidden=4,
    lstm=5,
    support=3,
    projection=6,
    predictor=4,
)


def shapes(network_config, spec):
    """The network and the shapes of its variables; nothing is computed."""
    network = Network(network_config, spec)
    return network, jax.eval_shape(lambda key: init_variables(network, key), jax.random.key(0))


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))
