"""Networks: sizes and wiring of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny_networks import IMAGE, TINY, VECTOR, count, shapes

from ez_jax import config as config_lib
from ez_jax import presets
from ez_jax.agent.transforms import logits_to_scalar
from ez_jax.networks import Network, Step, init_variables
from ez_jax.networks.layers import BatchNorm
from ez_jax.observations import observation_shape
from ez_jax.types import EnvSpec

ATARI = EnvSpec(18, (96, 96, 3), np.uint8, 4)


def one_step(network, variables, batch, train=False):
    """State, prediction of it, and one model step with the prediction of that: as the search calls
    the network.
    """

    def forward(net, observation, action):
        state = net.encode(observation, train)
        step = net.step(state, net.initial_memory(batch), action, train)
        projected = net.predict_projection(net.project(step.state, train), train)
        return state, net.predict(state, train), step, net.predict(step.state, train), projected

    rng, shape = np.random.default_rng(0), (batch, *observation_shape(network.spec))
    observation = rng.integers(0, 256, shape) if len(shape) == 4 else rng.normal(size=shape)
    observation = jnp.asarray(observation, network.spec.frame_dtype)
    run = lambda variables: network.apply(
        variables,
        observation,
        jnp.zeros(batch, jnp.int32),
        method=forward,
        mutable=["moments"] if train else False,
    )
    if isinstance(jax.tree.leaves(variables)[0], jax.ShapeDtypeStruct):
        return jax.eval_shape(run, variables)
    out = jax.jit(run)(variables)
    return out[0] if train else out


# SIZES


def test_parameters_of_the_paper():
    """8,350,708 with 18 actions, in these parts."""
    _, variables = shapes(presets.PAPER.network, ATARI)
    params = dict(variables["params"])
    prediction = ("trunk", "value_features", "value_head", "policy_features", "policy_head")
    parts = {
        "representation": count(params.pop("representation")),
        "dynamics": count(params.pop("dynamics")),
        "value prefix": count(params.pop("value_prefix")),
        "prediction": sum(count(params.pop(name)) for name in prediction),
        "projector": count(params.pop("projector")) + count(params.pop("projector_norm")),
        "predictor": count(params.pop("predictor")),
    }
    assert not params
    assert parts == {
        "representation": 318_016,
        "dynamics": 111_552,
        "value prefix": 2_270_729,
        "prediction": 133_611,
        "projector": 4_465_664,
        "predictor": 1_051_136,
    }
    assert sum(parts.values()) == 8_350_708


def test_shapes_of_the_paper():
    """96x96 pixels to 6x6x64; LSTM of 512; 601 atoms."""
    network, variables = shapes(presets.PAPER.network, ATARI)
    assert observation_shape(ATARI) == (96, 96, 12)
    state, root, step, prediction, projected = one_step(network, variables, 2)
    assert state.shape == step.state.shape == (2, 6, 6, 64)
    assert [x.shape for x in step.memory] == [(2, 512), (2, 512)] and step.prefix_logits.shape == (
        2,
        601,
    )
    for p in (root, prediction):
        assert p.value_logits.shape == (2, 601) and p.policy_logits.shape == (2, 18)
    assert projected.shape == (2, 1024)


@pytest.mark.parametrize(
    "spec, added",
    [
        (
            IMAGE,
            {
                "action_embedding": {"kernel": (1, 1, 1, 5), "bias": (5,)},
                "LayerNorm_0": {"scale": (2, 2, 5), "bias": (2, 2, 5)},
            },
        ),
        (
            VECTOR,
            {
                "action_embedding": {"kernel": (3, 5), "bias": (5,)},
                "LayerNorm_0": {"scale": (5,), "bias": (5,)},
            },
        ),
    ],
    ids=["image", "vector"],
)
def test_action_embedding_adds_its_parameters(spec, added):
    """Only where it is asked for: a layer and its norm, and five features instead of the plane, or
    of the one-hot action.
    """
    without, embedded = (
        {
            name: jax.tree.map(jnp.shape, part)
            for name, part in shapes(config_lib.replace(TINY, action_embedding=size), spec)[1][
                "params"
            ]["dynamics"].items()
        }
        for size in (0, 5)
    )
    assert {name: embedded[name] for name in set(embedded) - set(without)} == added
    first = "Conv_0" if spec is IMAGE else "Dense_0"
    assert {name for name in without if without[name] != embedded[name]} == {first}
    assert without[first]["kernel"][-2:] == ((5, 4) if spec is IMAGE else (7, 4))
    assert embedded[first]["kernel"][-2:] == (9, 4)


# THE WHOLE


@pytest.mark.parametrize("spec, train", [(IMAGE, False), (VECTOR, True)], ids=["image", "vector"])
def test_a_fresh_network_knows_nothing(spec, train):
    """Zero-initialised heads: uniform policy, zero value and reward, in training or not; states are
    not negative.
    """
    network = Network(TINY, spec)
    variables = jax.jit(lambda key: init_variables(network, key))(jax.random.key(0))
    state, root, step, prediction, projected = one_step(network, variables, 4, train)
    for logits in (*root, step.prefix_logits, *prediction):
        np.testing.assert_array_equal(logits, 0)
    np.testing.assert_allclose(logits_to_scalar(root.value_logits), 0, atol=1e-5)
    assert state.min() >= 0 and step.state.min() >= 0
    # The bodies see the observation: the samples differ.
    for x in (state, step.state, step.memory[1], projected):
        assert np.asarray(x).std(axis=0).max() > 1e-5


def test_both_kinds_of_observation_have_one_interface():
    """All but the latent state has the same shape and type."""
    outputs = {}
    for spec, latent in ((IMAGE, (2, 2, 2, 4)), (VECTOR, (2, 4))):
        network, variables = shapes(TINY, spec)
        assert observation_shape(spec) == ((16, 16, 2) if spec is IMAGE else (8,))
        state, root, step, prediction, projected = one_step(network, variables, 2)
        assert state.shape == step.state.shape == latent
        outputs[spec] = root, step.memory, step.prefix_logits, prediction, projected
        assert set(variables) == {"params", "batch_stats"}
    assert outputs[IMAGE] == outputs[VECTOR]
    (root, memory, prefix, _, projected) = outputs[VECTOR]
    assert root.value_logits.shape == prefix.shape == (2, 7) and root.policy_logits.shape == (2, 3)
    assert memory[0].shape == (2, 5) and projected.shape == (2, 6)


@pytest.mark.parametrize("spec", [IMAGE, VECTOR], ids=["image", "vector"])
def test_without_value_prefix_there_is_no_lstm(spec):
    """Neither its parameters nor its memory; the head reads the features of the state."""
    names = {}
    for on in (True, False):
        network, variables = shapes(config_lib.replace(TINY, value_prefix=on), spec)
        names[on] = set(variables["params"]["value_prefix"])
        _, _, step, _, _ = one_step(network, variables, 2)
        assert step.memory[0].shape == step.memory[1].shape == (2, 5 if on else 0)
        assert step.prefix_logits.shape == (2, 7)
    assert {name.split("_")[0] for name in names[True] - names[False]} == {"LSTM", "BatchNorm"}
    assert not any("LSTM" in name for name in names[False])


@pytest.mark.parametrize("spec", [IMAGE, VECTOR], ids=["image", "vector"])
def test_without_projection_states_are_compared_as_they_are(spec):
    """Of mean 0 and variance 1 over the whole state; neither projector nor predictor."""
    network = Network(config_lib.replace(TINY, projection=0), spec)
    variables = jax.jit(lambda key: init_variables(network, key))(jax.random.key(0))
    assert not {"projector", "projector_norm", "predictor"} & {*variables["params"]}
    _, _, step, _, projected = one_step(network, variables, 2)
    state = np.asarray(step.state).reshape(2, -1)
    expected = (state - state.mean(1, keepdims=True)) / np.sqrt(state.var(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(projected, expected, rtol=1e-3, atol=1e-4)


def test_step_is_advance_and_value_prefixes():
    """The loss calls the halves, the search the whole."""
    network = Network(TINY, VECTOR)
    variables = jax.jit(lambda key: init_variables(network, key))(jax.random.key(0))
    head = variables["params"]["value_prefix"]["Mlp_0"]["Dense_1"]
    head["kernel"] = head["kernel"] + np.random.default_rng(2).normal(size=head["kernel"].shape)
    rng = np.random.default_rng(0)
    state, memory, action = (
        np.abs(rng.normal(size=(2, 4))).astype(np.float32),
        tuple(rng.normal(size=(2, 2, 5)).astype(np.float32)),
        np.array([0, 2]),
    )
    whole = network.apply(variables, state, memory, action, method=Network.step)
    advanced = network.apply(variables, state, action, method=Network.advance)
    prefixes = network.apply(variables, advanced, memory, method=Network.value_prefixes)
    halves = Step(advanced, *prefixes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, halves)
    # Both the action and the memory matter.
    other = network.apply(variables, state, memory, np.array([1, 1]), method=Network.step)
    assert (np.abs(other.state - whole.state).max(-1) > 1e-4).all()
    fresh = network.apply(variables, state, network.initial_memory(2), action, method=Network.step)
    assert (np.abs(fresh.prefix_logits - whole.prefix_logits).max(-1) > 1e-4).all()
    np.testing.assert_array_equal(fresh.state, whole.state)


@pytest.mark.parametrize("embedding", [0, 16])
@pytest.mark.parametrize(
    "spec, residual",
    [(IMAGE, "post"), (VECTOR, "post"), (VECTOR, "pre")],
    ids=["image", "vector", "pre"],
)
def test_each_action_leads_to_another_state(spec, residual, embedding):
    """Every two of them, by far more than rounding."""
    spec = spec._replace(num_actions=6)
    config = config_lib.replace(TINY, action_embedding=embedding, residual=residual)
    network = Network(config, spec)
    variables = jax.jit(lambda key: init_variables(network, key))(jax.random.key(0))
    shape = (1, 2, 2, 4) if len(spec.frame_shape) == 3 else (1, 4)
    state = jnp.asarray(1 + np.random.default_rng(0).random(shape), jnp.float32)
    after = network.apply(
        variables, jnp.repeat(state, 6, axis=0), jnp.arange(6), method=Network.advance
    )
    flat = np.asarray(after).reshape(6, -1)
    apart = np.abs(flat[:, None] - flat[None]).max(-1)
    assert apart[~np.eye(6, dtype=bool)].min() > 1e-3


@pytest.mark.parametrize(
    "norm, residual", [("batch", "post"), ("layer", "post"), ("layer", "pre"), ("batch", "pre")]
)
def test_vectors_of_bytes(norm, residual):
    """uint8 observations of one axis are the same numbers as float32 ones, in training and
    evaluation.
    """
    config = config_lib.replace(TINY, norm=norm, residual=residual)
    network, bytes_network = (
        Network(config, VECTOR._replace(frame_dtype=dtype)) for dtype in (np.float32, np.uint8)
    )
    variables = jax.jit(lambda key: init_variables(network, key))(jax.random.key(0))
    same = shapes(config, bytes_network.spec)[1]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), variables) == jax.tree.map(
        lambda x: (x.shape, x.dtype), same
    )
    observation = np.random.default_rng(0).integers(0, 256, (5, 8)).astype(np.uint8)
    for train in (False, True):
        found, expected = (
            net.apply(variables, x, train, method=Network.encode, mutable=["moments"])[0]
            for net, x in ((bytes_network, observation), (network, observation.astype(np.float32)))
        )
        assert found.dtype == jnp.float32 and found.std(axis=0).max() > 1e-5
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "spec, residual",
    [(IMAGE, "post"), (VECTOR, "post"), (VECTOR, "pre")],
    ids=["image", "vector", "pre"],
)
def test_bfloat16_trunk_has_float32_heads(spec, residual):
    """States are bfloat16; logits, memory, parameters and statistics are not."""
    config = config_lib.replace(TINY, dtype="bfloat16", residual=residual)
    network, variables = shapes(config, spec)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
    state, root, step, prediction, _ = one_step(network, variables, 2)
    assert state.dtype == step.state.dtype == jnp.bfloat16
    for x in (*root, *prediction, *step.memory, step.prefix_logits):
        assert x.dtype == jnp.float32


@pytest.mark.parametrize("mean, deviation", [(1000, 0.3), (100, 0.03), (-5, 0.1), (0, 20)])
def test_entries_far_from_zero_are_standardised(mean, deviation):
    """The mean of squares less the square of the mean would find 0 or four times the variance."""
    x = np.float32(mean + deviation * np.random.default_rng(0).normal(size=(128, 2)))
    layer = BatchNorm(momentum=0.99, affine=False)
    variables = layer.init(jax.random.key(0), x, True)
    found, updates = jax.jit(lambda x: layer.apply(variables, x, True, mutable=["moments"]))(x)
    exact = np.float64(x)
    variance = exact.var(axis=0)
    expected = (exact - exact.mean(axis=0)) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_allclose(updates["moments"]["batch"].variance[0], variance, rtol=2e-3)


@pytest.mark.parametrize("residual", ["post", "pre"])
def test_bfloat16_standardises_what_is_small_beside_its_mean(residual):
    """Entries of 100 with a deviation of 0.1, where bfloat16 tells 100 from 100.5 at best: states
    are those of float32, to its few digits.
    """
    config = config_lib.replace(TINY, norm="layer", residual=residual)
    variables = jax.jit(lambda key: init_variables(Network(config, VECTOR), key))(jax.random.key(0))
    observation = 100 + np.random.default_rng(0).normal(0, 0.1, (6, 8)).astype(np.float32)
    expected, found = (
        Network(config_lib.replace(config, dtype=dtype), VECTOR)
        .apply(variables, observation, True, method=Network.encode, mutable=["moments"])[0]
        .astype(jnp.float32)
        for dtype in ("float32", "bfloat16")
    )
    assert expected.std(axis=0).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=0.1)
