"""Aggregate statistics of few runs on many tasks (Agarwal et al. 2021, arXiv 2108.13264).

`R` is the number of runs of a task, `T` of tasks; scores are normalised, `[R, T]`. Tasks may have
fewer runs than others: those entries are NaN.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
"""Of a bootstrap: its ends are then known to about a twentieth of the interval."""


class Interval(NamedTuple):
    """A statistic with its bootstrap interval."""

    value: float
    low: float
    high: float


def mean(scores: np.ndarray) -> float:
    """Mean over tasks of their means."""
    return float(np.mean(np.nanmean(scores, axis=0)))


def median(scores: np.ndarray) -> float:
    """Median over tasks of their means."""
    return float(np.median(np.nanmean(scores, axis=0)))


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all runs of all tasks."""
    ordered = np.sort(scores[np.isfinite(scores)])
    cut = len(ordered) // 4
    return float(np.mean(ordered[cut : len(ordered) - cut]))


def optimality_gap(scores: np.ndarray, goal: float = 1.0) -> float:
    """How far runs stay below a goal, those above it counting as at it."""
    return float(goal - np.mean(np.nanmean(np.minimum(scores, goal), axis=0)))


AGGREGATES: dict[str, Callable[[np.ndarray], float]] = {
    "mean": mean,
    "median": median,
    "IQM": interquartile_mean,
    "optimality gap": optimality_gap,
}


def profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of runs whose score exceeds each threshold `[N]`, tasks weighted alike: `[N]`."""
    above = (scores > thresholds[:, None, None]).astype(float)
    above = np.where(np.isfinite(scores), above, np.nan)
    return np.mean(np.nanmean(above, axis=1), axis=1)


def probability_of_improvement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """That a run of ours beats one of theirs on the same task, mean over tasks; a tie is half.

    Args:
      ours: `[R, T]`.
      theirs: `[R', T]`.
    """
    a, b = ours[:, None], theirs[None]
    wins = np.where(np.isfinite(a - b), (a > b) + 0.5 * (a == b), np.nan)
    return float(np.mean(np.nanmean(wins, axis=(0, 1))))


def resample(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scores of as many runs, drawn with replacement for each task by itself (stratified)."""
    if np.all(np.isfinite(scores)):
        return np.take_along_axis(scores, rng.integers(0, len(scores), scores.shape), axis=0)
    drawn = np.full_like(scores, np.nan)
    for task in range(scores.shape[1]):
        known = scores[np.isfinite(scores[:, task]), task]
        drawn[: len(known), task] = rng.choice(known, len(known))
    return drawn


def interval(
    statistic: Callable[..., float],
    *scores: np.ndarray,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """A statistic of sets of runs with its percentile interval of a stratified bootstrap.

    With one run of each task there is nothing to resample: the interval is the value.
    """
    rng = np.random.default_rng(seed)
    found = [statistic(*(resample(s, rng) for s in scores)) for _ in range(resamples)]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(statistic(*scores), float(low), float(high))


def curve_interval(
    values: np.ndarray, level: float = 0.95, resamples: int = 500, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the bootstrap interval of a mean over runs `[R, N]`, at each of N points: `[N]`."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(values), (resamples, len(values)))
    means = np.mean(values[rows], axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
