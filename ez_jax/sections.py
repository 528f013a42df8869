"""The sections of a config: each setting with its range and its default.

The defaults are the paper's (EfficientZero, Ye et al. 2021, arXiv 2111.00210; released settings).
"""

from dataclasses import dataclass, field
from typing import Any, Literal


def bounded(default: Any, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field whose value must lie in `[low, high]`; `validate` checks it."""
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class EnvConfig:
    id: str = "Pong-v5"
    """EnvPool task id."""
    num_envs: int = bounded(4, 1)
    """Environments stepped together, one search batch."""
    height: int = bounded(96, 16)
    """Frame height in pixels."""
    width: int = bounded(96, 16)
    """Frame width in pixels."""
    pixels: bool = False
    """DeepMind Control: RGB frames in place of the state (drawn with EGL)."""
    grayscale: bool = False
    """One luminance channel instead of RGB."""
    frame_skip: int = bounded(4, 1)
    """Emulator frames per agent step; the last two are max-pooled."""
    stack: int = bounded(4, 1)
    """Frames in one observation."""
    action_slots: int = bounded(0, 0)
    """Continuous actions: each entry takes one of so many values, and an index stands for each
    combination (EfficientZero on DeepMind Control); 0: vectors, sampled in the search (V2)."""
    action_repeat: int = bounded(1, 1)
    """Steps of the environment with one action, their rewards summed (Atari: frame-skip)."""
    noop_max: int = bounded(30, 1)
    """At most so many no-ops at the start of a game."""
    episodic_life: bool = True
    """A lost life ends the training episode."""
    clip_rewards: bool = True
    """Train on sign(reward); scores are always raw."""
    max_episode_steps: int = bounded(3000, 0)
    """Training time limit in agent steps; a time-out bootstraps. 0: the task's own."""
    eval_max_episode_steps: int = bounded(27_000, 0)
    """Evaluation time limit in agent steps (108,000 frames of Atari). 0: the task's own."""


@dataclass(frozen=True)
class NetworkConfig:
    channels: int = bounded(64, 4)
    """Channels of the latent state (the first layer has half), or units of layers for vectors."""
    patch: int = bounded(1, 1, 4)
    """Squares of so many pixels a side enter the first convolution as channels of one place."""
    motion: float = bounded(0.0, 0.0)
    """Images: the newest frame enters less its mean, earlier ones as differences of consecutive
    frames times this: small things that move are not lost in the rest; 0: as they are (paper)."""
    pools: int = bounded(2, 0, 3)
    """Average poolings (3x3, stride 2) after the two stride-2 convolutions: 96 px -> 6x6 with 2."""
    blocks: int = bounded(1, 1)
    """Residual blocks at the latent resolution, in representation, dynamics and prediction."""
    head_channels: int = bounded(16, 1)
    """Channels of the 1x1 convolution in front of each head."""
    head_hidden: int = bounded(32, 1)
    """Hidden units of each head."""
    lstm: int = bounded(512, 1)
    """Units of the value-prefix LSTM."""
    value_prefix: bool = True
    """Predict the summed reward by LSTM; off: single rewards (the paper's ablation)."""
    reward_action: bool = False
    """The reward head reads the action too (TD-MPC2), so that its cost need not be in the state."""
    action_embedding: int = bounded(0, 0)
    """Learned features of an action for the dynamics (EfficientZero-V2: 16); 0: its planes."""
    action_planes: Literal["index", "one_hot"] = "index"
    """Images: an action is one plane a/|A| (paper), or each has a plane of its own."""
    support: int = bounded(300, 1)
    """Value and value prefix live on the atoms -support..support of the transformed scalar."""
    prefix_scale: float = bounded(1.0, 0.001)
    """Atoms of the value prefix lie so many times closer (EfficientZero-V2 on states: 34): rewards
    much smaller than an atom weigh next to nothing in the loss."""
    contraction: bool = True
    """The transform is h (Pohlen et al. 2018; MuZero); off: none, and noise has no bias."""
    projection: int = bounded(1024, 0)
    """Width of the SimSiam projector; 0: the loss compares the states themselves (TD-MPC2)."""
    predictor: int = bounded(512, 1)
    """Hidden width of the SimSiam predictor."""
    norm: Literal["batch", "layer"] = "batch"
    """Normalisation in dense layers and all heads: BatchNorm (paper), or LayerNorm (V2 on vectors),
    which does not care whose states a batch holds. Projections have BatchNorm always."""
    residual: Literal["post", "pre"] = "post"
    """Residual blocks of vectors: a norm after each dense layer and ReLU of the sum (as for
    images), or LayerNorm before them (EfficientZero-V2): what one action changes is not lost."""
    input_norm: Literal["batch", "running"] = "batch"
    """Entries of vectors are standardised by the batch in training, or always by running averages
    (EfficientZero-V2): a batch's own mean hides what is small beside an entry's range."""
    trunk_norm: Literal["batch", "layer"] = "batch"
    """Normalisation of convolutions, over each image by itself with `layer`, but projections."""
    joint_norm: bool = False
    """BatchNorm of the heads takes all states of an update as one batch, predicted and encoded, the
    mixture whose running averages a search has; off: each step of the unroll by itself (paper)."""
    norm_groups: int = bounded(1, 1)
    """BatchNorm by groups of the batch, each with moments of its own (ghost batch normalisation); a
    multiple of the number of devices leaves no sum over devices within the network."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the trunk; heads and statistics are float32 always."""


@dataclass(frozen=True)
class SearchConfig:
    algorithm: Literal["muzero", "gumbel"] = "muzero"
    """PUCT search on visit counts, or Gumbel search with sequential halving."""
    num_simulations: int = bounded(50, 1)
    """Simulations a search (not with `by_action_count`)."""
    by_action_count: bool = False
    """EfficientZero-V2's budget in place of `num_simulations` and `max_considered_actions`: 4 over
    2 below 4 actions, 16 over 4 below 16, else 16 over 8 (gumbel)."""
    dirichlet_alpha: float = bounded(0.3, 1e-6)
    """Root noise concentration (muzero)."""
    dirichlet_fraction: float = bounded(0.25, 0.0, 1.0)
    """Root noise share (muzero)."""
    pb_c_init: float = bounded(1.25, 0.0)
    """c1 of the PUCT rule."""
    pb_c_base: float = bounded(19_652.0, 1.0)
    """c2 of the PUCT rule."""
    min_value_range: float = bounded(0.01, 1e-8)
    """Floor of the tree-wide range that Q-values are normalised by."""
    max_considered_actions: int = bounded(4, 2)
    """Root actions that sequential halving starts from (gumbel; not with `by_action_count`)."""
    q_scale: Literal["tree", "siblings"] = "tree"
    """Completed Q-values are normalised by the floored range of the whole tree (EfficientZero-V2),
    or by that of their siblings (mctx) (gumbel)."""
    c_visit: float = bounded(50.0, 0.0)
    """Constant of sigma(q) = (c_visit + max visits) c_scale q (gumbel)."""
    c_scale: float = bounded(0.1, 0.0)
    """Scale of sigma(q) (gumbel)."""
    uniform_fraction: float = bounded(0.0, 0.0, 1.0)
    """Share of the uniform policy in the root's prior, in noiseless games none (gumbel): the mean
    of AlphaZero's Dirichlet noise. No action gets lost, nor the model's data about it."""
    sampled_actions: int = bounded(16, 2)
    """Continuous actions: candidates at the root; no more than are considered and simulated."""
    wide_actions: int = bounded(12, 0)
    """Continuous actions: so many of these, or the same share of fewer, have a larger deviation."""
    wide_deviation: float = bounded(3.0, 1.0)
    """Continuous actions: how many times larger, in noiseless games too."""
    inner_actions: int = bounded(2, 1)
    """Continuous actions: candidates below the root."""
    policy_target: Literal["best", "weights", "corrected"] = "best"
    """Continuous actions: the policy learns the action that the search prefers (EfficientZero-V2
    with several entries), or all candidates by their weights (with one entry), or these times the
    ratio of the policy's density to that of the draws, without which wide draws inflate it."""
    temperature: tuple[float, float, float] = (1.0, 0.5, 0.25)
    """Exponent 1/T of visit counts, acting: before 50 %, before 75 %, after, of online updates."""
    embedding_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the latent states in the tree."""


@dataclass(frozen=True)
class ReplayConfig:
    capacity: int = bounded(108_000, 64)
    """Frames kept over all environments (transitions plus one final frame an episode)."""
    priority_exponent: float = bounded(0.6, 0.0)
    """alpha: P(i) ~ priority_i^alpha."""
    importance_exponent: float = bounded(0.4, 0.0, 1.0)
    """beta at the first update; rises linearly to 1 at the last."""
    min_importance_weight: float = bounded(0.0, 0.0, 1.0)
    """Importance weights, divided by the largest, are raised to this (EfficientZero-V2: 0.1)."""
    initial_priority: Literal["max", "model_error"] = "max"
    """New transitions enter with the largest priority in replay, or with the Bellman error of the
    network that acted (EfficientZero-V2's paper)."""


@dataclass(frozen=True)
class TargetConfig:
    unroll_steps: int = bounded(5, 1)
    """Steps that the model is unrolled in the loss."""
    td_steps: int = bounded(5, 1)
    """Longest horizon of the value target."""
    discount: float = bounded(0.997**4, 0.0, 1.0)
    """Discount per agent step."""
    off_policy_correction: bool = True
    """Shorten the horizon of old data (paper, section 4.3)."""
    age_fraction: float = bounded(0.3, 1e-6)
    """The horizon loses one step for each so large part of `env_steps` that a transition is old."""
    prefix_horizon: int = bounded(5, 1)
    """The value prefix starts anew after so many model steps. Beyond `unroll_steps` the LSTM sums
    further in a search than it ever did in training."""
    bootstrap: Literal["network", "search"] = "network"
    """Bootstrap from the value head (authors' code) or the search's value (paper; no teacher)."""
    value: Literal["td", "search", "mixed"] = "td"
    """The value target: n steps and a bootstrap; the value of the search (SVE); or
    EfficientZero-V2's mix of the two."""
    search_value_after: int = bounded(40_000, 0)
    """T1 of the mixed target: n-step before so many updates."""
    fresh_steps: int = bounded(20_000, 0)
    """T2 of the mixed target: n-step for transitions younger than so many environment steps."""
    absorbing: bool = False
    """Unroll past terminal states to value and reward 0 (MuZero); off: masked (EfficientZero)."""


@dataclass(frozen=True)
class ReanalyseConfig:
    mode: Literal["sampled", "oldest", "teacher", "off"] = "sampled"
    """Search again: the sampled batch with the target network (paper), the least recently refreshed
    positions with the current parameters, or nothing: policies and values stay those of acting.
    `teacher`: the target network encodes the windows of the batch once, for the search, the
    bootstrap values and the consistency loss."""
    positions: int = bounded(256, 1)
    """Positions per update (`oldest`)."""
    ratio: float = bounded(0.99, 0.0, 1.0)
    """Share of the batch that is searched anew (`sampled`, `teacher`), for policies and the values
    of searches; values of the head are all new. 0: policies and those stay as acting had them."""


@dataclass(frozen=True)
class LossConfig:
    policy: float = bounded(1.0, 0.0)
    """Weight of the policy cross-entropy."""
    value: float = bounded(0.25, 0.0)
    """Weight of the value cross-entropy."""
    value_prefix: float = bounded(1.0, 0.0)
    """Weight of the value-prefix cross-entropy."""
    consistency: float = bounded(2.0, 0.0)
    """Weight of the SimSiam consistency loss; 0 leaves its computation out."""
    entropy: float = bounded(0.0, 0.0)
    """Weight of the policy's negative entropy (EfficientZero-V2: 0.005)."""
    entropy_target: tuple[float, float] = (0.0, 0.0)
    """Least mean entropy of the policy, as shares of the uniform one's (log |A|, or D log 2) at the
    first and the last update: the entropy loss acts below it alone, in full a tenth of that below.
    Entropies of vectors may be negative: a deviation of 0.1 has -1.3. (0, 0): acts always."""
    half_gradient: bool = True
    """Halve the gradient that enters each unrolled state."""
    shift: int = bounded(4, 0)
    """Random-shift augmentation: pixels of padding."""
    intensity: float = bounded(0.05, 0.0)
    """Random-intensity augmentation: scale."""
    amplitude: float = bounded(0.0, 0.0)
    """Vectors: random-amplitude augmentation (RAD), the same in scale."""


@dataclass(frozen=True)
class OptimizerConfig:
    name: Literal["sgd", "adamw"] = "sgd"
    """Optimiser."""
    learning_rate: float = bounded(0.2, 0.0)
    """Peak learning rate."""
    momentum: float = bounded(0.9, 0.0, 1.0)
    """Momentum (sgd)."""
    weight_decay: float = bounded(1e-4, 0.0)
    """L2 (sgd) or decoupled decay (adamw)."""
    decayed: Literal["all", "matrices"] = "all"
    """What decays: all parameters (paper), or not the biases and scales (BBF)."""
    clip_norm: float = bounded(5.0, 1e-6)
    """Global gradient norm."""
    warmup_updates: int = bounded(1000, 0)
    """Linear warm-up."""
    schedule: Literal["drop", "cosine"] = "drop"
    """After the warm-up: one drop once the online updates are done (paper), or a cosine down to
    that rate at the last one."""
    drop_factor: float = bounded(0.1, 0.0, 1.0)
    """The last rate as a share of the peak."""


@dataclass(frozen=True)
class CycleConfig:
    batch_size: int = bounded(256, 1)
    """Positions an update."""
    updates_per_act: int = bounded(4, 0)
    """Updates after a lock-step of all environments: their number makes one update a step."""
    final_updates: int = bounded(20_000, 0)
    """Updates after the last environment step."""
    warmup_steps: int = bounded(2000, 1)
    """Random-policy steps before the first update."""
    warmup_repeat: float = bounded(0.0, 0.0, 1.0)
    """Probability that a random step repeats the action before: reaches far where single random
    actions cancel out."""
    idle_steps: int = bounded(0, 0)
    """Steps without a reward after which searched actions give way to repeated ones; 0: never."""
    idle_repeat: float = bounded(0.95, 0.0, 1.0)
    """Probability of that at each step (temporally extended exploration, Dabney et al. 2021)."""
    target_interval: int = bounded(200, 1)
    """Updates between two copies into the target network."""
    target_step_size: float = bounded(0.0, 0.0, 1.0)
    """Instead of copies: the target network moves by this share towards the network after each
    update (BYOL, SPR); 0: copies."""


@dataclass(frozen=True)
class RunConfig:
    log_every: int = bounded(100, 1)
    """Updates between two lines of metrics."""
    checkpoint_every: int = bounded(2000, 1)
    """Updates between two checkpoints."""
    eval_episodes: int = bounded(32, 1)
    """Evaluation episodes at the end, each with its own seed."""
    eval_simulations: int = bounded(0, 0)
    """Simulations in evaluation; 0: as in training."""
    stuck_after: float = bounded(3600.0, 0.0)
    """Seconds without the end of a cycle, compilation included, after which a run is taken for
    stuck and ends with status 75; 0: never."""
