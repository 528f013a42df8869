"""The preset `classic` for small tasks, and the budgets of known ones."""

from ez_jax.config import Config, replace
from ez_jax.presets.atari import CPU, SHORT, V2, VECTORS, Changes

# EfficientZero-V2 sized for small tasks and two CPU cores.
CLASSIC = replace(
    V2,
    **VECTORS,
    network__channels=64,
    network__lstm=64,
    network__support=30,
    network__projection=64,
    network__predictor=32,
    search__by_action_count=False,
    target__discount=0.997,
    reanalyse__mode="oldest",
    reanalyse__positions=64,
    optimizer__learning_rate=3e-3,
    optimizer__warmup_updates=200,
    cycle__batch_size=128,
    cycle__updates_per_act=2,
    cycle__warmup_steps=500,
    run__checkpoint_every=2000,
)

# Boards drawn as images, on the preset `cpu`: a teacher's targets, and batches that two cores feed.
# Targets that are current in every update let a policy settle before it is right: its entropy is
# held at a target that falls, with the weight of the policy loss itself.
DRAWN = replace(
    CPU,
    env_steps=9000,
    env__num_envs=16,
    env__clip_rewards=False,
    env__max_episode_steps=1000,
    env__eval_max_episode_steps=1000,
    network__patch=2,
    network__motion=0.0,
    network__head_channels=8,
    network__support=20,
    network__contraction=True,
    network__norm="batch",
    search__min_value_range=0.2,
    search__uniform_fraction=0.0,
    reanalyse__mode="teacher",
    reanalyse__ratio=1.0,
    reanalyse__positions=32,
    optimizer__schedule="drop",
    cycle__updates_per_act=8,
    cycle__warmup_steps=500,
    cycle__target_step_size=0.01,
    loss__shift=0,
    loss__entropy_target=(0.8, 0.1),
)

# Any other images, on the preset `cpu`: rewards of any size, whole episodes; not tried yet beyond a
# few updates.
IMAGES = replace(
    CPU,
    env__clip_rewards=False,
    env__episodic_life=False,
    env__max_episode_steps=0,
    env__eval_max_episode_steps=0,
    network__support=30,
    network__contraction=True,
)

# Budgets and time scales of known tasks.
TASKS: dict[str, Changes] = {
    # Episodes of nine steps: a short horizon keeps random play out of the targets.
    "jax/Catch": dict(
        env_steps=12_000,
        env__num_envs=16,
        search__num_simulations=8,
        target__value="td",
        target__td_steps=3,
        target__unroll_steps=3,
    ),
    "CartPole-v1": dict(env_steps=10_000),
    # With single random actions one episode in 64 reaches the height that is the goal, with
    # repeated ones 24.
    "Acrobot-v1": dict(env_steps=30_000, cycle__warmup_steps=4000, cycle__warmup_repeat=0.75),
    # A landing pays after hundreds of steps: a far horizon, and more updates to a step; with 0.99
    # it learns to hover. Values of the search alone drift upwards here.
    "LunarLander-v3": dict(
        env_steps=100_000,
        env__num_envs=8,
        env__max_episode_steps=500,
        network__channels=128,
        target__value="td",
        target__td_steps=10,
        optimizer__learning_rate=1e-3,
        optimizer__schedule="cosine",
        cycle__updates_per_act=4,
    ),
    # Vectors: a teacher's targets and twice the simulations for sixteen candidates. Weights times
    # the ratio of densities, since one entry alone gives the best candidate no width.
    "Pendulum-v1": dict(
        env_steps=20_000,
        search__num_simulations=32,
        search__max_considered_actions=16,
        search__policy_target="corrected",
        target__discount=0.99,
        target__value="td",
        reanalyse__mode="teacher",
        reanalyse__ratio=0.5,
        loss__entropy=0.05,
        optimizer__learning_rate=1e-3,
        cycle__target_step_size=0.01,
    ),
    "drawn/pgx/minatar-breakout": dict(env_steps=14_000),
    "pgx/minatar-breakout": dict(
        env_steps=50_000,
        env__num_envs=16,
        env__max_episode_steps=1000,
        env__eval_max_episode_steps=1000,
        target__discount=0.99,
        network__channels=128,
    ),
}


def classic(
    task: str, *, debug: bool = False, env_steps: int | None = None, image: bool = False
) -> Config:
    """The preset `classic` for a task; those of images, drawn boards too, build on `cpu`.

    Args:
      task: its id.
      debug: a whole run of 600 steps, which learns nothing.
      env_steps: a budget instead of the task's own; what is a share of the budget follows (`debug`
        has its own).
      image: observations are images; those of `drawn/` tasks always are.
    """
    drawn = task.startswith("drawn/")
    if drawn or image:
        config = replace(DRAWN if drawn else IMAGES, env__id=task, **TASKS.get(task, {}))
        budget = env_steps or config.env_steps
        capacity = max(20_000, int(1.2 * budget))
        config = replace(config, env_steps=budget, replay__capacity=capacity)
        return replace(config, **SHORT, network__channels=8) if debug else config
    config = replace(CLASSIC, env__id=task, **TASKS.get(task, {}))
    config = replace(config, env_steps=env_steps or config.env_steps)
    # The horizons of the mixed target are shares of the budget, as in the released Atari settings.
    config = replace(
        config,
        target__search_value_after=int(0.3 * config.online_updates),
        target__fresh_steps=int(0.05 * config.env_steps),
        replay__capacity=int(1.2 * config.env_steps) + 2000,
    )
    if not debug:
        return config
    sizes: Changes = dict(network__channels=16, network__projection=16)
    horizons: Changes = dict(target__search_value_after=20, target__fresh_steps=100)
    return replace(config, **SHORT, **sizes, **horizons)
