"""The unrolled model: where gradients are halved, and what is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.batches import (
    ACTIONS,
    BATCH,
    STACK,
    UNROLL,
    VECTOR,
    make_batch,
    make_config,
    make_network,
    make_targets,
)
from helpers.toy import PARAMETERS, STATISTICS, TOY, Toy

from ez_jax import config as config_lib
from ez_jax.agent import learning
from ez_jax.agent import unroll as unroll_lib
from ez_jax.agent.losses import LOSSES, policy_loss, value_loss
from ez_jax.observations import frames_to_channels
from ez_jax.types import EnvSpec

# HALF GRADIENT


def encodes(statistics):
    """Number of encodings that moved the toy's running average: 1 - 1/2^n after n."""
    return round(-np.log2(1 - float(statistics["mean"][0])))


X = np.array(
    [[9.0, 2.0, 5.0, 6.0, 7.0], [8.0, 3.0, 1.0, 2.0, 4.0]], np.float32
)  # the frame in front, x_0, x_1, x_2, x_3
WEIGHT = np.array([1.0, 0.5], np.float32)


def toy_gradient(term, half):
    """Gradient of the objective whose only term is `term(unroll) -> [B]`."""
    config = make_config(loss__half_gradient=half)
    batch = make_batch(TOY, 2).replace(frames=X[:, :, None], weight=WEIGHT)
    terms = {"probe": (lambda unroll, targets, config: term(unroll), 1.0)}
    params = {name: jnp.array(value) for name, value in PARAMETERS.items()}
    return jax.grad(learning.loss, has_aux=True)(
        params,
        STATISTICS,
        jax.random.key(0),
        batch,
        make_targets(2),
        network=Toy(TOY),
        config=config,
        terms=terms,
    )[0]


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_gradient_of_the_heads_at_step_k(k, half):
    """Halved once for each state it passes; the head itself is not."""
    r, d, h = (PARAMETERS[name] for name in "rdh")
    c = np.mean(WEIGHT * X[:, 1]) / UNROLL
    s = 0.5 if half else 1.0
    for field in ("value_logits", "policy_logits"):
        gradient = toy_gradient(lambda unroll: getattr(unroll, field)[:, k, 0], half)
        np.testing.assert_allclose(gradient["h"], c * r * d**k, rtol=1e-5)
        np.testing.assert_allclose(gradient["r"], c * h * (s * d) ** k, rtol=1e-5)
        # The dynamics of step j sees the gradient of the states j..k.
        through = sum(s ** (k - j + 1) for j in range(1, k + 1)) * d ** (k - 1)
        np.testing.assert_allclose(gradient["d"], c * h * r * through, rtol=1e-5)
        assert gradient["p"] == gradient["q"] == 0


@pytest.mark.parametrize("half", [True, False])
def test_gradient_of_the_value_prefix(half):
    """Steps 1 and 2 are summed, step 3 starts anew; memory is passed on in full, only states are
    halved.
    """
    r, d, p = (PARAMETERS[name] for name in "rdp")
    c = np.mean(WEIGHT * X[:, 1]) / UNROLL
    a = d * (0.5 if half else 1.0)
    for k, summed, halved in ((1, d, a), (2, d + d**2, a + a**2), (3, d**3, a**3)):
        gradient = toy_gradient(lambda unroll: unroll.prefix_logits[:, k - 1, 0], half)
        np.testing.assert_allclose(gradient["p"], c * r * summed, rtol=1e-5)
        np.testing.assert_allclose(gradient["r"], c * p * halved, rtol=1e-5)


@pytest.mark.parametrize("half", [True, False])
def test_gradient_of_the_consistency(half):
    """State k meets frame k; nothing flows into the encoded side."""
    r, d, q = (PARAMETERS[name] for name in "rdq")
    for k in (1, 3):
        c = np.mean(WEIGHT * X[:, 1] * r * X[:, 1 + k]) / UNROLL
        gradient = toy_gradient(
            lambda unroll: (unroll.projection * unroll.target_projection)[:, k - 1, 0], half
        )
        np.testing.assert_allclose(gradient["q"], c * r * d**k, rtol=1e-5)
        np.testing.assert_allclose(
            gradient["r"], c * q * (d * (0.5 if half else 1.0)) ** k, rtol=1e-5
        )


def test_half_gradient_of_the_network():
    """The representation gets 0.5^k of step k's value and policy losses, the heads all of them."""
    gradients = {}
    for half in (True, False):
        config = make_config(2, loss__half_gradient=half)
        network, variables = make_network(config, VECTOR)
        terms = {"policy": (policy_loss, 1.0), "value": (value_loss, 1.0)}

        @jax.jit
        def gradient(mask):
            targets = make_targets(unroll=2).replace(
                value_mask=mask, policy_mask=mask, state_mask=mask
            )
            return jax.grad(learning.loss, has_aux=True)(
                variables["params"],
                variables["batch_stats"],
                jax.random.key(0),
                make_batch(VECTOR, unroll=2),
                targets,
                network=network,
                config=config,
                terms=terms,
            )[0]

        gradients[half] = [gradient(jnp.zeros((BATCH, 3)).at[:, k].set(1.0)) for k in range(3)]
    for k, (halved, full) in enumerate(zip(*gradients.values())):
        for part, factor in (
            ("representation", 0.5**k),
            ("trunk", 1.0),
            ("value_head", 1.0),
            ("policy_head", 1.0),
        ):
            assert optax.tree.norm(full[part]) > 1e-2
            for a, b in zip(jax.tree.leaves(halved[part]), jax.tree.leaves(full[part])):
                np.testing.assert_allclose(
                    a, factor * b, rtol=1e-4, atol=1e-5 * factor * max(np.abs(b).max(), 0.1)
                )


