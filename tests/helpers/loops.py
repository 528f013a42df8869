"""Runs without files: a loop, its state, and one plan of the schedule after the other."""

from ez_jax.program.loops import make_loop
from ez_jax.program.mesh import make_mesh
from ez_jax.program.schedule import schedule
from ez_jax.program.stages import counters


def start(config, seed=0, devices=None, num_seeds=None):
    """The loop of a new run, and its state after the reset."""
    seeds = range(seed, seed + (num_seeds or 1))
    together = seeds if num_seeds else ()
    loop = make_loop(config, make_mesh(devices), seeds=together)
    return loop, loop.start(*seeds)


def advance(loop, state):
    """The state after the next plan, and the updates made."""
    return loop.run(state, schedule(loop.stages.config, *counters(state)))


def warmed_up(config, updates=0, **options):
    """A run just after its warm-up and so many updates."""
    loop, state = start(config, config.seed, **options)
    while counters(state)[0] < config.cycle.warmup_steps or counters(state)[1] < updates:
        state, _ = advance(loop, state)
    return loop, state


def finished(config, state):
    """Whether the schedule is at its end."""
    return schedule(config, *counters(state)).cycles == 0
