"""What a config refuses between its fields, what of it a run reads, and configs of committed
results.
"""

import json

import pytest
from helpers.tiny import CATCH, ROOT

from ez_jax.config import applicable, from_dict, replace, to_dict, validate, validate_new
from ez_jax.presets import DMC, DMC_CPU, PRESETS, classic, continuous, dmc
from ez_jax.presets.small import TASKS

TAUGHT = dict(reanalyse__mode="teacher", reanalyse__ratio=1.0)


def check(config):
    """As of a new run that sees vectors."""
    validate(config)
    validate_new(config, image=False)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            dict(target__value="mixed", reanalyse__mode="sampled", reanalyse__ratio=0.99),
            r"reanalyse.ratio=0.99 is out of range: it must be 1 .* target.value=mixed",
        ),
        (
            dict(target__value="search", reanalyse__mode="teacher", reanalyse__ratio=0.5),
            r"reanalyse.ratio=0.5 is out of range: it must be 1 .* target.value=search",
        ),
        (
            dict(TAUGHT, target__bootstrap="search"),
            "target.bootstrap='search' must be network with reanalyse.mode=teacher",
        ),
        (
            dict(loss__entropy=0.0, loss__entropy_target=(0.5, 0.0)),
            "loss.entropy-target=0.5 0.0 does nothing with loss.entropy=0",
        ),
        (
            dict(reanalyse__positions=1201, replay__capacity=1200),
            "reanalyse.positions=1201 is out of range: it must be at most replay.capacity=1200",
        ),
        (
            dict(network__input_norm="running", network__norm="batch", network__residual="post"),
            "network.input-norm=running does nothing with network.norm=batch",
        ),
        *(
            (
                dict(network__action_embedding=size),
                f"network.action-embedding={size} is out of range: it must be 0 or at least 3",
            )
            for size in (1, 2)
        ),
    ],
)
def test_what_does_nothing_or_harm_is_refused(changes, message):
    check(CATCH)
    with pytest.raises(ValueError, match=message):
        check(replace(CATCH, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        dict(target__value="mixed", reanalyse__mode="oldest", reanalyse__ratio=0.5),
        dict(target__value="td", reanalyse__mode="teacher", reanalyse__ratio=0.5),
        dict(TAUGHT, target__value="search"),
        dict(target__bootstrap="search", reanalyse__mode="sampled"),
        dict(loss__entropy=0.1, loss__entropy_target=(0.5, 0.0)),
        dict(network__input_norm="running", network__norm="layer"),
        dict(network__action_embedding=3),
        dict(network__input_norm="running", network__norm="batch", network__residual="pre"),
    ],
)
def test_what_does_something_is_taken(changes):
    check(replace(CATCH, **changes))


def test_norms_of_vectors_are_not_asked_of_images():
    changes = dict(network__input_norm="running", network__norm="batch", network__residual="post")
    validate_new(replace(CATCH, **changes), image=True)


def test_presets_are_valid():
    """Of every known task too, in their debug forms, and of images."""
    tasks = ("WalkerWalk-v1", "QuadrupedRun-v1")
    configs = [*PRESETS.values(), *(continuous("X-v0", image=image) for image in (False, True))]
    configs += [classic(task, debug=debug) for task in TASKS for debug in (False, True)]
    configs += [
        dmc(task, preset, pixels=pixels)
        for task in tasks
        for preset in ("dmc", "dmc-cpu", "debug")
        for pixels in (False, True)
    ]
    for config in configs:
        validate(config)
        validate_new(config, image=True)


def test_configs_of_committed_results_are_valid():
    """Those of this version's fields; reanalysis was switched off in some with a teacher's task."""
    checked = 0
    for path in (ROOT / "experiments" / "results").glob("*/runs.json"):
        for run in json.loads(path.read_text()):
            try:
                config = from_dict(run["config"])
            except ValueError as error:  # older than a field's last name
                assert "unknown config field" in str(error)
                continue
            validate(config)
            checked += 1
    assert checked > 150


# WHAT IS READ


def unread(config, *, image=False, vectors=False):
    """Dotted names that `applicable` leaves out, but those of the environment."""
    shown = applicable(config, image=image, atari=False, vectors=vectors)
    return {
        f"{section}.{name}"
        for section, values in to_dict(config).items()
        if section != "env" and isinstance(values, dict)
        for name in set(values) - set(shown[section])
    }


@pytest.mark.parametrize(
    "changes, names",
    [
        (
            dict(search__by_action_count=True),
            {"search.num_simulations", "search.max_considered_actions"},
        ),
        (dict(search__q_scale="siblings"), {"search.min_value_range"}),
        (dict(network__norm="batch"), {"network.input_norm"}),
        (dict(network__value_prefix=False), {"network.lstm", "target.prefix_horizon"}),
        (dict(network__projection=0), {"network.predictor"}),
        (dict(loss__entropy=0.0), {"loss.entropy_target"}),
        (dict(target__value="search"), {"target.bootstrap"}),
        (dict(cycle__idle_steps=0), {"cycle.idle_repeat"}),
        (dict(reanalyse__mode="off"), {"reanalyse.positions"}),
    ],
)
def test_a_setting_is_left_out_where_another_leaves_it_unread(changes, names):
    """And nothing else is: `base` has all that the task and the search may read."""
    base = replace(
        CATCH,
        network__norm="layer",
        target__value="mixed",
        reanalyse__mode="oldest",
        cycle__idle_steps=10,
    )
    found = unread(replace(base, **changes)) - unread(base)
    if changes.get("target__value"):
        names = names | {"target.search_value_after", "target.fresh_steps"}
    assert found == names


def test_settings_by_the_kind_of_observation_and_action():
    of_images = {"residual", "input_norm"}
    of_vectors = {"patch", "motion", "pools", "head_channels", "action_planes", "trunk_norm"}
    of_vectors.add("joint_norm")  # their heads have LayerNorm here
    for image, wanted in ((True, of_images), (False, of_vectors)):
        found = unread(DMC_CPU, image=image)
        mine = {name.partition(".")[2] for name in found if name.startswith("network.")}
        assert mine == wanted | {"lstm"}
        wanted = {"amplitude"} if image else {"shift", "intensity"}
        assert {name for name in found if name.startswith("loss.")} == {
            f"loss.{name}" for name in wanted
        }
    assert "network.action_planes" in unread(DMC, image=True, vectors=True)


def test_moments_of_heads_are_joined_where_they_have_batch_norm():
    name = "network.joint_norm"
    for norm, trunk, image, read in (
        ("batch", "batch", False, True),
        ("layer", "batch", False, False),
        ("layer", "batch", True, True),
        ("layer", "layer", True, False),
    ):
        config = replace(CATCH, network__norm=norm, network__trunk_norm=trunk)
        assert (name not in unread(config, image=image)) == read


def test_a_target_network_is_read_by_its_modes_alone():
    for mode, step, wanted in (
        ("sampled", 0.0, set()),
        ("teacher", 0.1, {"cycle.target_interval"}),
        ("oldest", 0.0, {"cycle.target_interval", "cycle.target_step_size"}),
        ("off", 0.1, {"cycle.target_interval", "cycle.target_step_size"}),
    ):
        config = replace(CATCH, reanalyse__mode=mode, cycle__target_step_size=step)
        found = {name for name in unread(config) if name.startswith("cycle.target")}
        assert found == wanted, mode
