"""What is lowered differently on a CPU gives the numbers of the plain program."""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ez_jax import lowering
from ez_jax.agent.unroll import fold_moments
from ez_jax.config import replace
from ez_jax.lowering import backend, convolution, pieces
from ez_jax.networks import Network, encode, init_variables
from ez_jax.networks.layers import BatchNorm
from ez_jax.observations import observation_shape
from ez_jax.presets import CPU, PAPER
from ez_jax.types import EnvSpec

on_cpu = pytest.mark.skipif(not lowering.on_cpu(), reason="other backends have one lowering")
KEYS = jax.random.split(jax.random.key(0), 4)


def normal(i, *shape):
    return jax.random.normal(KEYS[i], shape)


def both(fn, *args):
    """`fn` as lowered here, and plainly: two functions, since a traced function is remembered."""
    here = jax.jit(lambda *a: fn(*a))(*args)
    with lowering.plain():
        return here, jax.jit(lambda *a: fn(*a))(*args)


@on_cpu
def test_plain_is_another_program():
    def trace():
        return str(
            jax.make_jaxpr(
                lambda x, w: lowering.conv_general_dilated(
                    x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=convolution.NHWC
                )
            )(normal(0, 1, 4, 4, 2), normal(1, 3, 3, 2, 2))
        )

    assert "custom_vjp" in trace()
    with lowering.plain():
        assert "custom_vjp" not in trace()
    assert "custom_vjp" in trace()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height, width", [(6, 6), (4, 10)])
