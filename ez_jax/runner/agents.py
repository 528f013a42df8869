"""The agent of a config, and what only holds between settings and task."""

from ez_jax.agent.agent import Agent
from ez_jax.agent.losses import active_losses
from ez_jax.config import Config
from ez_jax.envs import describe
from ez_jax.networks import Network


def make_agent(config: Config) -> Agent:
    """The agent of a config, without extra loss terms; nothing is computed.

    Raises:
      ValueError: the task is refused, or settings of network or search do not fit its frames or
        actions.
    """
    spec = describe(config.env, config.env.stack).spec
    return Agent(config, Network(config.network, spec), active_losses(config))
