"""The pytrees that flow between the stages.

In the shape descriptions `N` is the number of environments, `T` the slots of a lane of replay, `B`
the batch, `K` the unroll steps, `L = K + td_steps + 1` the slots of a sampled window, `A` the
number of actions, `P` the entries of a policy target (`actions`; `A` for indices), `E` those of a
projection, `S` the stacked frames and `...` the shape of one frame: `(H, W, C)` uint8 or `(D,)`.
Several seeds in one program put one more axis in front of everything.
"""

from typing import Any, NamedTuple

import flax.struct
import jax

from ez_jax.actions import Actions, Continuous, Discrete

Array = jax.Array
PRNGKey = jax.Array


class EnvSpec(NamedTuple):
    """Shapes of an environment, for networks and replay."""

    num_actions: int  # 0 where actions are vectors
    frame_shape: tuple[int, ...]  # one frame
    frame_dtype: Any
    stack: int  # frames in one observation
    masked: bool = False  # not every action is always legal
    action_size: int = 0  # entries of an action that is a vector in [-1, 1], 0: an index

    @property
    def image(self) -> bool:
        """Whether frames are images."""
        return len(self.frame_shape) == 3

    @property
    def actions(self) -> Actions:
        """The kind of actions."""
        return Continuous(self.action_size) if self.action_size else Discrete(self.num_actions)


class TimeStep(NamedTuple):
    """The answer of N environments to one step.

    A step after `last` ignores its action and returns a `first` frame.
    """

    frame: Array  # [N, ...] the newest single frame
    reward: Array  # [N] f32, for training
    discount: Array  # [N] f32, 0 after a terminal step, 1 otherwise (a time-out included)
    last: Array  # [N] bool, the (training) episode ended with this frame
    first: Array  # [N] bool, a (training) episode starts with this frame
    score: Array  # [N] f32, raw reward of the game
    game_over: Array  # [N] bool, the whole game ended with this frame, lives and time included
    legal: Any = None  # [N, A] bool, actions that are legal now, None where all always are


class SearchOutput(NamedTuple):
    """The decision for N roots, and what replay keeps of it."""

    action: Array  # [N] i32, or [N, D] f32 in [-1, 1]
    policy: Array  # [N, P] f32, the policy target
    search_value: Array  # [N] f32, mean of the network value and all returns backed up to the root
    network_value: Array  # [N] f32, the value head's output at the root


class Replay(flax.struct.PyTreeNode):
    """N lanes in lock-step, each a ring of T slots; a slot is one frame and the step taken from it.

    The last frame of an episode has a slot too, flagged `last`: no step was taken from it, it is
    never drawn, and its `discount` repeats that of the step that led to it (0: terminal, 1:
    time-out).
    """

    # In a checkpoint of host environments None: the action log brings the frames back.
    frame: Array  # [N, T, D], or an image's bytes in rows, [N, T, R, 128]
    action: Array  # [N, T] i32, or [N, T, D] f32
    reward: Array  # [N, T] f32
    discount: Array  # [N, T] f32
    last: Array  # [N, T] bool
    offset: Array  # [N, T] i32, steps since the first frame of the episode
    born: Array  # [N, T] i32, environment steps taken before this slot was written
    policy: Array  # [N, T, P] f32
    search_value: Array  # [N, T] f32
    network_value: Array  # [N, T] f32
    refreshed: Array  # [N, T] i32, update at which policy and values were last computed
    priority: Array  # [N, T] f32, 0 where nothing may be drawn
    legal: Any  # [N, T, A] bool, None where all actions are always legal
    cursor: Array  # [] i32, slots ever written in each lane
    frame_shape: tuple[int, ...] = flax.struct.field(pytree_node=False)


class Positions(flax.struct.PyTreeNode):
    """Places in replay; `lane` counts from the first lane of the device that holds it."""

    lane: Array  # [B] i32
    time: Array  # [B] i32, absolute slot number


class Drawn(NamedTuple):
    """The positions of the next batch."""

    positions: Positions
    probability: Array  # [B] of each in a single draw, over all devices


