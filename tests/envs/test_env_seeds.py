"""Seeds of environments: what they were, and apart from those of evaluation."""

import pytest

from ez_jax.config import Config, EnvConfig, replace, validate
from ez_jax.envs import make
from ez_jax.envs.seeds import EVALUATION, LARGEST, evaluation_seeds, training_seeds


def test_small_seeds_are_what_they_were():
    assert training_seeds(0, 3) == [0, 1, 2] and training_seeds(999, 2) == [999_000, 999_001]


@pytest.mark.parametrize("seed", [0, 999, 1000, 20240101, LARGEST])
def test_distinct_and_apart_from_evaluation(seed):
    seeds = training_seeds(seed, 1500)
    assert len(set(seeds)) == 1500 and all(0 <= s <= LARGEST for s in seeds)
    assert not set(seeds) & set(evaluation_seeds(100_000))
    assert seeds == training_seeds(seed, 1500) != training_seeds(seed - 1 if seed else 1, 1500)


def test_evaluation_has_the_same_games_for_all():
    assert evaluation_seeds(2) == [EVALUATION, EVALUATION + 1] == [1_000_000, 1_000_001]


@pytest.mark.parametrize("task", ["CartPole-v1", "jax/Catch"])
def test_environments_take_the_largest(task):
    env = make(EnvConfig(id=task), training_seeds(LARGEST, 2), training=True)
    assert env.reset().first.all()


def test_range_of_seeds():
    validate(replace(Config(), seed=LARGEST))
    with pytest.raises(ValueError, match=r"seed=2147483648 is out of range"):
        validate(replace(Config(), seed=LARGEST + 1))
