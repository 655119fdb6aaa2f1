"""The notebooks as they are stored: outputs that are small, current and free of this machine."""

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 500_000
# Absolute paths of a machine, and dates.
MACHINE = re.compile(r"(?<![\w.<])/(?:home|root|tmp|usr|opt|var|work|Users|private)/|site-packages")
DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b|\b\d\d:\d\d:\d\d\b")


def _refresh() -> Any:
    found = importlib.util.spec_from_file_location("refresh", ROOT / "notebooks" / "refresh.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def texts(outputs: list[Any]) -> list[str]:
    """The parts of outputs that are no pictures."""
    return [
        text
        for output in outputs
        for kind, text in {**output.get("data", {}), "text": output.get("text", "")}.items()
        if not kind.startswith("image/")
    ]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_outputs_are_those_of_the_code(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    stored = notebook.metadata["dicomdl"]["sources"]
    assert stored == _refresh().digest(notebook), f"python notebooks/refresh.py {path.name}"


def test_a_notebook_has_pictures_no_error_and_an_output_in_most_cells(path: Path) -> None:
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) >= 3
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) / 2


def test_a_notebook_is_small(path: Path) -> None:
    assert path.stat().st_size <= MOST_BYTES


def test_outputs_hold_no_path_of_a_machine_and_no_date(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for text in texts(cell.get("outputs", [])):
            assert not MACHINE.search(text) and not DATE.search(text), text


def test_the_code_is_sound_python_with_short_lines(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            ast.parse(cell.source)
            assert max(map(len, cell.source.splitlines())) <= 100


def test_folders_of_a_machine_are_removed_from_outputs() -> None:
    shortened = _refresh().shortened
    assert shortened("in /tmp/tmpab1_x9z0/demo.index") == "in demo.index"
    assert shortened("/a/lib/python3.11/site-packages/pydicom/x.dcm") == "pydicom/x.dcm"
    assert shortened("1 and/or 2") == "1 and/or 2"
