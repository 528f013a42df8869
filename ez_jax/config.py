"""Every setting of a run: the whole config, its checks, and its form in files.

`sections` has the settings. A preset (`presets`) is a changed copy. Each field is an option by its
dotted name, e.g. `--search.num-simulations=16`.
"""

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Any, Literal

from ez_jax.sections import (
    CycleConfig,
    EnvConfig,
    LossConfig,
    NetworkConfig,
    OptimizerConfig,
    ReanalyseConfig,
    ReplayConfig,
    RunConfig,
    SearchConfig,
    TargetConfig,
    bounded,
)

__all__ = [
    "Config",
    "EnvConfig",
    "NetworkConfig",
    "SearchConfig",
    "applicable",
    "differences",
    "from_dict",
    "replace",
    "to_dict",
    "validate",
]


@dataclass(frozen=True)
class Config:
    env_steps: int = bounded(100_000, 1)
    """Agent steps to take, warm-up included: a hard cap."""
    seed: int = bounded(0, 0, 2**31 - 1)
    """Seed of everything: same seed, same machine, same numbers."""
    env: EnvConfig = EnvConfig()
    network: NetworkConfig = NetworkConfig()
    search: SearchConfig = SearchConfig()
    replay: ReplayConfig = ReplayConfig()
    target: TargetConfig = TargetConfig()
    reanalyse: ReanalyseConfig = ReanalyseConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    cycle: CycleConfig = CycleConfig()
    run: RunConfig = RunConfig()

    @property
    def online_updates(self) -> int:
        """Updates that go with the environment steps."""
        return self.env_steps * self.cycle.updates_per_act // self.env.num_envs

    @property
    def total_updates(self) -> int:
        """All updates of a run."""
        return self.online_updates + self.cycle.final_updates


def replace(config, **changes):
    """`dataclasses.replace` that also takes fields of sections: `search__num_simulations=8`."""
    flat = {k: v for k, v in changes.items() if "__" not in k}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        if "__" in key:
            section, name = key.split("__", 1)
            nested.setdefault(section, {})[name] = value
    flat |= {k: replace(getattr(config, k), **v) for k, v in nested.items()}
    return dataclasses.replace(config, **flat)


def validate(config, prefix: str = "") -> None:
    """Checks each bounded and each `Literal` field, and what only holds between fields.

    Raises:
      ValueError: names the first bad field (dotted, as on the command line) and its range.
    """
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        name, value = f"{prefix}{f.name}", getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            validate(value, f"{name}.")
            continue
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(math.isfinite(x) for x in numbers if isinstance(x, float)):
            option = name.replace("_", "-")
            raise ValueError(f"{option}={value} is out of range: it must be finite")
        low, high = f.metadata.get("low"), f.metadata.get("high")
        below, above = low is not None and not value >= low, high is not None and not value <= high
        if below or above:
            bounds = f"at least {low}" if high is None else f"in [{low}, {high}]"
            option = name.replace("_", "-")
            raise ValueError(f"{option}={value} is out of range: it must be {bounds}")
        choices = typing.get_args(hints[f.name])
        if typing.get_origin(hints[f.name]) is Literal and value not in choices:
            option = name.replace("_", "-")
            raise ValueError(f"{option}={value!r} must be one of {', '.join(choices)}")
    if isinstance(config, Config):
        _validate_sizes(config)


def validate_new(config: Config, *, image: bool) -> None:
    """Checks what a new run may not have, and an older one that goes on perhaps has: settings that
    do nothing, or learn from values that nothing computes.

    Args:
      config: of a run, validated.
      image: observations are images.

    Raises:
      ValueError: names the setting and what it must be.
    """
    network, target, reanalyse, loss = config.network, config.target, config.reanalyse, config.loss
    some = reanalyse.mode in ("sampled", "teacher") and reanalyse.ratio < 1
    if target.value != "td" and some:
        raise ValueError(
            f"reanalyse.ratio={reanalyse.ratio:g} is out of range: it must be 1 for the values of "
            f"searches that target.value={target.value} learns"
        )
    if target.bootstrap == "search" and reanalyse.mode == "teacher":
        raise ValueError(
            "target.bootstrap='search' must be network with reanalyse.mode=teacher, which searches "
            "no position that values bootstrap from"
        )
    if any(loss.entropy_target) and not loss.entropy:
        shares = " ".join(map(str, loss.entropy_target))
        raise ValueError(
            f"loss.entropy-target={shares} does nothing with loss.entropy=0: it must be 0 0"
        )
    if network.action_embedding in (1, 2):
        raise ValueError(
            f"network.action-embedding={network.action_embedding} is out of range: it must be 0 or "
            "at least 3, since so few are the same for nearly all actions once they are normalised"
        )
    raw = (network.input_norm, network.norm, network.residual) == ("running", "batch", "post")
    if raw and not image:
        raise ValueError(
            "network.input-norm=running does nothing with network.norm=batch and "
            "network.residual=post, which take vectors as they are: it must be batch"
        )


