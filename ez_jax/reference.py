"""Documentation generated from the config: field by field, and the table of all settings.

python -m ez_jax.reference      prints the table of `ez_jax/README.md`
"""

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from typing import Any

from ez_jax.config import Config
from ez_jax.presets import PRESETS, classic

OFTEN = (
    "env-steps",
    "seed",
    "env.num-envs",
    "env.action-repeat",
    "env.action-slots",
    "network.channels",
    "network.value-prefix",
    "search.algorithm",
    "search.num-simulations",
    "search.sampled-actions",
    "target.value",
    "target.td-steps",
    "target.off-policy-correction",
    "reanalyse.mode",
    "loss.consistency",
    "loss.entropy",
    "optimizer.learning-rate",
    "cycle.batch-size",
    "cycle.updates-per-act",
)
"""The options that `--help` shows."""


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


def short_help(kind: type, description: str | None) -> str:
    """The options that people change first, with the paper's defaults.

    Args:
      kind: the options of a command, `cli.RunArgs` with its own.
      description: of the command.
    """
    command: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        command = field_docs(base) | command
    lines = [(description or "").strip(), "", "options of the command:"]
    hints = typing.get_type_hints(kind, include_extras=True)
    for name, doc in command.items():
        other = [getattr(mark, "name", None) for mark in getattr(hints[name], "__metadata__", ())]
        lines.append(_help_line(next(filter(None, other), name).replace("_", "-"), doc))
    settings = options(Config())
    lines += ["", "settings, with the paper's value (a preset may have another):"]
    group = ""
    for name in OFTEN:
        value, doc = settings[name]
        if "." in name and (section := name.partition(".")[0]) != group:
            group = section
            lines.append(f" {group}")
        lines.append(_help_line(name, doc, show(value)))
    rest = len(settings) - len(OFTEN)
    lines += ["", f"--help-all lists the other {rest} settings, with the values of the preset."]
    return "\n".join(lines)


def _help_line(name: str, doc: str, default: str | None = None) -> str:
    """One line, of the first clause: a screen holds them all."""
    left = f"  --{name}" + (f"={default}" if default is not None else "")
    clause = re.split(r"; | \(|\. (?=[A-Z])", doc)[0]
    return f"{left:37s} {textwrap.shorten(clause, 100 - 38, placeholder=' ...')}".rstrip()


if __name__ == "__main__":
    print(settings_table())
