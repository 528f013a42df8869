"""Documentation generated from the config: field by field, and the table of all settings.

python -m ez_jax.reference      prints the table of `ez_jax/README.md`
"""

import ast
import dataclasses
import inspect
import textwrap
from typing import Any

from ez_jax.config import Config
from ez_jax.presets import PRESETS, classic


def field_docs(kind: Any) -> dict[str, str]:
    """The docstring under each field of a dataclass, as one line."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for field, below in zip(tree.body, tree.body[1:]):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match below:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    docs[field.target.id] = " ".join(text.split())
    return docs


def options(config: Any, prefix: str = "") -> dict[str, tuple[Any, str]]:
    """Value and documentation of each setting by its name on the command line."""
    found: dict[str, tuple[Any, str]] = {}
    for field in dataclasses.fields(config):
        name, value = f"{prefix}{field.name.replace('_', '-')}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= options(value, f"{name}.")
        else:
            found[name] = value, field_docs(type(config))[field.name]
    return found


def show(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, tuple):
        return " ".join(map(show, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def settings_table() -> str:
    """All settings with their values in each preset, as a Markdown table.

    An empty cell is the paper's value.
    """
    presets = {name: PRESETS[name] for name in ("v2", "cpu", "dmc", "dmc-cpu")}
    presets["classic"] = classic("")
    others = {name: options(config) for name, config in presets.items()}
    lines = [f"| setting | paper | {' | '.join(others)} | |", "|---" * (len(others) + 3) + "|"]
    for name, (value, doc) in options(Config()).items():
        cells = [show(o[name][0]) if o[name][0] != value else "" for o in others.values()]
        cells = [show(value), *cells, doc.replace("|", "\\|")]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(settings_table())
