"""Presets for states of DeepMind Control, by task."""

from ez_jax.config import Config, replace
from ez_jax.presets.atari import SHORT, V2, VECTORS, Changes

# EfficientZero-V2 on states of DeepMind Control (its paper, table 2 and appendix, and the released
# settings; ez_jax/README.md lists what differs): rewards alone instead of a value prefix, one
# update a decision, two steps each.
DMC = replace(
    V2,
    **VECTORS,
    env__id="WalkerWalk-v1",
    env__action_repeat=2,
    network__channels=256,
    network__blocks=2,
    network__residual="pre",
    network__input_norm="running",
    network__value_prefix=False,
    network__action_embedding=64,
    network__support=20,
    network__prefix_scale=27.0,  # rewards up to 2 a decision lie on the atoms
    network__projection=512,
    network__predictor=128,
    search__num_simulations=32,
    search__by_action_count=False,
    search__max_considered_actions=16,
    target__discount=0.997**2,
    loss__consistency=2.0,
    loss__entropy=5e-2,
    optimizer__learning_rate=3e-4,
)

# The same sized for two CPU cores: a teacher's targets, few candidates, an update for two
# decisions. The best of few candidates teaches the policy more than their weights, and would leave
# it no width, which the target of the entropy keeps. Blocks as for images: EfficientZero-V2's own
# were tried in one task, without a gain. Atoms of rewards lie closer, as there; of five seeds that
# were compared one gains clearly (experiments/results/dmc_cpu).
DMC_CPU = replace(
    DMC,
    network__channels=128,
    network__blocks=1,
    network__residual="post",
    network__action_embedding=16,
    network__support=30,
    network__prefix_scale=10.0,
    network__projection=128,
    network__predictor=32,
    search__num_simulations=16,
    search__max_considered_actions=8,
    search__sampled_actions=8,
    search__wide_actions=4,
    target__discount=0.99,
    target__td_steps=10,
    target__value="td",
    reanalyse__mode="teacher",
    reanalyse__ratio=0.25,
    loss__consistency=5.0,
    loss__entropy=1.0,
    loss__entropy_target=(0.5, 0.0),
    optimizer__learning_rate=1e-3,
    optimizer__warmup_updates=200,
    cycle__batch_size=128,
    cycle__updates_per_act=2,
    cycle__warmup_steps=1000,
    cycle__warmup_repeat=0.8,
    cycle__target_step_size=0.02,
    run__checkpoint_every=2000,
)

# Frames in place of states: the network for images, and EfficientZero-V2's settings for them (its
# released ones).
PIXELS: Changes = dict(
    env__stack=4,
    network__channels=64,
    network__pools=2,
    network__blocks=1,
    network__action_embedding=16,
    network__projection=1024,
    network__predictor=256,
    network__norm="batch",
    target__discount=0.99,
    loss__entropy=5e-3,
    loss__shift=4,
    optimizer__name="sgd",
    optimizer__learning_rate=0.2,
    cycle__final_updates=20_000,
)
# The same for two cores, on the other settings of `dmc-cpu`, for any images; not tried yet beyond a
# few updates.
IMAGES_CPU: Changes = dict(
    env__stack=4,
    env__height=64,
    env__width=64,
    network__channels=32,
    network__patch=2,
    network__pools=1,
    network__projection=128,
    network__predictor=32,
    cycle__batch_size=32,
    loss__shift=3,
)

DMC_EASY = (
    "CartpoleBalance-v1",
    "CartpoleBalanceSparse-v1",
    "CartpoleSwingup-v1",
    "BallInCupCatch-v1",
    "FingerSpin-v1",
    "PendulumSwingup-v1",
    "ReacherEasy-v1",
    "ReacherHard-v1",
    "WalkerStand-v1",
    "WalkerWalk-v1",
)
"""Tasks with a budget of 50,000 decisions in EfficientZero-V2, table 2; the others have 100,000."""


def dmc(
    task: str, preset: str = "dmc-cpu", env_steps: int | None = None, *, pixels: bool = False
) -> Config:
    """A preset for a task of DeepMind Control.

    Args:
      task: its id in EnvPool.
      preset: `dmc`, `dmc-cpu`, or `debug`: a whole run of 600 decisions, which learns nothing.
      env_steps: a budget in decisions instead of the task's own, twice as large from frames.
      pixels: frames in place of states.
    """
    config, images = (DMC, PIXELS) if preset == "dmc" else (DMC_CPU, IMAGES_CPU)
    config = replace(config, **images, env__pixels=True) if pixels else config
    budget = env_steps or (50_000 if task in DMC_EASY else 100_000) * (1 + pixels)
    return _for_budget(replace(config, env__id=task), budget, debug=preset == "debug")


def continuous(
    task: str, *, debug: bool = False, env_steps: int | None = None, image: bool = False
) -> Config:
    """The preset `dmc-cpu` for any task whose actions are vectors, each of a single step.

    Rewards may have any size here, so that their atoms lie as far as those of values.

    Args:
      task: its id.
      debug: a whole run of 600 steps, which learns nothing.
      env_steps: a budget instead of 100,000 steps.
      image: observations are images.
    """
    config = replace(DMC_CPU, env__id=task, env__action_repeat=1, network__prefix_scale=1.0)
    config = replace(config, **IMAGES_CPU) if image else config
    return _for_budget(config, env_steps or 100_000, debug=debug)


def _for_budget(config: Config, budget: int, *, debug: bool) -> Config:
    config = replace(
        config,
        env_steps=budget,
        target__search_value_after=min(int(0.4 * budget), 40_000),
        target__fresh_steps=min(int(0.2 * budget), 20_000),
        replay__capacity=int(1.2 * budget) + 2000,
    )
    if not debug:
        return config
    sizes: Changes = dict(network__channels=16, network__projection=16)
    return replace(config, **SHORT, **sizes)
