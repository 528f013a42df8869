"""Seeds of environments, from the seed of a run."""

import numpy as np

LARGEST = 2**31 - 1
"""EnvPool takes 32-bit integers."""
EVALUATION = 1_000_000
"""Evaluation games have the seeds from here on: no environment in training has one of them."""
_LANES = 1000
_DRAWN_FROM = 2_000_000


def training_seeds(seed: int, num_envs: int) -> list[int]:
    """Seeds of the training environments of one run.

    They are `1000 seed + i` while these stay below a million. Others are drawn above two million
    from the run's seed: distinct in a run, and the same as another run's only by chance, N^2 in
    2^31.
    """
    if num_envs <= _LANES and (seed + 1) * _LANES <= EVALUATION:
        return [seed * _LANES + i for i in range(num_envs)]
    generator = np.random.default_rng(seed)
    drawn: dict[int, None] = {}
    while len(drawn) < num_envs:
        drawn[int(generator.integers(_DRAWN_FROM, LARGEST, endpoint=True))] = None
    return list(drawn)


def evaluation_seeds(episodes: int) -> list[int]:
    """Seeds of the games of an evaluation, the same for all runs."""
    return [EVALUATION + i for i in range(episodes)]
