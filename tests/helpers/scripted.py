"""Scripted environments, and the replay that is played from them: what the tests of replay and of
its priorities share.

Each frame says where it comes from: lane, slot, episode and step of the episode are its four
pixels.
"""

import functools

import jax
import numpy as np

from ez_jax import config as config_lib
from ez_jax.agent import acting, priorities
from ez_jax.agent import replay as replay_lib
from ez_jax.types import EnvSpec, SearchOutput, TimeStep
from helpers.small import SMALL

STACK, UNROLL, TD, SLOTS, ACTIONS = 3, 2, 2, 16, 3
SPEC = EnvSpec(ACTIONS, (2, 2, 1), np.uint8, STACK)

# Frames of each episode, the final one included, and whether it ends terminally or by time-out.
LANES = [
    [
        (4, "terminal"),
        (6, "timeout"),
        (2, "terminal"),
        (11, "terminal"),
        (5, "timeout"),
        (40, "terminal"),
    ],
    [(9, "timeout"), (3, "terminal"), (8, "timeout"), (4, "terminal"), (40, "timeout")],
]


def make_config(num_envs=2, **changes):
    return config_lib.replace(
        SMALL,
        env_steps=1000,
        env__num_envs=num_envs,
        env__stack=STACK,
        replay__capacity=num_envs * SLOTS,
        target__unroll_steps=UNROLL,
        target__td_steps=TD,
        **changes,
    )


class Script:
    """What each slot of a lane holds, laid out in advance: the truth that replay is compared
    with.
    """

    def __init__(self, lanes, length=60):
        self.num_lanes, self.length = len(lanes), length
        shape = (self.num_lanes, length)
        self.frame = np.zeros((*shape, 2, 2, 1), np.uint8)
        self.offset, self.last = np.zeros(shape, int), np.zeros(shape, bool)
        self.reward, self.discount = np.zeros(shape, np.float32), np.ones(shape, np.float32)
        for lane, episodes in enumerate(lanes):
            slot = 0
            for episode, (size, end) in enumerate(episodes):
                for step in range(size):
                    if slot + step >= length:
                        break
                    here = lane, slot + step
                    self.frame[here] = np.array([[[lane], [slot + step]], [[episode], [step]]])
                    self.offset[here], self.last[here] = step, step == size - 1
                    self.reward[here] = 0 if step == size - 1 else 1 + lane + (slot + step) / 8
                    if end == "terminal" and step >= size - 2:
                        self.discount[here] = 0
                slot += size

    def start(self, config):
        """The actor after the reset, and an empty replay."""
        n = self.num_lanes
        actor = acting.start(
            acting.init(config, SPEC, None),
            TimeStep(
                self.frame[:, 0],
                np.zeros(n, np.float32),
                np.ones(n, np.float32),
                np.zeros(n, bool),
                np.ones(n, bool),
                np.zeros(n, np.float32),
                np.zeros(n, bool),
            ),
        )
        return actor, replay_lib.empty(config, SPEC, n)

    def timestep(self, slot):
        """What the environments say to the actions of `slot`."""
        ignored = self.last[:, slot]
        # The reward of an ignored step is no reward; a nonzero one must not be stored either.
        reward = np.where(ignored, 77, self.reward[:, slot]).astype(np.float32)
        discount = np.where(ignored, 1, self.discount[:, slot]).astype(np.float32)
        last = self.last[:, slot + 1]
        return TimeStep(
            self.frame[:, slot + 1],
            reward,
            discount,
            last,
            self.offset[:, slot + 1] == 0,
            np.where(ignored, 0, 10).astype(np.float32),
            last,
        )

    def stack(self, lane, slot):
        """The stacked frames of a slot, oldest first, the first frame repeated before the
        episode.
        """
        start = slot - self.offset[lane, slot]
        return np.stack([self.frame[lane, max(slot - i, start)] for i in reversed(range(STACK))])


def selection(num_lanes, slot):
    """Numbers that tell lanes and slots apart."""
    lane = np.arange(num_lanes, dtype=np.float32)
    policy = np.stack(
        [lane, np.full(num_lanes, slot, np.float32), np.zeros(num_lanes, np.float32)], axis=-1
    )
    return SearchOutput(
        (slot + np.arange(num_lanes)).astype(np.int32) % ACTIONS,
        policy,
        1000 * lane + slot,
        -1000 * lane - slot,
    )


record = jax.jit(acting.record, static_argnums=5)
drawable = jax.jit(priorities.drawable, static_argnums=1)


@functools.cache
def play(steps, config=None):
    """The script, the actor and replay after so many lock-steps; lock-step s runs as if s updates
    were made.
    """
    config = config or make_config()
    script = Script(LANES)
    actor, replay = script.start(config)
    for slot in range(steps):
        actor, replay = record(
            actor, replay, selection(2, slot), script.timestep(slot), np.int32(slot), config
        )
    return script, actor, replay


def kept(steps):
    """The slots that a ring holds."""
    return range(max(steps - SLOTS, 0), steps)


def whole(steps):
    """The slots whose stack is there too."""
    return range(max(steps - SLOTS, 0) + (STACK - 1 if steps > SLOTS else 0), steps)


# Before the ring is full, exactly full, one slot and one and a half turns later, and with episodes
# cut anywhere.
STEPS = [11, 16, 17, 24, 41]
