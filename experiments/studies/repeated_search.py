"""What repeated searches make of a policy when its actions are worth the same, or nearly so.

    python experiments/studies/repeated_search.py --output=repeated_search.json

A policy is searched, trained to what the searches found, searched on top of that, and so on, as
reanalysis does with every position of replay. There is no network: a step's value is noise, and the
first action of a search adds an error of its own that stays the same all along, as that of a young
model does. What is not worth telling apart should not be told apart: the entropy of the policy
should stay near the largest, and with differences that are worth something the best action should
win.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mctx
import optax
import tyro

from ez_jax.agent.search import search_from_root
from ez_jax.config import Config, replace
from ez_jax.runner.provenance import make_folders, write_result

GUMBEL = dict(
    search__algorithm="gumbel", search__num_simulations=16, search__max_considered_actions=8
)
VARIANTS: dict[str, dict[str, Any]] = {
    "PUCT, 16 simulations": dict(search__num_simulations=16),
    "PUCT, 50 simulations": dict(search__num_simulations=50),
    "PUCT, 16, range 0.5, entropy 0.2": dict(
        search__num_simulations=16, search__min_value_range=0.5, loss__entropy=0.2
    ),
    "Gumbel, 16": GUMBEL,
    "Gumbel, 16, range 0.5": GUMBEL | dict(search__min_value_range=0.5),
    "Gumbel, 16, entropy 0.2": GUMBEL | dict(loss__entropy=0.2),
    "Gumbel, 16, range 0.5, entropy 0.05": GUMBEL
    | dict(search__min_value_range=0.5, loss__entropy=0.05),
    "Gumbel, 16, range 0.5, entropy 0.2": GUMBEL
    | dict(search__min_value_range=0.5, loss__entropy=0.2),
}


@dataclass(frozen=True)
class Args:
    output: Path | None = None
    """JSON file to write."""
    actions: tuple[int, ...] = (6, 18)
    """Sizes of the action space."""
    errors: tuple[float, ...] = (0.0, 0.02, 0.2)
    """Standard deviations of what the actions' values differ by, each the same in all searches."""
    noise: float = 0.05
    """Standard deviation of the noise in each value."""
    rounds: int = 30
    """Searches on top of each other."""
    roots: int = 64
    """Searches that a round's policy is trained on."""


def recurrent_fn(
    params: tuple[jax.Array, jax.Array, jax.Array],
    key: jax.Array,
    action: jax.Array,
    depth: jax.Array,
) -> tuple[mctx.RecurrentFnOutput, jax.Array]:
    """The world: `params` are the policy's logits and the actions' errors `[A]` each, and the
    noise.
    """
    logits, errors, noise = params
    batch = action.shape[0]
    output = mctx.RecurrentFnOutput(
        reward=jnp.where(depth == 0, errors[action], 0.0),
        discount=jnp.ones(batch),
        prior_logits=jnp.broadcast_to(logits, (batch, logits.shape[0])),
        value=noise * jax.random.normal(key, (batch,)),
    )
    return output, depth + 1


def train(logits: jax.Array, target: jax.Array, entropy: float) -> jax.Array:
    """The logits `[A]` that minimise cross-entropy to `target [A]` less `entropy` times their own
    entropy.
    """

    def loss(logits: jax.Array) -> jax.Array:
        log_policy = jax.nn.log_softmax(logits)
        return -jnp.sum(target * log_policy) + entropy * jnp.sum(jnp.exp(log_policy) * log_policy)

    optimizer = optax.adam(0.1)

    def step(_: int, state: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        logits, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(logits), moments)
        return optax.apply_updates(logits, updates), moments

    return jax.lax.fori_loop(0, 300, step, (logits, optimizer.init(logits)))[0]


def repeat(
    config: Config, errors: jax.Array, noise: float, rounds: int, roots: int, key: jax.Array
) -> jax.Array:
    """The policy after each round, `[rounds, A]`, from the uniform one."""

    def one_round(logits: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        root = mctx.RootFnOutput(
            prior_logits=jnp.broadcast_to(logits, (roots, logits.shape[0])),
            value=jnp.zeros(roots),
            embedding=jnp.zeros(roots, jnp.int32),
        )
        found = search_from_root(
            root, recurrent_fn, config.search, (logits, errors, noise), key, explore=True
        )
        logits = train(logits, jnp.mean(found.policy, axis=0), config.loss.entropy)
        return logits, jax.nn.softmax(logits)

    return jax.lax.scan(one_round, jnp.zeros_like(errors), jax.random.split(key, rounds))[1]


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv, description=__doc__)
    try:
        make_folders(args.output)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = []
    for actions in args.actions:
        shape = jax.random.normal(jax.random.key(0), (actions,))
        for name, changes in VARIANTS.items():
            config = replace(Config(), **changes)
            again = jax.jit(
                lambda errors, noise, key, config=config: repeat(
                    config, errors, noise, args.rounds, args.roots, key
                )
            )
            for size in args.errors:
                policy = again(size * shape, args.noise, jax.random.key(1))
                entropy = jnp.sum(jax.scipy.special.entr(policy), axis=-1)
                best = float(policy[-1, jnp.argmax(shape)])
                rows.append(
                    dict(
                        search=name,
                        actions=actions,
                        error=size,
                        entropy=[round(float(e), 3) for e in entropy],
                        best_action=round(best, 3),
                    )
                )
                print(
                    f"{actions:2d} actions, errors {size:4.2f}, {name:36s} entropy of at most "
                    f"{jnp.log(actions):.2f}: {entropy[0]:.2f} "
                    f"{entropy[args.rounds // 3]:.2f} {entropy[-1]:.2f}   best action {best:.2f}",
                    flush=True,
                )
    settings = {"noise": args.noise, "rounds": args.rounds, "roots": args.roots}
    write_result(args.output, settings | {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
