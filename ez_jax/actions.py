"""The two kinds of actions: indices, and vectors of which a search considers some.

What differs by kind is here, but for the search's candidates (`agent.candidates`) and the planes of
an image network. Replay, targets, reanalysis and the unroll carry actions and policies unseen.
`A` is the number of indices, `D` of entries of a vector, `K` of candidates of a search.

Vectors follow EfficientZero-V2 (Wang et al. 2024, arXiv 2403.00564, section 4.1): a Gaussian
squashed by tanh, so that each entry lies in (-1, 1).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

Array = jax.Array
LARGEST = 0.999
"""Candidates are clipped to this, where the density of a squashed Gaussian is finite."""
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
"""Gauss-Hermite quadrature of expectations under a normal distribution."""


@dataclass(frozen=True)
class Discrete:
    """Indices 0 .. A - 1. A policy head holds logits, a target probabilities, `[..., A]`."""

    count: int

    shape: ClassVar[tuple[int, ...]] = ()
    dtype: ClassVar[Any] = jnp.int32
    log_dtype: ClassVar[Any] = jnp.int16

    @property
    def head_size(self) -> int:
        """Outputs of the policy head."""
        return self.count

    def target_size(self, candidates: int) -> int:
        """Entries of a policy target."""
        return self.count

    @property
    def uniform_entropy(self) -> Array:
        """Entropy of the uniform policy, in nats: `[]`."""
        return jnp.log(self.count)

    def features(self, action: Array, dtype: Any) -> Array:
        """What the dynamics see of actions `[B]`: `[B, A]`, one-hot."""
        return jax.nn.one_hot(action, self.count, dtype=dtype)

    def cross_entropy(self, head: Array, target: Array) -> Array:
        """Of the head's policy against targets: `[...]`."""
        return optax.softmax_cross_entropy(head, target)

    def entropy(self, head: Array) -> Array:
        """Of the head's policy, in nats: `[...]`."""
        log_policy = jax.nn.log_softmax(head)
        return -jnp.sum(jnp.exp(log_policy) * log_policy, axis=-1)

    def divergence(self, head: Array, target: Array) -> Array:
        """Kullback-Leibler divergence of the head's policy from targets: `[...]`."""
        return optax.losses.kl_divergence(jax.nn.log_softmax(head), target)

    def random(self, key: Array, number: int, candidates: int) -> tuple[Array, Array]:
        """Uniform actions `[number]`, and the uniform policy as a target."""
        action = jax.random.randint(key, (number,), 0, self.count)
        return action, jnp.full((number, self.count), 1 / self.count, jnp.float32)


@dataclass(frozen=True)
class Continuous:
    """Vectors in (-1, 1)^D.

    A policy head holds means and deviations before their bounds, `[..., 2 D]`. A target holds K
    candidates and a weight for each, `[..., K (D + 1)]`.
    """

    size: int

    dtype: ClassVar[Any] = jnp.float32
    log_dtype: ClassVar[Any] = jnp.float32

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one action."""
        return (self.size,)

    @property
    def head_size(self) -> int:
        """Outputs of the policy head."""
        return 2 * self.size

    def target_size(self, candidates: int) -> int:
        """Entries of a policy target."""
        return candidates * (self.size + 1)

    @property
    def uniform_entropy(self) -> Array:
        """Entropy of the uniform policy, in nats: `[]`."""
        return self.size * jnp.log(2)

    def features(self, action: Array, dtype: Any) -> Array:
        """What the dynamics see of actions `[B, D]`: the same."""
        return action.astype(dtype)

    def gaussian(self, head: Array) -> tuple[Array, Array]:
        """Mean and deviation, `[..., D]` each, of the Gaussian that is squashed.

        The mean is bounded by 5, the deviation by 0.1 from below, as in the released code.
        """
        mean, deviation = jnp.split(head, 2, axis=-1)
        return 5.0 * jnp.tanh(mean / 5.0), jax.nn.softplus(deviation + 1.0) + 0.1

    def log_density(self, head: Array, action: Array, wider: float = 1.0) -> Array:
        """Of actions `[..., D]` under the head's policy, its deviation `wider` times: `[...]`."""
        mean, deviation = self.gaussian(head)
        action = jnp.clip(action, -LARGEST, LARGEST)
        normal = jax.scipy.stats.norm.logpdf(jnp.arctanh(action), mean, wider * deviation)
        return jnp.sum(normal - jnp.log1p(-(action**2)), axis=-1)

    def draw(
        self,
        key: Array,
        head: Array,
        number: int,
        wide: int,
        wider: float,
    ) -> Array:
        """Candidates of policies `[B, 2 D]`: `[B, number, D]`, the last `wide` of them spread out.

        Args:
          key: typed PRNG key, consumed.
          head: of the policies.
          number: of candidates.
          wide: so many are drawn with a larger deviation, to explore.
          wider: how much larger.
        """
        mean, deviation = self.gaussian(head)
        noise = jax.random.normal(key, (head.shape[0], number, self.size))
        scale = jnp.where(jnp.arange(number) < number - wide, 1.0, wider)[:, None]
        drawn = jnp.tanh(mean[:, None] + scale * noise * deviation[:, None])
        return jnp.clip(drawn, -LARGEST, LARGEST)

    def target(self, actions: Array, weights: Array) -> Array:
        """The policy target of candidates `[B, K, D]` with weights `[B, K]`."""
        return jnp.concatenate([actions.reshape(actions.shape[0], -1), weights], axis=-1)

    def candidates(self, target: Array) -> tuple[Array, Array]:
        """The inverse: `[..., K, D]` and `[..., K]`."""
        count = target.shape[-1] // (self.size + 1)
        actions, weights = jnp.split(target, [count * self.size], axis=-1)
        return actions.reshape(*target.shape[:-1], count, self.size), weights

    def cross_entropy(self, head: Array, target: Array) -> Array:
        """Negative log-densities of the candidates, weighted: `[...]`."""
        actions, weights = self.candidates(target)
        return -jnp.sum(weights * self.log_density(head[..., None, :], actions), axis=-1)

    def entropy(self, head: Array) -> Array:
        """Differential entropy of the head's policy, in nats, by quadrature: `[...]`."""
        mean, deviation = self.gaussian(head)
        at = mean[..., None] + deviation[..., None] * jnp.asarray(NODES, jnp.float32)
        # log(1 - tanh(u)^2), without cancellation.
        stretch = 2.0 * (jnp.log(2.0) - at - jax.nn.softplus(-2.0 * at))
        weights = jnp.asarray(WEIGHTS / WEIGHTS.sum(), jnp.float32)
        normal = 0.5 * jnp.log(2.0 * jnp.pi * jnp.e) + jnp.log(deviation)
        return jnp.sum(normal + stretch @ weights, axis=-1)

    def divergence(self, head: Array, target: Array) -> Array:
        """Divergence over the candidates, the head's densities made to sum to one: `[...]`."""
        actions, weights = self.candidates(target)
        log_policy = jax.nn.log_softmax(self.log_density(head[..., None, :], actions))
        return optax.losses.kl_divergence(log_policy, weights)

    def random(self, key: Array, number: int, candidates: int) -> tuple[Array, Array]:
        """Uniform actions `[number, D]`, and a target: uniform candidates of the same weight."""
        drawn = jax.random.uniform(key, (number, candidates, self.size), minval=-1.0, maxval=1.0)
        weights = jnp.full((number, candidates), 1 / candidates, jnp.float32)
        return drawn[:, 0], self.target(drawn, weights)


Actions = Discrete | Continuous