# WHAT IS COMPUTED


def toy_unroll(spec, config, batch, consistency, key=0):
    params = {name: jnp.array(value) for name, value in PARAMETERS.items()}
    return unroll_lib.unroll_model(
        Toy(spec),
        config,
        {"params": params, "batch_stats": STATISTICS},
        jax.random.key(key),
        batch,
        consistency,
    )


def test_without_consistency_no_frame_is_encoded_but_the_first():
    """Its projections are left out, unless a term that is not the paper's might read them."""
    config = make_config()
    batch = make_batch(TOY, 2)
    unroll, stats = toy_unroll(TOY, config, batch, False)
    assert unroll.projection is None and unroll.target_projection is None and encodes(stats) == 1
    unroll, stats = toy_unroll(TOY, config, batch, True)
    assert (
        unroll.projection.shape == unroll.target_projection.shape == (2, UNROLL, 1)
        and encodes(stats) == 1 + UNROLL
    )

    def encodes_with(terms):
        params = {name: jnp.array(value) for name, value in PARAMETERS.items()}
        _, output = learning.loss(
            params,
            STATISTICS,
            jax.random.key(0),
            batch,
            make_targets(2),
            network=Toy(TOY),
            config=config,
            terms=terms,
        )
        return encodes(output.batch_stats)

    assert encodes_with({"policy": (LOSSES["policy"], 1.0)}) == 1
    for name in ("mine", "policy"):
        assert encodes_with({name: (lambda *_: jnp.zeros(2), 1.0)}) == 1 + UNROLL


def test_augmentation_is_drawn_once_for_the_input_and_once_for_the_targets():
    """On frames that are all 100, a state says the intensity: one for all target frames of a
    sample, apart from its input's.
    """
    config = config_lib.replace(make_config(), loss__intensity=0.05)
    spec = EnvSpec(ACTIONS, (4, 4, 1), np.uint8, STACK)
    batch = make_batch(spec, 6)
    batch = batch.replace(frames=np.full_like(batch.frames, 100))
    unroll, _ = toy_unroll(spec, config, batch, True)
    given = np.asarray(unroll.value_logits[:, 0, 0]) / (100 * PARAMETERS["r"] * PARAMETERS["h"])
    target = np.asarray(unroll.target_projection[:, :, 0]) / (100 * PARAMETERS["r"])
    np.testing.assert_allclose(target, np.tile(target[:, :1], UNROLL), rtol=1e-6)
    assert (np.abs(given - target[:, 0]) > 1e-4).all()
    assert len(set(given.round(5))) == len(set(target[:, 0].round(5))) == 6
    assert max(np.abs(given - 1).max(), np.abs(target - 1).max()) <= 0.1 + 1e-5
    # Vectors are left alone, but for an amplitude of their own.
    batch = make_batch(TOY, 6)
    expected = PARAMETERS["r"] * batch.frames[:, STACK:, 0]
    unroll, _ = toy_unroll(TOY, config, batch, True)
    np.testing.assert_allclose(unroll.target_projection[:, :, 0], expected, rtol=1e-6)
    config = config_lib.replace(config, loss__amplitude=0.05)
    unroll, _ = toy_unroll(TOY, config, batch, True)
    factor = np.asarray(unroll.target_projection[:, :, 0]) / expected
    np.testing.assert_allclose(factor, np.tile(factor[:, :1], UNROLL), rtol=1e-5)
    assert len(set(factor[:, 0].round(5))) == 6 and np.abs(factor - 1).max() <= 0.1 + 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("joint", [True, False], ids=["joint", "apart"])
def test_the_reward_head_reads_the_action_that_led_to_a_state(joint):
    """Along the unroll as in the steps of a search, with LayerNorm alone, where training is
    inference; the same state after another action has another reward, but only with the switch.
    """
    for on in (True, False):
        config = make_config(
            network__reward_action=on,
            network__residual="pre",
            network__norm="layer",
            network__joint_norm=joint,
        )
        network, variables = make_network(config, VECTOR)
        batch = make_batch(VECTOR)
        unroll, _ = unroll_lib.unroll_model(
            network, config, variables, jax.random.key(0), batch, False
        )
        # The encoded root as training has it, under the moments of its batch.
        observation = frames_to_channels(batch.frames[:, :STACK])
        state, _ = network.apply(variables, observation, True, method="encode", mutable=["moments"])
        memory = network.initial_memory(BATCH)
        for k in range(UNROLL):
            if k % config.target.prefix_horizon == 0:
                memory = network.initial_memory(BATCH)
            before = state, memory
            step = network.apply(variables, *before, batch.action[:, k], method="step")
            np.testing.assert_allclose(step.prefix_logits, unroll.prefix_logits[:, k], atol=1e-4)
            state, memory = step.state, step.memory
        other = network.apply(
            variables, state, before[1], actions=1 - batch.action[:, k] % 2, method="value_prefixes"
        )[1]
        apart = np.abs(other - step.prefix_logits).max(-1)
        assert (apart > 1e-3).all() if on else (apart == 0).all()