class Batch(flax.struct.PyTreeNode):
    """B windows of replay that start at sampled positions."""

    # With a teacher up to slot L - 1.
    frames: Array  # [B, S + K, ...], from S - 1 slots before the position to K after it
    action: Array  # [B, L] i32, or [B, L, D] f32
    reward: Array  # [B, L] f32
    discount: Array  # [B, L] f32
    last: Array  # [B, L] bool
    policy: Array  # [B, L, P] f32
    search_value: Array  # [B, L] f32
    network_value: Array  # [B, L] f32
    age: Array  # [B] i32, environment steps since the position was written
    staleness: Array  # [B] i32, updates since the position was refreshed
    weight: Array  # [B] f32, importance weight
    legal: Any = None  # [B, L, A] bool, None where all actions are always legal
    taught: Any = None  # `Taught`, of steps 1..K, None without a teacher


class Taught(flax.struct.PyTreeNode):
    """What a teacher makes of the frames of a batch."""

    state: Array  # [B, K, ...] latent state of slots 1..K
    projection: Array  # [B, K, E], of the same
    # [B] f32, what the policies of a sample count: 0 where the teacher did not search. None: 1.
    policy_weight: Any = None


class Targets(flax.struct.PyTreeNode):
    """Targets of the unrolled model; index k is k steps after the position."""

    value: Array  # [B, K + 1] f32
    value_prefix: Array  # [B, K] f32, of steps 1..K
    policy: Array  # [B, K + 1, P] f32
    # Value and value prefix are known in the episode, and after its end if it is absorbing.
    value_mask: Array  # [B, K + 1] f32, 1 where they are
    # Where a step was taken in the episode of the position: 1, or what its policy counts.
    policy_mask: Array  # [B, K + 1] f32
    state_mask: Array  # [B, K + 1] f32, 1 where slot k belongs to the episode of the position
    # [] f32, least mean entropy of the policy as a share of the uniform one's, None without one
    entropy: Any = None


class Unroll(flax.struct.PyTreeNode):
    """The model's predictions along the actions that were taken."""

    value_logits: Array  # [B, K + 1, 2 * support + 1]
    policy_logits: Array  # [B, K + 1, A], or [B, K + 1, 2 D] of vectors
    prefix_logits: Array  # [B, K, 2 * support + 1], of steps 1..K
    # The projections are None where no loss term reads them.
    projection: Array  # [B, K, E], of the predicted states
    target_projection: Array  # [B, K, E], of the encoded frames, no gradient
    actions: Actions = flax.struct.field(pytree_node=False)


class Learner(flax.struct.PyTreeNode):
    """Network, target network and optimiser."""

    variables: Any  # {'params', 'batch_stats'} of the network
    # A copy of `variables`, up to `cycle.target_interval` updates old, or the moving average of
    # `cycle.target_step_size`.
    target_variables: Any
    opt_state: Any
    updates: Array  # [] i32


class Actor(flax.struct.PyTreeNode):
    """Where the environments stand, and the statistics of their games."""

    env: Any  # [N, ...] state of environments that are pure functions, None for those on the host
    # In a checkpoint of host environments None.
    stack: Array  # [N, ..., S * C] the current observation
    legal: Any  # [N, A] bool, of the current frame, None where all actions are always legal
    last: Array  # [N] bool, of the current frame
    discount: Array  # [N] f32, of the step that led to the current frame
    offset: Array  # [N] i32, steps since the first frame of the episode
    score: Array  # [N] f32, raw return of the running game
    recent_scores: Array  # [R] f32, ring of the last finished games
    games: Array  # [] i32, games ever finished
    env_steps: Array  # [] i32, steps ever taken
    acts: Array  # [] i32, lock-steps ever taken, those that ignore an action included
    action_log: Array  # [M, N] i16 or [M, N, D] f32, every action ever sent


class State(flax.struct.PyTreeNode):
    """All of a run's state, except environments that step on the host."""

    learner: Learner
    actor: Actor
    replay: Replay
    key: PRNGKey
