"""Makes a small folder of a trained run: config, parameters and a card, to share.

    python experiments/export.py --workdir=runs/Pong-cpu-seed0 --output=models/pong
    python experiments/evaluate.py --workdir=models/pong --video=pong.mp4

`restore` and `evaluate.py` read it as they read the run; training cannot go on from it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from ez_jax.cli import OfRun, expanded, import_modules


@dataclass(frozen=True, kw_only=True)
class Args(OfRun):
    output: Path
    """Folder to write."""


def main(argv: list[str] | None = None) -> int:
    args = expanded(tyro.cli(Args, args=argv, description=__doc__))
    from ez_jax import restore, setup  # not for --help, which answers at once
    from ez_jax.runner.sharing import Model, export
    from ez_jax.runner.workdir import read_json

    setup()
    try:
        import_modules(args.imports)
        run = restore(args.workdir)
        path = args.workdir / "result.json"
        result = read_json(path) if path.exists() else None
        model = Model(run.config, run.variables, run.env_steps, run.updates)
        export(model, result, args.output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = sum(file.stat().st_size for file in args.output.iterdir())
    print(f"wrote {args.output} ({size / 1000:,.0f} kB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
