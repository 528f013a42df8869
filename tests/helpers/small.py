"""Settings that hand-computed numbers rest on, whatever the presets are."""

from ez_jax.config import replace
from ez_jax.presets import DEBUG

SMALL = replace(
    DEBUG,
    env__height=48,
    env__width=48,
    network__patch=2,
    network__motion=0.0,
    network__head_channels=8,
    network__support=20,
    network__action_planes="index",
    network__contraction=True,
    network__norm="batch",
    search__max_considered_actions=8,
    search__min_value_range=0.5,
    search__uniform_fraction=0.0,
    cycle__idle_steps=0,
    optimizer__learning_rate=1e-3,
    optimizer__schedule="drop",
    loss__shift=2,
    loss__entropy=0.1,
    loss__entropy_target=(0.0, 0.0),
)
