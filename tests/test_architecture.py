"""The wings and their imports, read from the source."""

import ast
import subprocess
import sys

import pytest
from helpers.tiny import ROOT

PACKAGE = ROOT / "ez_jax"
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


def imports(path, top_level=False):
    """Names of the modules that a file imports; those under `if` and in functions by choice."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            # `from package import module` imports the module.
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found


def importers(library):
    """Folders and files of the package that import a library."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if any(name.split(".")[0] == library for name in imports(path))
    }


@pytest.mark.parametrize(
    "folder, forbidden",
    [
        ("agent", ("program", "runner", "envs", "cli", "reference")),
        ("networks", ("agent", "program", "runner", "envs", "cli")),
        ("envs", ("agent", "networks", "program", "runner", "cli")),
        ("lowering", ("agent", "networks", "program", "runner", "envs", "config", "types")),
        ("hosts", ("agent", "networks", "program", "runner", "envs", "config", "types", "cli")),
        ("program", ("runner", "cli", "suite", "look")),
        ("runner", ("cli", "suite", "look")),
        ("look", ("cli", "suite", "program")),
        ("suite", ("cli", "look", "agent", "networks", "program")),
    ],
)
def test_imports_run_downwards(folder, forbidden):
    for path in (PACKAGE / folder).rglob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            assert not (parts[0] == "ez_jax" and parts[1:2] and parts[1] in forbidden), (path, name)


def test_libraries_have_their_rooms():
    assert importers("mctx") == {"agent/search.py"}
    assert {name.split("/")[0] for name in importers("orbax")} == {"runner"}
    assert {name.split("/")[0] for name in importers("envpool")} == {"envs"}
    assert importers("tyro") == {"cli.py"}


def test_no_cycle():
    graph = {
        module_name(path): {name for name in imports(path, top_level=True) if name in MODULES}
        for path in FILES
    }
    done, path = set(), []

    def visit(name):
        assert name not in path, f"imports in a circle: {[*path, name]}"
        if name in done:
            return
        path.append(name)
        for following in sorted(graph[name] - {name}):
            visit(following)
        done.add(path.pop())

    for name in sorted(graph):
        visit(name)
    assert len(done) == len(FILES) > 50


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_is_read_in_one_sitting(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 300 and max(map(len, lines), default=0) <= 100


def test_importing_the_package_is_cheap():
    code = (
        "import sys, ez_jax; dir(ez_jax); ez_jax.__version__;"
        "print([name for name in ('jax', 'envpool', 'orbax', 'tyro') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_public_names():
    import ez_jax

    for name in ez_jax.__all__:
        assert getattr(ez_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        ez_jax.runn  # noqa: B018
