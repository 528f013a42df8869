"""The schedule by hand, and a run that follows it."""

import numpy as np
import pytest

from ez_jax.config import Config, replace
from ez_jax.program.schedule import Plan, schedule

CONFIG = replace(
    Config(),
    env_steps=100,
    env__num_envs=4,
    cycle__warmup_steps=22,
    cycle__updates_per_act=3,
    cycle__final_updates=20,
    run__log_every=10,
)  # 75 online updates, 95 in all


@pytest.mark.parametrize(
    "steps, updates, plan",
    [
        (0, 0, Plan(6, "warmup", 0)),  # 22 steps by four, rounded up
        (21, 0, Plan(1, "warmup", 0)),
        (22, 0, Plan(3, "online", 3)),  # 10 updates to the log: three acts of 3
        (24, 9, Plan(1, "online", 3)),  # 1 to the log: an act is never cut
        (98, 54, Plan(1, "online", 3)),  # 2 steps left: one act
        (90, 94, Plan(1, "online", 1)),  # 1 update left
        (90, 95, Plan(3, "online", 0)),  # none left: steps alone
        (100, 57, Plan(3, "final", 1)),  # up to the log
        (100, 90, Plan(5, "final", 1)),  # up to the end
        (100, 95, Plan(0, "final", 1)),
    ],
)
def test_by_hand(steps, updates, plan):
    assert schedule(CONFIG, steps, updates) == plan


def test_acts_without_updates():
    config = replace(CONFIG, cycle__updates_per_act=0)
    assert schedule(config, 22, 0) == Plan(20, "online", 0)
    assert schedule(config, 100, 0) == Plan(10, "final", 1)


def test_plans_end_at_checkpoints():
    config = replace(CONFIG, run__log_every=1000, run__checkpoint_every=12)
    assert schedule(config, 22, 0) == Plan(4, "online", 3)
    assert schedule(config, 26, 3) == Plan(3, "online", 3)
    assert schedule(config, 100, 57) == Plan(3, "final", 1)


@pytest.mark.parametrize("whole", [True, False], ids=["whole plans", "one cycle at a time"])
@pytest.mark.parametrize("seed", range(5))
def test_a_run_ends_at_its_budget(whole, seed):
    """Also if environments ignore some of their actions, and however a plan is cut."""
    rng, steps, updates, phases = np.random.default_rng(seed), 0, 0, []
    while (plan := schedule(CONFIG, steps, updates)).cycles:
        for _ in range(plan.cycles if whole else 1):
            if plan.phase != "final":
                assert steps < CONFIG.env_steps
                steps = min(steps + int(rng.integers(3, 5)), CONFIG.env_steps)
            updates += plan.updates
        phases.append(plan.phase)
    assert (steps, updates) == (CONFIG.env_steps, CONFIG.total_updates)
    assert list(dict.fromkeys(phases)) == ["warmup", "online", "final"]
