"""Batched search in the learned model: the only file that imports mctx.

MuZero's PUCT search (Schrittwieser et al. 2020, appendix B) with EfficientZero's value prefix and
Q-normalisation, and Gumbel search (Danihelka et al. 2022), behind one function. `B` is the number
of roots, `A` of actions. `q_transforms` holds what each does to Q-values.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mctx

from ez_jax.actions import Actions, Continuous
from ez_jax.agent.budget import Budget, budget, root_draws
from ez_jax.agent.candidates import chosen, policy_target, sample
from ez_jax.agent.q_transforms import (
    TreeScale,
    qtransform_by_tree_min_max,
    qtransform_completed_by_tree_min_max,
    scale_by_tree,
    scale_by_tree_and_root,
)
from ez_jax.agent.targets import prefix_restart
from ez_jax.agent.transforms import logits_to_scalar
from ez_jax.config import Config, SearchConfig
from ez_jax.networks import Network, Prediction, Step, encode, infer
from ez_jax.types import Array, SearchOutput


class Node(NamedTuple):
    """A model state as the tree keeps it."""

    state: Array  # [B, ...] latent state
    memory: Any  # value-prefix LSTM, zero at depths that are multiples of the horizon
    prefix: Array  # [B] f32, reward predicted since the last such depth
    depth: Array  # [B] i32
    candidates: Any = None  # [B, K, D] where actions are vectors


def make_root(
    network: Network, variables: Any, observation: Array, embedding_dtype: Any
) -> mctx.RootFnOutput:
    """Initial inference: encodes `observation [B, ..., S * C]`."""
    state = encode(network, variables, observation)
    return root_of_state(network, variables, state, embedding_dtype)


def root_of_state(
    network: Network, variables: Any, state: Array, embedding_dtype: Any
) -> mctx.RootFnOutput:
    """The root of a search from latent states `[B, ...]`."""
    prediction: Prediction = infer(network, variables, "predict", state)
    batch = state.shape[0]
    prefix, depth = jnp.zeros(batch), jnp.zeros(batch, jnp.int32)
    node = Node(state.astype(embedding_dtype), network.initial_memory(batch), prefix, depth)
    return mctx.RootFnOutput(
        prior_logits=prediction.policy_logits,
        value=logits_to_scalar(prediction.value_logits, network.config),
        embedding=node,
    )


def make_recurrent_fn(network: Network, config: Config) -> Callable:
    """The model as mctx steps it.

    The reward is the difference of value prefixes, which restart every `prefix_horizon` steps.
    """
    horizon = prefix_restart(config.target, network.config)
    actions = network.spec.actions

    def recurrent_fn(variables, key, action, node: Node):
        action = chosen(node.candidates, action)
        parent_state = node.state.astype(network.config.dtype)
        step: Step = infer(network, variables, "step", parent_state, node.memory, action)
        prediction: Prediction = infer(network, variables, "predict", step.state)
        depth = node.depth + 1
        # Without LSTM each prediction is a single reward, as with a horizon of one.
        prefix = logits_to_scalar(step.prefix_logits, network.config, network.config.prefix_scale)
        reward = prefix - jnp.where(node.depth % horizon == 0, 0.0, node.prefix)
        keep = (depth % horizon != 0)[:, None]
        memory = jax.tree.map(lambda x: jnp.where(keep, x, 0.0), step.memory)
        output = mctx.RecurrentFnOutput(
            reward=reward,
            discount=jnp.full_like(reward, config.target.discount),
            prior_logits=prediction.policy_logits,
            value=logits_to_scalar(prediction.value_logits, network.config),
        )
        node = Node(step.state.astype(node.state.dtype), memory, prefix, depth)
        if isinstance(actions, Continuous):
            few = config.search.inner_actions
            prior, candidates = sample(actions, config.search, key, output.prior_logits, few, 0)
            output, node = output.replace(prior_logits=prior), node._replace(candidates=candidates)
        return output, node

    return recurrent_fn


def each_simulation(scale: Callable[[mctx.Tree], TreeScale]) -> Callable:
    """Makes a loop that keeps `tree.extra_data` equal to `scale` of the _unbatched_ tree.

    mctx asks a Q-transform at every node of a descent, during which the tree stays as it is:
    without this the whole tree would be read as often, and a search would grow with simulations
    times depth times nodes.
    """

    def loop_fn(
        lower: int, upper: int, simulate: Callable, state: tuple[Array, mctx.Tree]
    ) -> tuple[Array, mctx.Tree]:
        def scaled(state: tuple[Array, mctx.Tree]) -> tuple[Array, mctx.Tree]:
            key, tree = state
            return key, tree.replace(extra_data=jax.vmap(scale)(tree))

        return jax.lax.fori_loop(
            lower, upper, lambda i, state: scaled(simulate(i, state)), scaled(state)
        )

    return loop_fn


def search(
    network: Network,
    config: Config,
    variables: Any,
    key: Array,
    observation: Array,
    *,
    explore: bool,
    temperature: Array | float = 1.0,
    num_simulations: int | None = None,
    legal: Array | None = None,
) -> SearchOutput:
    """Plans from each observation.

    Args:
      network: the model.
      config: `config.search` and `config.target` are read.
      variables: of the network.
      key: typed PRNG key, consumed.
      observation: `[B, ..., S * C]`.
      explore: root noise on or off; off is evaluation.
      temperature: actions are drawn from visits^(1/T), 0 takes the most visited (muzero); may be
        traced.
      num_simulations: instead of those of the `budget`.
      legal: `[B, A]` bool, actions that the root may choose from, None for all. Deeper in the tree
        any action is, as in MuZero: the model learns what comes of those that were taken.
    """
    root = make_root(network, variables, observation, config.search.embedding_dtype)
    return search_from_root(
        root,
        make_recurrent_fn(network, config),
        config.search,
        variables,
        key,
        explore=explore,
        temperature=temperature,
        num_simulations=num_simulations,
        legal=legal,
        actions=network.spec.actions,
    )


def search_from_root(
    root: mctx.RootFnOutput,
    recurrent_fn: Callable,
    config: SearchConfig,
    variables: Any,
    key: Array,
    *,
    actions: Actions | None = None,
    **options: Any,
) -> SearchOutput:
    """Searches from any `mctx` root with any recurrent function; options as those of `search`.

    Where `actions` are vectors the prior logits of the root are the policy head's outputs.
    """
    output, candidates, wide = tree_from_root(
        root, recurrent_fn, config, variables, key, actions=actions, **options
    )
    index, target = output.action.astype(jnp.int32), output.action_weights
    if isinstance(actions, Continuous) and candidates is not None:
        head = root.prior_logits
        target = policy_target(actions, config, head, candidates, target, index, wide)
    return SearchOutput(
        action=chosen(candidates, index),
        policy=target,
        search_value=output.search_tree.node_values[:, 0],
        network_value=root.value,
    )


class Grown(NamedTuple):
    """A search with its tree."""

    output: mctx.PolicyOutput
    candidates: Array | None  # [B, K, D] of the root, where actions are vectors
    wide: float  # share of these that was drawn from the wider Gaussian


def tree_from_root(
    root: mctx.RootFnOutput,
    recurrent_fn: Callable,
    config: SearchConfig,
    variables: Any,
    key: Array,
    *,
    explore: bool,
    temperature: Array | float = 1.0,
    num_simulations: int | None = None,
    legal: Array | None = None,
    actions: Actions | None = None,
) -> Grown:
    """`search_from_root` as mctx returns it."""
    head, candidates, wide = root.prior_logits, None, 0.0
    vectors = isinstance(actions, Continuous)
    allowed = budget(config, config.sampled_actions if vectors else head.shape[-1])
    allowed = allowed._replace(simulations=num_simulations or allowed.simulations)
    if isinstance(actions, Continuous):
        key, draw_key = jax.random.split(key)
        # With noise or without: where all values are equal, other draws lead on (EfficientZero-V2).
        draws = root_draws(config, allowed)
        prior, candidates = sample(actions, config, draw_key, head, draws.number, draws.wide)
        wide = draws.wide / draws.number
        node = root.embedding._replace(candidates=candidates)
        root, explore = root.replace(prior_logits=prior, embedding=node), False
    elif explore and config.algorithm == "gumbel" and config.uniform_fraction:
        root = root.replace(prior_logits=_with_uniform(head, config.uniform_fraction, legal))
    policy = _gumbel_policy if config.algorithm == "gumbel" else _puct_policy
    output = policy(config, allowed, explore, temperature)(
        variables,
        key,
        root,
        recurrent_fn,
        allowed.simulations,
        invalid_actions=None if legal is None else ~legal,
    )
    return Grown(output, candidates, wide)


def _with_uniform(logits: Array, fraction: float, legal: Array | None) -> Array:
    """Logits of the policy `[B, A]` mixed with the uniform one, both of legal actions alone."""
    count = logits.shape[-1] if legal is None else jnp.sum(legal, axis=-1, keepdims=True)
    return jnp.log((1 - fraction) * jax.nn.softmax(logits, where=legal) + fraction / count)


def _gumbel_policy(
    config: SearchConfig, allowed: Budget, explore: bool, temperature: Array | float
) -> Callable:
    """`mctx.gumbel_muzero_policy` as configured; its action needs no temperature."""
    del temperature
    constants = dict(
        max_num_considered_actions=allowed.considered_actions,
        gumbel_scale=1.0 if explore else 0.0,
    )
    if config.q_scale == "siblings":
        qtransform = functools.partial(
            mctx.qtransform_completed_by_mix_value,
            maxvisit_init=config.c_visit,
            value_scale=config.c_scale,
        )
        return functools.partial(mctx.gumbel_muzero_policy, qtransform=qtransform, **constants)
    qtransform = functools.partial(
        qtransform_completed_by_tree_min_max,
        c_visit=config.c_visit,
        c_scale=config.c_scale,
        min_range=config.min_value_range,
    )
    loop_fn = each_simulation(scale_by_tree_and_root)
    return functools.partial(
        mctx.gumbel_muzero_policy, qtransform=qtransform, loop_fn=loop_fn, **constants
    )


def _puct_policy(
    config: SearchConfig, allowed: Budget, explore: bool, temperature: Array | float
) -> Callable:
    """`mctx.muzero_policy` as configured."""
    del allowed
    return functools.partial(
        mctx.muzero_policy,
        qtransform=functools.partial(qtransform_by_tree_min_max, min_range=config.min_value_range),
        loop_fn=each_simulation(scale_by_tree),
        dirichlet_fraction=config.dirichlet_fraction if explore else 0.0,
        dirichlet_alpha=config.dirichlet_alpha,
        pb_c_init=config.pb_c_init,
        pb_c_base=config.pb_c_base,
        temperature=temperature,
    )
