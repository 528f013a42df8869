"""The named presets: changed copies of the paper's settings."""

from ez_jax.presets.atari import CPU, DEBUG, PAPER, V2, Changes
from ez_jax.presets.control import DMC, DMC_CPU, continuous, dmc
from ez_jax.presets.small import CLASSIC, classic

__all__ = [
    "ATARI_PRESETS",
    "CLASSIC",
    "CPU",
    "DEBUG",
    "DMC",
    "DMC_CPU",
    "PAPER",
    "PRESETS",
    "V2",
    "Changes",
    "classic",
    "continuous",
    "dmc",
]

ATARI_PRESETS = {"paper": PAPER, "v2": V2, "cpu": CPU, "debug": DEBUG}
"""Presets of `experiments/atari100k.py` by name."""
PRESETS = ATARI_PRESETS | {
    "dmc": dmc(DMC.env.id, "dmc"),
    "dmc-cpu": dmc(DMC.env.id, "dmc-cpu"),
}
"""Presets of `experiments/atari100k.py` and `experiments/dmc100k.py` by name."""
