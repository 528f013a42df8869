"""Aggregates of runs, against stored figures of rliable and by hand."""

import numpy as np
import pytest
from helpers import rliable_figures as figures

from ez_jax.suite import statistics


@pytest.mark.parametrize("name", list(statistics.AGGREGATES))
def test_aggregates_agree_with_rliable(name):
    statistic = statistics.AGGREGATES[name]
    value, low, high = figures.AGGREGATES[name]
    assert statistic(figures.OURS) == pytest.approx(value, abs=1e-6)
    assert statistic(figures.THEIRS) == pytest.approx(figures.THEIR_AGGREGATES[name], abs=1e-6)
    found = statistics.interval(statistic, figures.OURS)
    assert found.value == statistic(figures.OURS)
    np.testing.assert_allclose(found[1:], [low, high], atol=0.05 * (high - low))
    assert found == statistics.interval(statistic, figures.OURS)  # the same numbers each time


def test_probability_of_improvement_agrees_with_rliable():
    value, low, high = figures.IMPROVEMENT
    improvement = statistics.probability_of_improvement
    assert improvement(figures.OURS, figures.THEIRS) == pytest.approx(value, abs=1e-6)
    found = statistics.interval(improvement, figures.OURS, figures.THEIRS)
    np.testing.assert_allclose(found[1:], [low, high], atol=0.05 * (high - low))
    assert improvement(figures.OURS, figures.OURS) == 0.5


def test_profile_agrees_with_rliable():
    found = statistics.profile(figures.OURS, figures.THRESHOLDS)
    np.testing.assert_allclose(found, figures.PROFILE, atol=1e-6)


def test_tasks_with_fewer_runs_by_hand():
    scores = np.array([[0.0, 1.0], [1.0, 3.0], [np.nan, 2.0]])
    assert statistics.mean(scores) == (0.5 + 2.0) / 2
    assert statistics.median(scores) == 1.25
    assert statistics.interquartile_mean(scores) == 4 / 3  # 1, 1, 2 of 0, 1, 1, 2, 3
    assert statistics.optimality_gap(scores) == pytest.approx(0.25)
    assert statistics.probability_of_improvement(scores, scores) == 0.5
    np.testing.assert_allclose(statistics.profile(scores, np.array([0.5])), [0.75])
    drawn = statistics.resample(scores, np.random.default_rng(0))
    assert np.isnan(drawn).sum() == 1 and set(drawn[:2, 0]) <= {0.0, 1.0}


def test_one_run_has_no_interval():
    assert statistics.interval(statistics.mean, np.array([[2.0, 4.0]])) == (3.0, 3.0, 3.0)


def test_intervals_of_curves():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(20, 1)) + np.zeros((20, 3))
    low, high = statistics.curve_interval(values)
    error = 1.96 * values.std() / np.sqrt(20)
    np.testing.assert_allclose(values.mean() - low, error, rtol=0.2)
    np.testing.assert_allclose(high - values.mean(), error, rtol=0.2)
