"""scripts/notebook.py: docs/tour.ipynb holds the cells of the script with their outputs, and runs."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")

from tests.scripts.load import ROOT, load_script  # noqa: E402  # behind the check that its libraries are there


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("notebook")


def _printed(notebook: Any) -> str:
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def test_the_stored_notebook_has_the_cells_of_the_script_and_their_outputs(script: ModuleType) -> None:
    stored = nbformat.read(ROOT / "docs" / "tour.ipynb", 4)
    nbformat.validate(stored)
    assert [cell.source for cell in stored.cells] == [cell.source for cell in script.made().cells]
    printed = _printed(stored)
    assert "ring   -> ring" in printed
    assert "over classes" in printed
    assert (
        sum("image/png" in output.get("data", {}) for cell in stored.cells for output in cell.get("outputs", [])) == 4
    )
    assert not re.search(r"(^|[\s'\"])/(home|root|tmp|usr|work)\b", (ROOT / "docs" / "tour.ipynb").read_text("utf-8"))


@pytest.mark.slow
def test_it_runs_again_and_its_progress_is_a_few_lines(script: ModuleType, tmp_path: Path) -> None:
    notebook = script.executed(tmp_path)
    (training,) = [cell for cell in notebook.cells if cell.source.startswith("short = ")]
    assert len("".join(output.text for output in training.outputs).splitlines()) < 25
    assert str(tmp_path) not in nbformat.writes(notebook)
    assert "cross  -> cross" in _printed(notebook)
