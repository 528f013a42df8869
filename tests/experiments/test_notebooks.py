"""The notebooks run from top to bottom, anywhere, and are kept without outputs."""

import nbformat
import pytest
from helpers.tiny import ROOT
from ipykernel.kernelspec import install
from nbclient import NotebookClient

FIGURE, VIDEO = "image/png", "<video"
PRODUCES = {
    "quickstart": {"curves": FIGURE, "video": VIDEO},
    "loss_variants": {"compare": FIGURE},
    "look_inside": {"values": FIGURE, "tree": FIGURE, "policy": FIGURE, "rewards": FIGURE},
}


def load(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def outputs(notebook: nbformat.NotebookNode, cell_id: str) -> str:
    """Everything that a cell shows, with the types, as one text."""
    cell = next(c for c in notebook.cells if c.id == cell_id)
    return " ".join(
        f"{kind} {value}"
        for output in cell.outputs
        for kind, value in output.get("data", {}).items()
    )


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Makes `python3` this interpreter, with the defaults of a user's machine but for the
    compiler's.
    """
    install(prefix=str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter" / "share" / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for name in ("MPLBACKEND", "JAX_NUM_CPU_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def test_every_notebook_is_tested():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(PRODUCES)


@pytest.mark.parametrize("name", PRODUCES)
def test_notebook_is_kept_without_outputs(name):
    for cell in load(name).cells:
        assert cell.cell_type == "markdown" or (
            not cell.outputs and cell.execution_count is None
        ), cell.id


@pytest.mark.slow
@pytest.mark.parametrize("name", PRODUCES)
def test_notebook_runs_and_shows_its_results(name, kernel, tmp_path):
    notebook, here = load(name), tmp_path / "here"
    here.mkdir()
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(here)}}
    ).execute()
    for cell_id, expected in PRODUCES[name].items():
        assert expected in outputs(notebook, cell_id), cell_id
    assert not list(here.iterdir()), "a notebook leaves files only in temporary folders"
