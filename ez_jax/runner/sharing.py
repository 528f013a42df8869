"""A trained model in a small folder: config, variables and a card, without replay or optimiser.

`restore` reads such a folder as it reads a work directory, and `evaluate.py` plays it.
"""

import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ez_jax.config import Config, from_dict, to_dict
from ez_jax.runner.checkpoint import CheckpointError

MODEL, VARIABLES, CARD = "model.json", "variables.npz", "README.md"
FORMAT = 1


class Model(NamedTuple):
    """What a shared folder holds."""

    config: Config
    variables: Any  # of the network
    env_steps: int
    updates: int


def is_model(folder: Path) -> bool:
    """Whether a folder holds a shared model."""
    return (folder / MODEL).exists()


def export(model: Model, result: dict[str, Any] | None, output: Path) -> Path:
    """Writes a model with its card.

    Args:
      model: of a run.
      result: what the `result.json` of the run holds, None for one that has none; without scores
        where it was not evaluated.
      output: folder, made where it is missing.

    Returns:
      the folder.

    Raises:
      ValueError: it holds a model already.
    """
    if is_model(output):
        raise ValueError(f"{output} holds a model already: choose another --output")
    if result is not None and "eval_mean" not in result:
        result = None
    page = card(model, result)
    output.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        "/".join(k): np.asarray(v) for k, v in flatten_dict(model.variables).items()
    }
    np.savez_compressed(output / VARIABLES, **arrays)
    about = {
        "format": FORMAT,
        "env_steps": model.env_steps,
        "updates": model.updates,
        "config": to_dict(model.config),
        "result": result and shareable(result),
    }
    (output / CARD).write_text(page)
    (output / MODEL).write_text(json.dumps(about, indent=1) + "\n")  # last: the model is whole
    return output


def shareable(result: dict[str, Any]) -> dict[str, Any]:
    """A result whose command names no folder of the machine that it ran on."""
    kept, words = [], iter(shlex.split(result.get("command") or ""))
    for word in words:
        if word == "--workdir":
            next(words, None)
        elif word != "--resume" and not word.startswith("--workdir="):
            script = Path(word)  # `suite.py` starts scripts by their whole path
            kept.append("/".join(script.parts[-2:]) if script.is_absolute() else word)
    return result | {"command": shlex.join(kept)}


def card(model: Model, result: dict[str, Any] | None) -> str:
    """A page about a model: task, score, protocol, versions."""
    task, size = model.config.env.id, sum(x.size for x in jax.tree.leaves(model.variables))
    lines = [
        f"# {task}",
        "",
        f"EfficientZero after {model.env_steps:,} steps and {model.updates:,} updates, seed "
        f"{model.config.seed}; {size:,} numbers (float32).",
        "",
    ]
    if result is None:
        lines += ["Not evaluated.", ""]
    else:
        lines += [
            f"Mean return {result['eval_mean']:.6g} (median {result['eval_median']:.6g}) of "
            f"{result['eval_episodes']} episodes with the final parameters, a seed each, "
            "the best action of a search without noise.",
            "",
            f"Trained in {result['wall_s']:.0f} s on {result.get('device', 'an unknown device')}, "
            f"preset {result.get('preset') or '-'}, commit {result.get('commit') or '-'}; "
            + ", ".join(f"{k} {v}" for k, v in (result.get("versions") or {}).items())
            + ".",
            "",
        ]
    return "\n".join(
        [
            *lines,
            "```python",
            "from ez_jax import restore",
            "",
            'model = restore("this/folder")  # model.network, model.variables, model.config',
            "```",
            "",
        ]
    )


def load(folder: Path) -> Model:
    """Reads a shared model.

    Raises:
      CheckpointError: a file is missing or damaged, or of another version.
    """
    try:
        about = json.loads((folder / MODEL).read_text())
        if about["format"] != FORMAT:
            raise CheckpointError(
                f"{folder / MODEL} has format {about['format']} of another version of ez_jax; this "
                f"one reads format {FORMAT}"
            )
        config = from_dict(about["config"])
        with np.load(folder / VARIABLES) as arrays:
            flat = {tuple(name.split("/")): jnp.asarray(arrays[name]) for name in arrays.files}
        return Model(config, unflatten_dict(flat), about["env_steps"], about["updates"])
    except CheckpointError:
        raise
    except (KeyError, TypeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else "no model"
        raise CheckpointError(f"cannot read {folder / MODEL}: it holds {missing}") from error
    except Exception as error:  # zip files and JSON raise many kinds
        raise CheckpointError(f"cannot read the model in {folder}: {error}") from error