def _validate_sizes(config: Config) -> None:
    if not all(-5 <= share <= 1 for share in config.loss.entropy_target):
        shares = " ".join(map(str, config.loss.entropy_target))
        raise ValueError(f"loss.entropy-target={shares} is out of range: both must be in [-5, 1]")
    if config.cycle.batch_size % config.network.norm_groups:
        raise ValueError(
            f"network.norm-groups={config.network.norm_groups} is out of range: it must divide "
            f"cycle.batch-size={config.cycle.batch_size}"
        )
    for name in ("wide_actions", "inner_actions"):
        if (count := getattr(config.search, name)) > config.search.sampled_actions:
            raise ValueError(
                f"search.{name.replace('_', '-')}={count} is out of range: it must be at most "
                f"search.sampled-actions={config.search.sampled_actions}"
            )
    window = config.env.stack + config.target.unroll_steps + config.target.td_steps
    # Half of the slots may be final frames of one-step episodes, which cannot be drawn.
    needed = 2 * config.cycle.batch_size + window * config.env.num_envs
    if config.replay.capacity < needed:
        raise ValueError(
            f"replay.capacity={config.replay.capacity} is out of range: {config.env.num_envs} "
            f"environments and cycle.batch-size={config.cycle.batch_size} need at least {needed}"
        )
    if config.reanalyse.positions > config.replay.capacity:
        raise ValueError(
            f"reanalyse.positions={config.reanalyse.positions} is out of range: it must be at most "
            f"replay.capacity={config.replay.capacity}"
        )
    if config.env_steps < config.cycle.warmup_steps:
        raise ValueError(
            f"env-steps={config.env_steps} is out of range: the warm-up alone takes "
            f"cycle.warmup-steps={config.cycle.warmup_steps}"
        )
    ready = config.cycle.warmup_steps - (window + 1) * config.env.num_envs
    if ready < config.cycle.batch_size:
        raise ValueError(
            f"cycle.warmup-steps={config.cycle.warmup_steps} is out of range: it must be at least "
            f"{config.cycle.batch_size + (window + 1) * config.env.num_envs} for "
            f"cycle.batch-size={config.cycle.batch_size}"
        )


def to_dict(config) -> dict:
    """The config as plain nested dicts and lists, as `config.json` holds it."""
    return {
        k: list(v) if isinstance(v, tuple) else to_dict(v) if isinstance(v, dict) else v
        for k, v in (config if isinstance(config, dict) else dataclasses.asdict(config)).items()
    }


def applicable(config: Config, *, image: bool, atari: bool, vectors: bool) -> dict[str, Any]:
    """`to_dict` without what the task and the other settings leave unread.

    Args:
      config: of a run.
      image: observations are images.
      atari: the task is one of EnvPool's Atari games.
      vectors: actions are vectors.
    """
    values = to_dict(config)
    network, search, target = config.network, config.search, config.target
    mode, gumbel = config.reanalyse.mode, search.algorithm == "gumbel"
    by_count, taught = gumbel and search.by_action_count, mode in ("sampled", "teacher")
    heads_without_batch = network.norm == "layer" and not (image and network.trunk_norm == "batch")
    raw_input = network.norm == "batch" and network.residual == "post"
    unread = (
        ("env", atari, "pixels action_slots action_repeat"),
        ("env", not atari, "grayscale frame_skip noop_max episodic_life"),
        ("env", not atari and not config.env.pixels, "height width pixels"),
        ("network", not image, "patch motion pools head_channels action_planes trunk_norm"),
        ("network", image, "residual input_norm"),
        ("network", image and vectors, "action_planes"),
        ("network", raw_input, "input_norm"),
        ("network", heads_without_batch, "joint_norm"),
        ("network", not network.value_prefix, "lstm"),
        ("network", not network.projection, "predictor"),
        ("search", gumbel, "dirichlet_alpha dirichlet_fraction pb_c_init pb_c_base temperature"),
        ("search", not gumbel, "by_action_count max_considered_actions q_scale c_visit c_scale"),
        ("search", vectors or not gumbel, "uniform_fraction"),
        ("search", by_count, "num_simulations max_considered_actions"),
        ("search", gumbel and search.q_scale == "siblings", "min_value_range"),
        ("search", not vectors, "sampled_actions wide_actions wide_deviation inner_actions"),
        ("search", not vectors, "policy_target"),
        ("target", target.value != "mixed", "search_value_after fresh_steps"),
        ("target", target.value != "td", "off_policy_correction age_fraction"),
        ("target", target.value == "search", "bootstrap"),
        ("target", not target.off_policy_correction, "age_fraction"),
        ("target", not network.value_prefix, "prefix_horizon"),
        ("reanalyse", mode != "oldest", "positions"),
        ("reanalyse", not taught, "ratio"),
        ("loss", not image, "shift intensity"),
        ("loss", image, "amplitude"),
        ("loss", not config.loss.entropy, "entropy_target"),
        ("cycle", not taught, "target_interval target_step_size"),
        ("cycle", config.cycle.target_step_size > 0, "target_interval"),
        ("cycle", not config.cycle.idle_steps, "idle_repeat"),
        ("optimizer", config.optimizer.name == "adamw", "momentum"),
    )
    dropped = {(section, name) for section, so, names in unread if so for name in names.split()}
    for section, name in dropped:
        del values[section][name]
    return values


def from_dict(values: dict, kind: type = Config):
    """The inverse of `to_dict`.

    Raises:
      ValueError: names a field that is unknown.
    """
    hints = typing.get_type_hints(kind)
    unknown = set(values) - set(hints)
    if unknown:
        raise ValueError(f"unknown config field {sorted(unknown)[0]!r} in {kind.__name__}")
    made = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = from_dict(value, hints[name])
        made[name] = tuple(value) if isinstance(value, list) else value
    return kind(**made)


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """The fields in which two config dicts differ, as `name: old -> new`."""
    found = []
    for name in sorted(set(old) | set(new)):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name}: {a} -> {b}")
    return found
