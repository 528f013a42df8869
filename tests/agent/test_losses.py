"""Loss terms against hand-made numbers, how terms are put together, and the image augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small import SMALL

from ez_jax import config as config_lib
from ez_jax import lowering, presets
from ez_jax.actions import Discrete
from ez_jax.agent.augment import augment, random_intensity, random_shift
from ez_jax.agent.losses import (
    LOSSES,
    active_losses,
    consistency_loss,
    entropy_loss,
    policy_loss,
    total_loss,
    value_loss,
    value_prefix_loss,
)
from ez_jax.types import Targets, Unroll

# Two unroll steps, two samples, three actions, the atoms -2..2.
CONFIG = config_lib.replace(SMALL, target__unroll_steps=2, network__support=2, loss__entropy=0.0)
LOG2, LOG3, LOG5 = np.log(2), np.log(3), np.log(5)


def make_unroll(**fields):
    """Uniform predictions but for the fields given."""
    uniform = dict(
        value_logits=jnp.zeros((2, 3, 5)),
        policy_logits=jnp.zeros((2, 3, 3)),
        prefix_logits=jnp.zeros((2, 2, 5)),
        projection=jnp.ones((2, 2, 2)),
        target_projection=jnp.ones((2, 2, 2)),
        actions=Discrete(3),
    )
    return Unroll(**(uniform | fields))


def make_targets(**fields):
    """Nothing masked, everything zero but for the fields given."""
    zero = dict(
        value=jnp.zeros((2, 3)),
        value_prefix=jnp.zeros((2, 2)),
        policy=jnp.full((2, 3, 3), 1 / 3),
        value_mask=jnp.ones((2, 3)),
        policy_mask=jnp.ones((2, 3)),
        state_mask=jnp.ones((2, 3)),
    )
    return Targets(**(zero | fields))


def test_policy_loss():
    """-log of the probability of the target; of a soft target the mean over it."""
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25]] * 3, [[0.125, 0.375, 0.5]] * 3]))
    target = jnp.array([[[1.0, 0, 0], [0, 1, 0], [0.5, 0.5, 0]], [[1, 0, 0], [0, 0, 1], [0, 0, 1]]])
    unroll = make_unroll(policy_logits=logits)
    np.testing.assert_allclose(
        policy_loss(unroll, make_targets(policy=target), CONFIG), [4.5 * LOG2, 5 * LOG2], rtol=1e-6
    )
    masked = make_targets(policy=target, policy_mask=jnp.array([[1.0, 0, 1], [0, 1, 0]]))
    np.testing.assert_allclose(policy_loss(unroll, masked, CONFIG), [2.5 * LOG2, LOG2], rtol=1e-6)


def test_value_loss():
    """h(0) = 0 is an atom; h(3) = 1.003 is spread over two; h(100) is beyond the last."""
    probs = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])
    unroll = make_unroll(value_logits=jnp.tile(jnp.log(probs), (2, 3, 1)))
    targets = make_targets(value=jnp.array([[0.0, 3.0, 100.0], [-100.0, 0.0, 0.0]]))
    np.testing.assert_allclose(
        value_loss(unroll, targets, CONFIG), [(3 + 4 + 4) * LOG2, (1 + 3 + 3) * LOG2], rtol=1e-5
    )
    # Different weights on both neighbours: h(-3) = -1.003 lies 0.003 beyond the second atom.
    targets = make_targets(
        value=jnp.full((2, 3), -3.0), value_mask=jnp.array([[0.0, 1, 0], [1, 1, 1]])
    )
    expected = (0.997 * 2 + 0.003 * 1) * LOG2
    np.testing.assert_allclose(
        value_loss(unroll, targets, CONFIG), [expected, 3 * expected], rtol=1e-5
    )


def test_value_prefix_loss():
    """Of steps 1..K: the mask of the root does not matter."""
    probs = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])
    unroll = make_unroll(prefix_logits=jnp.tile(jnp.log(probs), (2, 2, 1)))
    targets = make_targets(value_prefix=jnp.array([[0.0, 100.0], [0.0, -100.0]]))
    np.testing.assert_allclose(
        value_prefix_loss(unroll, targets, CONFIG), [7 * LOG2, 4 * LOG2], rtol=1e-5
    )
    masked = targets.replace(value_mask=jnp.array([[0.0, 1, 0], [1, 0, 1]]))
    np.testing.assert_allclose(
        value_prefix_loss(unroll, masked, CONFIG), [3 * LOG2, LOG2], rtol=1e-5
    )
    # 2 h(1) = 0.830429 lies between the atoms 0, worth 3 log 2 here, and 1, worth 4.
    closer = config_lib.replace(CONFIG, network__prefix_scale=2.0)
    loss = value_prefix_loss(unroll, make_targets(value_prefix=jnp.ones((2, 2))), closer)
    np.testing.assert_allclose(loss, [2 * 3.830429 * LOG2] * 2, rtol=1e-5)


def test_consistency_loss():
    """-cos: parallel, orthogonal, opposite, and (3, 4) with (4, 3) at 24/25; lengths do not
    matter.
    """
    unroll = make_unroll(
        projection=jnp.array([[[2.0, 0], [0, 3]], [[1, 1], [3, 4]]]),
        target_projection=jnp.array([[[5.0, 0], [4, 0]], [[-2, -2], [40, 30]]]),
    )
    np.testing.assert_allclose(
        consistency_loss(unroll, make_targets(), CONFIG), [-1.0, 1 - 0.96], atol=1e-6
    )
    # Absorbing states have a value but no frame: the value's mask does not matter, nor does that of
    # the root.
    masked = make_targets(
        state_mask=jnp.array([[0.0, 0, 1], [1, 0, 1]]),
        value_mask=jnp.array([[1.0, 1, 0], [1, 1, 0]]),
    )
    np.testing.assert_allclose(consistency_loss(unroll, masked, CONFIG), [0.0, -0.96], atol=1e-6)


@pytest.mark.parametrize("zero", ["projection", "target_projection", "both"])
def test_consistency_of_zero_vectors_has_a_finite_gradient(zero):
    """A projection of nothing but zeros costs nothing and breaks nothing."""

    def objective(projection, target):
        return consistency_loss(
            make_unroll(projection=projection, target_projection=target), make_targets(), CONFIG
        ).sum()

    a = jnp.zeros((2, 2, 2)) if zero != "target_projection" else jnp.ones((2, 2, 2))
    b = jnp.zeros((2, 2, 2)) if zero != "projection" else jnp.ones((2, 2, 2))
    value, gradient = jax.value_and_grad(objective, argnums=(0, 1))(a, b)
    assert value == 0
    assert all(np.isfinite(g).all() for g in gradient)


def test_entropy_loss():
    """-H: -log 3 of a uniform policy, -(1/2 + 1/4 2 + 1/4 2) log 2 = -3/2 log 2 of (1/2, 1/4, 1/4),
    0 of a certain one.
    """
    logits = jnp.array([[[0.0, 0, 0], [2 * LOG2, LOG2, LOG2], [100, 0, 0]]] * 2)
    unroll = make_unroll(policy_logits=logits)
    np.testing.assert_allclose(
        entropy_loss(unroll, make_targets(), CONFIG), [-LOG3 - 1.5 * LOG2] * 2, rtol=1e-6
    )
    masked = make_targets(policy_mask=jnp.array([[1.0, 0, 1], [0, 1, 0]]))
    np.testing.assert_allclose(
        entropy_loss(unroll, masked, CONFIG), [-LOG3, -1.5 * LOG2], rtol=1e-6
    )


def test_entropy_loss_pushes_towards_the_uniform_policy():
    """d(-H)/dz_i = p_i (log p_i + H): (1/4, -1/8, -1/8) log 2 at (1/2, 1/4, 1/4); nothing at the
    uniform policy.
    """
    logits = jnp.array([[[0.0, 0, 0], [2 * LOG2, LOG2, LOG2], [LOG2, 2 * LOG2, LOG2]]] * 2)
    objective = lambda z: entropy_loss(make_unroll(policy_logits=z), make_targets(), CONFIG).sum()
    gradient = jax.grad(objective)(logits)
    expected = np.array([[0, 0, 0], [0.25, -0.125, -0.125], [-0.125, 0.25, -0.125]]) * LOG2
    np.testing.assert_allclose(gradient, np.tile(expected, (2, 1, 1)), atol=1e-6)
    nearer = jax.nn.softmax(logits - gradient)[0, 1]
    assert nearer.max() < 0.49 and nearer.min() > 0.25


@pytest.mark.parametrize("name", LOSSES)
def test_masked_steps_send_no_gradient(name):
    """Only the unmasked slot 1 of the first sample moves anything; the masks of other terms do not
    matter.
    """
    field, step, mask = {
        "policy": ("policy_logits", 1, "policy_mask"),
        "value": ("value_logits", 1, "value_mask"),
        "value_prefix": ("prefix_logits", 0, "value_mask"),
        "consistency": ("projection", 0, "state_mask"),
        "entropy": ("policy_logits", 1, "policy_mask"),
    }[name]
    rng = np.random.default_rng(0)
    unroll = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), make_unroll()
    )
    targets = make_targets(value=jnp.ones((2, 3)), **{mask: jnp.array([[0.0, 1, 0], [0, 0, 0]])})
    gradient = jax.grad(lambda u: LOSSES[name](u, targets, CONFIG).sum())(unroll)
    moved = np.abs(getattr(gradient, field)).sum(-1) > 0
    expected = np.zeros_like(moved)
    expected[0, step] = True
    np.testing.assert_array_equal(moved, expected)


def test_active_losses():
    """The paper's weights; weight 0 leaves out the paper's terms alone; an extra term takes the
    place of its namesake.
    """
    paper = active_losses(presets.PAPER)
    assert {name: weight for name, (_, weight) in paper.items()} == {
        "policy": 1.0,
        "value": 0.25,
        "value_prefix": 1.0,
        "consistency": 2.0,
    }
    assert all(paper[name][0] is LOSSES[name] for name in paper)

    second = active_losses(presets.V2)
    assert set(second) == {*paper, "entropy"} and second["entropy"] == (entropy_loss, 5e-3)

    config = config_lib.replace(CONFIG, loss__consistency=0.0, loss__value=0.5)
    assert {name: weight for name, (_, weight) in active_losses(config).items()} == {
        "policy": 1.0,
        "value": 0.5,
        "value_prefix": 1.0,
    }

    def mine(unroll, targets, config):
        return jnp.zeros(2)

    terms = active_losses(
        config, {"mine": (mine, 0.1), "value": (mine, 3.0), "policy": (mine, 0.0)}
    )
    assert terms == {
        "policy": (mine, 0.0),
        "value": (mine, 3.0),
        "value_prefix": (value_prefix_loss, 1.0),
        "mine": (mine, 0.1),
    }
    assert "mine" not in LOSSES and LOSSES["value"] is value_loss


def test_total_loss_weighs_the_terms():
    """Uniform predictions: 3 log 3 for the policy, 3 log 5 for the value, 2 log 5 for the prefix;
    -2 for parallel states; -3 log 3 for the entropy."""
    terms = active_losses(
        config_lib.replace(
            CONFIG,
            loss__policy=1.0,
            loss__value=0.25,
            loss__value_prefix=0.5,
            loss__consistency=2.0,
            loss__entropy=0.125,
        )
    )
    extra = {"extra": (lambda unroll, targets, config: jnp.array([1.0, 2.0]), 10.0)}
    total, parts = total_loss(terms | extra, make_unroll(), make_targets(), CONFIG)
    expected = {
        "policy": 3 * LOG3,
        "value": 3 * LOG5,
        "value_prefix": 2 * LOG5,
        "consistency": -2.0,
        "entropy": -3 * LOG3,
    }
    assert set(parts) == {*expected, "extra"}
    for name, value in expected.items():
        np.testing.assert_allclose(parts[name], [value] * 2, rtol=1e-5)
    base = 3 * LOG3 + 0.25 * 3 * LOG5 + 0.5 * 2 * LOG5 - 2 * 2.0 - 0.125 * 3 * LOG3
    np.testing.assert_allclose(total, [base + 10, base + 20], rtol=1e-5)


# AUGMENTATION


def clips(size, frames=3, height=7, width=6, channels=2):
    """uint8 clips in which each pixel of a frame is unique."""
    pixel = np.arange(height * width).reshape(1, 1, height, width, 1)
    return (
        pixel * 4
        + np.arange(channels)
        + 2 * np.arange(frames).reshape(1, frames, 1, 1, 1)
        + np.zeros((size, 1, 1, 1, 1), int)
    ).astype(np.uint8)


def find_shift(before, after, reach):
    """The one `(dy, dx)` by which a whole clip moved, edges repeated."""
    height, width = before.shape[1:3]
    found = []
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            rows, columns = (
                np.clip(np.arange(height) + dy, 0, height - 1),
                np.clip(np.arange(width) + dx, 0, width - 1),
            )
            if np.array_equal(before[:, rows][:, :, columns], after):
                found.append((dy, dx))
    assert len(found) == 1
    return found[0]


def test_shift_only_moves():
    """Each clip as a whole, by at most the padding, in both directions, differently from clip to
    clip.
    """
    frames = clips(200)
    moved = np.asarray(random_shift(jax.random.key(0), jnp.asarray(frames), 2))
    assert moved.dtype == np.uint8 and moved.shape == frames.shape
    shifts = [find_shift(before, after, 4) for before, after in zip(frames, moved)]
    # Of 200 clips, each of the 25 shifts gets its share: P(none) = (24/25)^200 < 3e-4 for one of
    # them.
    assert set(shifts) == {(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}


def test_shift_by_products_is_the_shift():
    """As an accelerator computes it, to the bit, with three channels and all bytes."""
    frames = np.random.default_rng(1).integers(0, 256, (8, 2, 12, 10, 3)).astype(np.uint8)
    expected = random_shift(jax.random.key(1), jnp.asarray(frames), 4)
    with lowering.plain():
        found = random_shift(jax.random.key(1), jnp.asarray(frames), 4)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8 and {0, 255} <= set(np.asarray(found).ravel().tolist())


def test_intensity_is_one_bounded_factor_for_a_clip():
    """1 + 0.05 n with n standard normal, cut at 2; nothing is clipped afterwards."""
    frames = np.full((1000, 2, 3, 3, 1), 200, np.uint8)
    factor = np.asarray(random_intensity(jax.random.key(0), jnp.asarray(frames), 0.05)) / 200
    assert (factor == factor[:, :1, :1, :1, :1]).all()
    factor = factor[:, 0, 0, 0, 0]
    np.testing.assert_allclose([factor.min(), factor.max()], [0.9, 1.1], atol=1e-6)
    # Of a standard normal cut at 2 the deviation is 0.959.
    np.testing.assert_allclose([factor.mean(), factor.std()], [1.0, 0.05 * 0.959], atol=0.005)
    # White gets brighter than 255.
    white = augment(jax.random.key(0), jnp.full((50, 1, 3, 3, 1), 255, jnp.uint8), 0, 0.05)
    assert white.dtype == jnp.float32 and white.max() > 260


def test_augment_moves_and_scales_each_clip():
    """Each clip is one factor times one shift of itself, and neither follows from the other."""
    frames = clips(40).astype(np.float32) + 1
    out = np.asarray(augment(jax.random.key(1), jnp.asarray(frames), 2, 0.05))
    found = []
    for before, after in zip(frames, out):
        # Neighbouring rows differ by the same amount everywhere but at the edges.
        factor = (
            np.diff(after[:, :, 2, 0], axis=1).max() / np.diff(before[:, :, 2, 0], axis=1).max()
        )
        assert 0.9 - 1e-4 <= factor <= 1.1 + 1e-4
        found.append((*find_shift(before, np.round(after / factor), 2), factor))
    dy, dx, factor = np.array(found).T
    assert len(set(zip(dy, dx))) > 10 and len(set(factor)) > 30
    assert max(abs(np.corrcoef(dy, factor)[0, 1]), abs(np.corrcoef(dx, factor)[0, 1])) < 0.5
    other = augment(jax.random.key(2), jnp.asarray(frames), 2, 0.05)
    assert not np.array_equal(out, other)


def test_the_amplitude_of_vectors():
    """One factor for all entries and steps of a clip: zero stays, and so does each sign."""
    clip = jnp.array([[0.0, 1.0, -2.0], [3.0, 0.0, 0.5]])
    out = np.asarray(augment(jax.random.key(0), jnp.stack([clip] * 40), 0, 0.1))
    factor = out[:, 0, 1]
    np.testing.assert_allclose(out, factor[:, None, None] * clip, rtol=1e-6)
    assert factor.min() >= 0.8 and factor.max() <= 1.2 and np.std(factor) > 0.05


def test_augment_off_is_the_identity():
    frames = jnp.asarray(clips(3))
    out = augment(jax.random.key(0), frames, 0, 0.0)
    assert out.dtype == jnp.uint8
    np.testing.assert_array_equal(out, frames)
