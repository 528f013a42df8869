"""What each part is worth: the whole, and the whole without it, several tasks and seeds each.

    python experiments/ablation.py --env=CartPole-v1 --num-seeds=3 --workdir=runs/cartpole-ablation
    python experiments/ablation.py --env=CartPole-v1 --num-seeds=3 --study=speed
    python experiments/ablation.py --env drawn/jax/Catch drawn/pgx/minatar-breakout --num-seeds=3 \\
        --switch reanalyse.mode=oldest "loss.entropy=1 loss.entropy-target=0.8,0.1"

Any option of the config goes for every variant, before what a switch changes. A variant whose
results are there already is not run again.
"""

import dataclasses
import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ez_jax.cli import RunArgs, env_steps, launch, option, with_task
from ez_jax.cli import parse as parse_options
from ez_jax.config import Config, replace, validate
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

PAPER = {
    "full": {},
    "without consistency": dict(loss__consistency=0.0),
    "without value prefix": dict(network__value_prefix=False),
    "without off-policy correction": dict(target__off_policy_correction=False),
    "without reanalysis": dict(reanalyse__mode="off"),
}
"""The paper's own ablations (EfficientZero, section 5.3), and reanalysis."""

STUDIES = {"parts": PARTS, "speed": SPEED, "paper": PAPER}


@dataclass(frozen=True)
class Args(RunArgs):
    env: tuple[str, ...] = ("CartPole-v1",)
    """Ids of the tasks."""
    preset: Literal["classic", "cpu", "paper", "v2"] = "classic"
    """Settings of the whole: the task's own of classic.py, or one of atari100k.py."""
    study: Literal["parts", "paper", "speed"] = "parts"
    """Leaves parts of the algorithm out, those of the paper's ablation alone, or changes what a run
    costs.
    """
    switch: tuple[str, ...] = ()
    """Instead of a study: settings of a variant, `name=value`, several in one word with spaces
    between; the items of a value have commas.
    """


def folder(name: str) -> str:
    """A name that a file system and a checkpoint take."""
    return re.sub(r"[^\w.=-]+", "_", name.lower())


def switched(switch: str) -> list[str]:
    """The words of a command line that a switch stands for.

    Raises:
      ValueError: it is not of the form `name=value`.
    """
    words = []
    for setting in switch.split():
        name, equals, value = setting.partition("=")
        if not (name and equals and value):
            raise ValueError(f"switch {setting!r} must be of the form name=value")
        words += [f"--{name.removeprefix('--')}", *value.split(",")]
    return words


def read_command(argv: list[str], env: str, more: Sequence[str] = ()) -> Args:
    """The command line for one of its tasks, with what a switch adds."""
    preset = option(argv, "preset", Args.preset)
    args = parse_options(
        Args,
        [*argv, *more],
        __doc__,
        lambda: PRESETS.get(preset) or classic_config(env, env_steps=env_steps(argv)),
    )
    return with_task(args, env)


def variants(argv: list[str], args: Args, env: str) -> dict[str, Config]:
    """The configs of a task by name.

    Raises:
      ValueError: a switch is malformed.
    """
    whole = read_command(argv, env).config
    if args.switch:
        return {"full": whole} | {
            switch: read_command(argv, env, switched(switch)).config for switch in args.switch
        }
    configs = {name: replace(whole, **changes) for name, changes in STUDIES[args.study].items()}
    # What a task has already is no variant of it.
    return {name: one for name, one in configs.items() if name == "full" or one != whole}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = read_command(argv, "")
    study = "switches" if args.switch else {"parts": "ablation"}.get(args.study, args.study)
    try:
        configs = {env: variants(argv, args, env) for env in args.env}
        for config in itertools.chain(*(found.values() for found in configs.values())):
            validate(config)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    done = []
    for env, found in configs.items():
        base = Path(args.workdir or "runs") / f"{env.replace('/', '-')}-{study}"
        if args.workdir and len(args.env) == 1:
            base = Path(args.workdir)
        for name, config in found.items():
            workdir = base / folder(name)
            done.append(workdir)
            if len(list(workdir.glob("**/result.json"))) == args.num_seeds:
                continue
            print(f"--- {env}: {name}", flush=True)
            mine = dataclasses.replace(args, config=config, workdir=str(workdir))
            if status := launch(mine, env, args.preset, name):
                return status
    print(show(read(done)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
