"""What each part is worth on one task: the whole, and the whole without it, several seeds each.

    python experiments/ablation.py --env=CartPole-v1 --num-seeds=3 --workdir=runs/cartpole-ablation
    python experiments/ablation.py --env=CartPole-v1 --num-seeds=3 --study=speed
    python experiments/ablation.py --env=Krull-v5 --preset=cpu --study=speed --env-steps=20000

Any option of the config goes for every variant. A variant whose results are there already is not
run again.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ez_jax.cli import RunArgs, env_steps, launch, option, with_task
from ez_jax.cli import parse as parse_options
from ez_jax.config import replace
from ez_jax.presets import PRESETS
from ez_jax.presets import classic as classic_config
from ez_jax.runner.tables import read, show

PARTS = {
    "full": {},
    "without consistency": dict(loss__consistency=0.0),
    "without value prefix": dict(network__value_prefix=False),
    "without reanalysis": dict(reanalyse__mode="off"),
    "PUCT search": dict(search__algorithm="muzero"),
    "TD target": dict(target__value="td"),
    "TD target, without off-policy correction": dict(
        target__value="td", target__off_policy_correction=False
    ),
}
"""The mixed target of the whole has the search in place of the off-policy correction: that is left
out of the TD target.
"""

SPEED = {
    "full": {},
    "8 simulations": dict(search__num_simulations=8),
    "50 simulations": dict(search__num_simulations=50),
    "32 reanalysed positions": dict(reanalyse__positions=32),
    "16 reanalysed positions": dict(reanalyse__positions=16),
    "bfloat16 embeddings": dict(search__embedding_dtype="bfloat16"),
    "sampled reanalysis": dict(reanalyse__mode="sampled"),
    "normalised step by step": dict(network__joint_norm=False),
}
"""Options that make a run faster or slower and may change what it learns. An evaluation searches as
training does, unless `--run.eval-simulations` says otherwise."""

STUDIES = {"parts": PARTS, "speed": SPEED}


@dataclass(frozen=True)
class Args(RunArgs):
    env: str = "CartPole-v1"
    """Id of the task."""
    preset: Literal["classic", "cpu", "paper", "v2"] = "classic"
    """Settings of the whole: the task's own of classic.py, or one of atari100k.py."""
    study: Literal["parts", "speed"] = "parts"
    """Leaves parts of the algorithm out, or changes what a run costs."""


def folder(name: str) -> str:
    return name.lower().replace(",", "").replace(" ", "_")


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    task, preset = option(argv, "env", Args.env), option(argv, "preset", Args.preset)
    args = parse_options(
        Args,
        argv,
        __doc__,
        lambda: PRESETS.get(preset) or classic_config(task, env_steps=env_steps(argv)),
    )
    args = with_task(args, args.env)
    suffix = "ablation" if args.study == "parts" else args.study
    base = Path(args.workdir or f"runs/{args.env.replace('/', '-')}-{suffix}")
    configs = {
        name: replace(args.config, **changes) for name, changes in STUDIES[args.study].items()
    }
    # What a task has already is no variant of it.
    configs = {
        name: config for name, config in configs.items() if name == "full" or config != args.config
    }
    for name, config in configs.items():
        workdir = base / folder(name)
        if len(list(workdir.glob("**/result.json"))) == args.num_seeds:
            continue
        print(f"--- {name}", flush=True)
        mine = dataclasses.replace(args, config=config, workdir=str(workdir))
        if status := launch(mine, args.env, args.preset, name):
            return status
        if len(list(workdir.glob("**/result.json"))) < args.num_seeds:  # stopped
            return 0
    print(show(read([base / folder(name) for name in configs])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
