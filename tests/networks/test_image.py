"""What enters the network as an image, and the size that comes out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ez_jax.networks.image import Representation, motion


@pytest.mark.parametrize(
    "size, pools, patch, expected",
    [
        (96, 2, 1, 6),
        (96, 1, 1, 12),
        (48, 1, 1, 6),
        (64, 2, 1, 4),
        (16, 0, 1, 4),
        (96, 3, 1, 3),
        (48, 0, 2, 6),
        (96, 0, 4, 6),
    ],
)
def test_latent_resolution(size, pools, patch, expected):
    network = Representation(64, pools, 1, patch)
    out, _ = jax.eval_shape(
        lambda x: network.init_with_output(jax.random.key(0), x, False),
        jnp.zeros((1, size, size, 4), jnp.uint8),
    )
    assert out.shape == (1, expected, expected, 64)


def test_motion_by_hand():
    """Two pixels, three frames: one pixel stands at 51, the other goes 0, 102, 51."""
    frames = jnp.array([[[[51, 51, 51], [0, 102, 51]]]], jnp.uint8)  # [1, 1, 2, 3]
    changes = motion(frames, 3, 10.0)
    np.testing.assert_allclose(changes[0, 0], [[0, 0, 0], [4, -2, 0]], atol=1e-6)
    # Colours: the newest three channels are the newest frame, whose channels lose their own means.
    colours = jnp.array([[[[0, 51, 102, 51, 51, 51], [0, 0, 0, 0, 102, 51]]]], jnp.uint8)
    changes = motion(colours, 2, 5.0)
    expected = [[1, 0, -1, 0.1, -0.1, 0], [0, 2, 1, -0.1, 0.1, 0]]
    np.testing.assert_allclose(changes[0, 0], expected, atol=1e-6)


def test_motion_reaches_the_first_layer():
    """It adds no parameter; its factor is of changes alone, so that none matters to what stands."""
    kinds = {factor: Representation(8, 0, 1, stack=2, motion=factor) for factor in (0.0, 3.0, 12.0)}
    moving = jax.random.randint(jax.random.key(0), (2, 16, 16, 2), 0, 255).astype(jnp.uint8)
    standing = moving.at[..., 0].set(moving[..., 1])
    variables = kinds[0.0].init(jax.random.key(1), moving, False)
    for factor, kind in kinds.items():
        wanted = jax.eval_shape(lambda kind=kind: kind.init(jax.random.key(1), moving, False))
        assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, wanted), factor
    states = {
        (factor, name): np.asarray(kind.apply(variables, frames, False))
        for factor, kind in kinds.items()
        for name, frames in (("moving", moving), ("standing", standing))
    }
    np.testing.assert_array_equal(states[3.0, "standing"], states[12.0, "standing"])
    for one, other in ((3.0, 12.0), (0.0, 3.0)):
        assert not np.allclose(states[one, "moving"], states[other, "moving"])
    assert not np.allclose(states[3.0, "standing"], states[3.0, "moving"])
