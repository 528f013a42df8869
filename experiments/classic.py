"""EfficientZero on any task of one player: actions are indices or bounded vectors.

    python experiments/classic.py --env=CartPole-v1
    python experiments/classic.py --env=jax/Catch --num-seeds=8
    python experiments/classic.py --env=pgx/minatar-breakout --search.algorithm=muzero
    python experiments/classic.py --env=HalfCheetah-v5

A task is an EnvPool id, an environment written in JAX (jax/Catch; gymnax/<id> and pgx/<id> with the
extra `jaxenvs`; drawn/<id> shows the board of one as an image), gymnasium/<id>, or one of your own
(--import). Vectors must be bounded; dicts with goals and mixed actions are refused.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ez_jax.cli import (
    RunArgs,
    command,
    env_steps,
    import_modules,
    imports,
    launch,
    option,
    with_task,
)
from ez_jax.cli import parse as parse_options
from ez_jax.config import Config, EnvConfig
from ez_jax.presets import classic, continuous
from ez_jax.presets.small import TASKS

if TYPE_CHECKING:
    from ez_jax.types import EnvSpec

EXPECTED = {
    "jax/Catch": "40 to 70 seconds on 2 cores",
    "CartPole-v1": "1 to 4 minutes on 2 cores",
    "Acrobot-v1": "about 6 minutes on 2 cores",
    "LunarLander-v3": "about half an hour on a core",
    "Pendulum-v1": "about 25 minutes on a core",
    "pgx/minatar-breakout": "about 7 minutes on 2 cores",
    "drawn/jax/Catch": "about 10 minutes on a core",
    "drawn/pgx/minatar-breakout": "an hour or so on a core",
}
"""Time of a task's own budget; the longer one of a range is that of a first run, which compiles."""
DEBUG_EXPECTED = "about a minute, most of it compilation"


@dataclass(frozen=True)
class Args(RunArgs):
    env: str = "CartPole-v1"
    """Id of the task."""
    preset: Literal["classic", "debug"] = "classic"
    """Named settings: EfficientZero-V2 sized for vectors and two CPU cores, with the task's own
    budget where it is known (actions that are vectors: those of `dmc-cpu`); or the whole path in
    about a minute."""


def parse(argv: list[str]) -> Args:
    """Command line to `Args`."""
    env, debug = option(argv, "env", Args.env), option(argv, "preset", Args.preset) == "debug"

    def defaults() -> Config:
        if env in TASKS or env.startswith("drawn/"):
            return classic(env, debug=debug, env_steps=env_steps(argv))
        spec = spec_of(argv, env)
        # Slots make indices of vectors.
        vectors = spec.action_size > 0 and option(argv, "env.action-slots", "0") == "0"
        preset = continuous if vectors else classic
        return preset(env, debug=debug, env_steps=env_steps(argv), image=spec.image)

    return with_task(parse_options(Args, argv, __doc__, defaults), env)


def spec_of(argv: list[str], env: str) -> "EnvSpec":
    """Describes a task; as one of vectors and indices where it will be refused."""
    from ez_jax.envs import describe  # not for --help, which answers at once
    from ez_jax.types import EnvSpec

    pixels = option(argv, "env.pixels", "False") == "True"
    try:
        import_modules(imports(argv))  # they may register the task
        return describe(EnvConfig(id=env, pixels=pixels), 1).spec
    except ValueError:
        return EnvSpec(1, (1,), "float32", 1)


def main(argv: list[str] | None = None) -> int:
    return command(run, argv)


def run(argv: list[str]) -> int:
    """The command; see `cli.command`."""
    args = parse(argv)
    return launch(args, args.env, args.preset, expected(args))


def expected(args: Args) -> str:
    """The time that a run takes, as far as it is known."""
    if args.preset == "debug":
        return DEBUG_EXPECTED
    if args.env not in EXPECTED:
        return "minutes on 2 cores to hours, where images are seen: --dry-run estimates them"
    own = classic(args.env).env_steps
    steps = "" if args.config.env_steps == own else f" for {own:,} steps"
    return EXPECTED[args.env] + steps


if __name__ == "__main__":
    sys.exit(main())