@pytest.mark.parametrize("images", [0, 1, 2, 3])
def test_convolution_and_its_gradients(stride, height, width, images, monkeypatch):
    """Of small images all at once (0), of large ones so many as fit into the cache and divide the
    batch.
    """
    x, kernel = normal(0, 4, height, width, 5), normal(1, 3, 3, 5, 4)
    weight = normal(2, 4, height // stride, width // stride, 4)
    monkeypatch.setattr(pieces, "CACHE_BYTES", images * (x[0].nbytes + weight[0].nbytes) or 10**9)

    def run(x, kernel):
        def loss(x, kernel):
            y = lowering.conv_general_dilated(
                x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=convolution.NHWC
            )
            return jnp.sum(y * weight), y

        return jax.grad(loss, (0, 1), has_aux=True)(x, kernel)

    here, plain = both(run, x, kernel)
    loops = (
        re.findall(r"length=(\d)", str(jax.make_jaxpr(run)(x, kernel))) if lowering.on_cpu() else []
    )
    assert loops == {0: [], 1: ["4"], 2: ["2"], 3: ["2"]}[images if lowering.on_cpu() else 0]
    assert here[1].shape == weight.shape
    chex.assert_trees_all_close(here, plain, rtol=1e-4, atol=1e-4)


@on_cpu
@pytest.mark.parametrize("stride", [1, 2])
def test_kernel_gradients_are_summed_in_float32(stride, monkeypatch):
    """64 images one by one, whose kernel gradients are alike: summed in bfloat16 the small steps
    would be lost.
    """
    monkeypatch.setattr(pieces, "CACHE_BYTES", 1)
    x, g = (
        jnp.ones((64, 6, 6, 2), jnp.bfloat16),
        jnp.full((64, 6 // stride, 6 // stride, 3), 1.0, jnp.bfloat16),
    )
    gradient = convolution._kernel_gradient(x, g, stride)
    assert gradient.dtype == jnp.bfloat16
    # The middle of the kernel meets every pixel.
    np.testing.assert_array_equal(gradient[1, 1].astype(jnp.float32), 64 * (6 // stride) ** 2)


@pytest.mark.parametrize(
    "size, kernel, strides, pad, options",
    [
        (5, 3, (2, 2), 1, {}),
        (6, 5, (1, 1), 2, {}),
        (6, 1, (1, 1), 0, {}),
        (6, 1, (1, 1), 1, {}),
        (6, 3, (3, 3), 1, {}),
        (6, 3, (1, 2), 1, {}),
        (6, 3, (1, 1), 0, {}),
        (6, 3, (1, 1), 1, dict(rhs_dilation=(2, 2))),
        (6, 3, (1, 1), 1, dict(feature_group_count=2)),
    ],
    ids=[
        "odd",
        "wide",
        "one pixel",
        "one pixel padded",
        "stride 3",
        "two strides",
        "unpadded",
        "dilated",
        "grouped",
    ],
)
def test_other_convolutions(size, kernel, strides, pad, options):
    """What the fast path does not take is what `lax` makes of it, its gradients too."""
    groups = options.get("feature_group_count", 1)
    x, w = normal(0, 2, size, size, 4), normal(1, kernel, kernel, 4 // groups, 4)

    def conv(fn, x, w):
        return fn(
            x, w, strides, ((pad, pad), (pad, pad)), dimension_numbers=convolution.NHWC, **options
        )

    def run(fn):
        return jax.jit(jax.value_and_grad(lambda x, w: jnp.sum(jnp.sin(conv(fn, x, w))), (0, 1)))(
            x, w
        )

    chex.assert_trees_all_close(
        run(lowering.conv_general_dilated), run(jax.lax.conv_general_dilated), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("shape", [(4, 6, 6, 3), (64, 5)], ids=["image", "vector"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_batch_norm_is_flax_batch_norm(shape, dtype):
    """Output, moved statistics and gradients, against Flax's own module with the same variables."""
    x = (3 + 2 * normal(0, *shape)).astype(dtype)
    weight, scale, bias = normal(1, *shape), 1 + normal(2, shape[-1]), normal(3, shape[-1])
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": scale * 2, "var": scale**2},
    }

    def run(module, variables, x):
        def loss(params, x):
            y, moved = call(module, {**variables, "params": params}, x)
            return jnp.sum(y * weight), (y, moved)

        return jax.grad(loss, (0, 1), has_aux=True)(variables["params"], x)

    def call(module, variables, x):
        if isinstance(module, nn.BatchNorm):
            y, moved = module.apply(variables, x, mutable=["batch_stats"])
            return y, moved["batch_stats"]
        y, sown = module.apply(variables, x, True, mutable=["moments"])
        return y, fold_moments(variables["batch_stats"], sown["moments"], (0,), 1)

    ours = BatchNorm(spatial=len(shape) - 2, dtype=dtype)
    theirs = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5, dtype=dtype)
    expected = jax.jit(run, static_argnums=0)(theirs, variables, x)
    tolerance = 2e-4 if dtype == jnp.float32 else 0.1
    for found in both(lambda variables, x: run(ours, variables, x), variables, x):
        chex.assert_trees_all_close(found, expected, rtol=tolerance, atol=tolerance)
        chex.assert_trees_all_equal_dtypes(found, expected)
    fixed = [
        ours.apply(variables, x, False),
        theirs.clone(use_running_average=True).apply(variables, x),
    ]
    np.testing.assert_allclose(
        *(np.asarray(y, np.float32) for y in fixed), rtol=tolerance, atol=tolerance
    )


def test_steps_of_batch_norm_made_together():
    """The first and third step at once, then the second: each is normalised by itself, and the
    averages move in their turns.
    """
    x, module = 3 + 2 * normal(0, 8, 3, 4), BatchNorm()
    variables = jax.tree.map(
        lambda a: a + normal(1, 4) ** 2, module.init(jax.random.key(0), x[:, 0], False)
    )

    def call(stats, x, turns=(0,), total=1):
        y, sown = module.apply({**variables, "batch_stats": stats}, x, True, mutable=["moments"])
        return y, fold_moments(stats, sown["moments"], turns, total)

    stats, expected = variables["batch_stats"], []
    for k in range(3):
        y, stats = call(stats, x[:, k])
        expected.append(y)
    both, found = call(variables["batch_stats"], x[:, ::2], (0, 2), 3)
    second, found = call(found, x[:, 1], (1,), 3)
    np.testing.assert_allclose(both, jnp.stack(expected[::2], 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second, expected[1], rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(found, stats, rtol=1e-5)


def test_batch_norm_without_affine_has_no_parameters():
    x = 3 + 2 * normal(0, 32, 4)
    module = BatchNorm(momentum=0.99, affine=False)
    y, variables = module.init_with_output(jax.random.key(0), x, True)
    assert set(variables) == {"batch_stats"}
    np.testing.assert_allclose(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), rtol=1e-3, atol=1e-4)
    chex.assert_trees_all_equal(
        variables["batch_stats"], {"mean": jnp.zeros(4), "var": jnp.ones(4)}
    )


@on_cpu
@pytest.mark.parametrize("batch", [3, 5, 8])
def test_chunks_in_cache(batch, monkeypatch):
    """Fewer than two chunks, one more than a multiple of the chunk, and a multiple."""
    calls = []

    def fn(x):
        calls.append(x.shape)
        return jnp.cumsum(x, axis=1)

    monkeypatch.setattr(pieces, "CACHE_BYTES", 200)
    x = normal(0, batch, 7)
    np.testing.assert_allclose(
        lowering.map_in_cache(fn, x, 100), np.cumsum(x, 1), rtol=1e-5, atol=1e-5
    )
    assert (batch, 7) not in calls if batch > 4 else calls == [(batch, 7)]


@on_cpu
def test_encoding_in_chunks(monkeypatch):
    config = replace(
        PAPER,
        env__height=32,
        env__width=32,
        network__channels=8,
        network__lstm=8,
        network__projection=8,
    )
    spec = EnvSpec(4, (32, 32, 3), np.uint8, 4)
    network = Network(config.network, spec)
    variables = jax.jit(lambda key: init_variables(network, key))(KEYS[0])
    observation = jax.random.randint(KEYS[1], (5, *observation_shape(spec)), 0, 256).astype(
        jnp.uint8
    )
    monkeypatch.setattr(pieces, "CACHE_BYTES", 2 * 32 * 32 * 4)
    assert "while" in jax.jit(lambda o: encode(network, variables, o)).lower(observation).as_text()
    here, plain = both(lambda o: encode(network, variables, o), observation)
    assert np.std(plain) > 0
    np.testing.assert_allclose(here, plain, rtol=1e-4, atol=1e-5)


@on_cpu
def test_compiler_options_are_known_and_optional(monkeypatch):
    """An option that this XLA does not know is left out, not an error, and the others stay."""
    known = backend.CPU_OPTIONS
    monkeypatch.setattr(backend, "CPU_OPTIONS", {"xla_cpu_of_another_version": "1", **known})
    assert lowering.compiler_options() == known
    assert lowering.compiler_options(little_memory=True) == known | backend.LITTLE_MEMORY
    assert float(lowering.jit(lambda x: x + 1, little_memory=True)(1.0)) == 2
    with lowering.plain():
        assert lowering.compiler_options(little_memory=True) == {}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert lowering.compiler_options() == backend.GPU_OPTIONS
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert lowering.compiler_options() == {}


@pytest.mark.parametrize("preset", [PAPER, CPU], ids=["paper", "cpu"])
def test_chunk_sizes(preset, monkeypatch):
    """Eight of the paper's images fill the cache, of the small ones more than a search encodes."""
    sizes = []
    monkeypatch.setattr(
        lowering,
        "map_in_cache",
        lambda fn, x, bytes_each: sizes.append(pieces.CACHE_BYTES // bytes_each),
    )
    spec = EnvSpec(4, (preset.env.height, preset.env.width, 1), np.uint8, 4)
    encode(Network(preset.network, spec), None, jnp.zeros((1, *observation_shape(spec)), jnp.uint8))
    assert sizes == [8 if preset is PAPER else 23]


def test_moments_of_many_pixels_far_from_zero():
    """131,072 pixels at 5 +- 0.1: the variance is the small difference of two sums, each of which
    must be good to seven digits.
    """
    x = 5 + 0.1 * normal(0, 128, 32, 32, 3)
    exact = np.asarray(x, np.float64)
    mean, variance = jax.jit(lowering.batch_moments)(x)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(variance, exact.var((0, 1, 2)), rtol=3e-3)


@pytest.mark.parametrize(
    "count, most, size", [(1518, 256, 253), (64, 256, 64), (512, 256, 256), (7, 4, 7), (6, 1, 1)]
)
def test_equal_pieces(count, most, size):
    assert lowering.equal_pieces(count, most) == size


@on_cpu
def test_map_in_pieces():
    """Each element once and in order; noise differs between pieces, and a small batch has the noise
    of the whole.
    """
    x = {"a": jnp.arange(12.0), "b": normal(0, 12, 3)}

    def fn(key, x):
        return x["a"] + jnp.sum(x["b"], 1), jax.random.normal(key, x["a"].shape)

    whole, noise = fn(KEYS[1], x)
    result, pieces = lowering.map_in_pieces(fn, KEYS[1], x, 4)
    np.testing.assert_array_equal(result, whole)
    assert len(np.unique(pieces)) == 12
    np.testing.assert_array_equal(lowering.map_in_pieces(fn, KEYS[1], x, 12)[1], noise)
    with lowering.plain():
        np.testing.assert_array_equal(lowering.map_in_pieces(fn, KEYS[1], x, 4)[1], noise)
