"""Presets for Atari 100k: the paper's, its successor's, and one for two CPU cores."""

from typing import Any

from ez_jax.config import Config, replace

Changes = dict[str, Any]
"""Arguments of `config.replace`."""

PAPER = Config()

# EfficientZero-V2 for discrete actions (Wang et al. 2024, arXiv 2403.00564, and its released Atari
# settings). T1 and T2 are the released ones; the initial priorities are the paper's.
V2 = replace(
    PAPER,
    network__action_embedding=16,
    network__predictor=256,
    search__algorithm="gumbel",
    search__num_simulations=16,
    search__by_action_count=True,
    replay__priority_exponent=1.0,
    replay__importance_exponent=1.0,
    replay__min_importance_weight=0.1,
    replay__initial_priority="model_error",
    target__value="mixed",
    target__search_value_after=30_000,
    target__fresh_steps=5000,
    reanalyse__ratio=1.0,
    loss__consistency=5.0,
    loss__entropy=5e-3,
)

# Sized for two CPU cores: 100k steps of Pong in about three hours. Few updates see small things
# soon where changes from frame to frame are amplified. 8 simulations leave few
# visits to an action, hence Gumbel search over four of them; a floor under the range of Q and one
# under the entropy keep small errors of Q from becoming favourites, one under the root's prior
# keeps every action in the data. Without h a value's noise has no bias; such values may be as large
# as 1 / (1 - discount), and LayerNorm in the heads does not care whose states a batch holds. Where
# no reward comes, single random actions lead nowhere: environments repeat theirs.
CPU = replace(
    PAPER,
    env__num_envs=8,
    env__height=80,
    env__width=80,
    env__grayscale=True,
    network__channels=32,
    network__patch=4,
    network__motion=12.0,
    network__pools=0,
    network__head_channels=16,
    network__lstm=128,
    network__action_planes="one_hot",
    network__support=84,
    network__contraction=False,
    network__projection=256,
    network__predictor=128,
    network__norm="layer",
    network__joint_norm=True,
    search__algorithm="gumbel",
    search__num_simulations=8,
    search__max_considered_actions=4,
    search__min_value_range=0.1,
    search__uniform_fraction=0.1,
    target__td_steps=10,
    reanalyse__mode="oldest",
    reanalyse__positions=16,
    optimizer__name="adamw",
    optimizer__learning_rate=5e-4,
    optimizer__warmup_updates=200,
    optimizer__schedule="cosine",
    cycle__batch_size=32,
    cycle__updates_per_act=7,
    cycle__final_updates=0,
    cycle__idle_steps=1000,
    loss__shift=4,
    loss__entropy=1.0,
    loss__entropy_target=(0.6, 0.1),
    run__checkpoint_every=1000,
)

# What tasks differ in that are not Atari and whose observations are vectors: rewards as they are,
# whole episodes, single frames, dense layers with LayerNorm; states after a terminal one are worth
# nothing, as in MuZero.
VECTORS: Changes = dict(
    env__stack=1,
    env__clip_rewards=False,
    env__episodic_life=False,
    env__max_episode_steps=0,
    env__eval_max_episode_steps=0,
    network__pools=0,
    network__norm="layer",
    target__absorbing=True,
    loss__shift=0,
    optimizer__name="adamw",
    cycle__final_updates=0,
)

# The whole path in about a minute, to see that everything works; it learns nothing. Sizes of the
# network are added, since they differ by the kind of observation.
SHORT: Changes = dict(
    env_steps=600,
    env__num_envs=4,
    env__eval_max_episode_steps=200,
    network__lstm=16,
    network__predictor=16,
    search__num_simulations=4,
    replay__capacity=1200,
    reanalyse__positions=16,
    optimizer__warmup_updates=10,
    cycle__batch_size=16,
    cycle__warmup_steps=200,
    cycle__updates_per_act=1,
    cycle__final_updates=10,
    run__log_every=10,
    run__checkpoint_every=50,
    run__eval_episodes=4,
)
DEBUG = replace(CPU, **SHORT, network__channels=8, network__projection=32, target__td_steps=5)
