"""`metalearn export` of runs of numbers: programs that give what predict gives, without metalearn, and a card that says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import metalearn
from metalearn.cli.main import main
from metalearn.data.columns import Columns
from metalearn.runs.export_numbers import RowsProgram
from tests.runs.test_export import needs_extra
from tests.runs.test_predict_numbers import QUERY, here, predicted, runs, values

__all__ = ["here", "runs"]  # fixtures

ROWS = [list(row[:2]) for row in QUERY]
LOAD = {
    "pt2": "import torch; program = torch.export.load('{}').module(); print(program(torch.tensor({})).tolist())",
    "onnx": "import numpy, onnxruntime; program = onnxruntime.InferenceSession('{}'); "
    "print(program.run(None, {{'rows': numpy.array({}, numpy.float32)}})[0].tolist())",
}


@pytest.mark.thorough
@needs_extra
def test_the_programs_give_what_predict_gives_in_the_units_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = values(predicted(capsys, "table", "--support", "support.csv", "--query", "query.csv"))
    main(["export", "table", "--support", "support.csv", "--out", "out"])
    assert "on 1, 3 and 8 rows" in capsys.readouterr().out
    for kind, program in LOAD.items():
        code = program.format(f"out/regressor.{kind}", ROWS)
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        np.testing.assert_allclose(json.loads(ended.stdout), wanted, rtol=1e-4)
    record = json.loads(Path("out/export.json").read_text())
    assert (record["inputs"], record["targets"], record["points"]) == (["age", "area"], ["price", "rent"], 5)
    assert {file["file"] for file in record["files"]} == {"regressor.pt2", "regressor.onnx", "regressor.safetensors"}
    card = Path("out/MODEL_CARD.md").read_text()
    for said in (
        "# Model card: maml on tabular, price, rent",
        "float32 [n, 2]: age, area, in this order",
        "learned one task from 5 points",
        "program.run(None, {'rows': rows})",
        "- Test, 3 support points, 4 tasks of tabular: mse ",
        "- mse price: ",
        "each predicted from the others: price ",
    ):
        assert said in card, said


@pytest.mark.thorough
def test_a_saved_regressor_is_exported_without_its_run(capsys: pytest.CaptureFixture[str]) -> None:
    made = metalearn.predict("waves", points("x,y\n0,1\n1,2\n"), points("x\n0.5\n", "q.csv"), save="mine.pt")
    Path("waves").unlink()
    record = metalearn.export(None, "out", adapted="mine.pt", formats=["pt2"])
    program = torch.export.load("out/regressor.pt2").module()
    assert program(torch.tensor([[0.5]])).item() == pytest.approx(made["predictions"][0]["predicted"]["y"], rel=1e-5)
    assert (record["test"], record["support_check"]) == (None, None)


def points(text: str, name: str = "p.csv") -> str:
    Path(name).write_text(text)
    return name


def test_numbers_far_from_zero_keep_their_digits() -> None:
    columns = Columns(("a",), ("b",), (1e6,), (0.5,), (2e6,), (0.25,))
    program = RowsProgram(columns, torch.nn.Identity())
    assert program(torch.tensor([[1e6], [1e6 + 1]])).tolist() == [[2e6], [2e6 + 0.5]]


def test_mistakes_are_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.rglob("*"))
    for words, message in (
        (["table"], "this run predicts numbers of a task that it has learned from points: give --support POINTS.csv"),
        (["table", "--support", "support.csv", "--tasks", "20"], "--tasks goes with a run that predicts classes"),
        (["table", "--support", "query.csv"], "query.csv has no column 'price'"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["export", *words, "--out", "out", "--formats", "pt2"])
        assert left.value.code == 2, words
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert sorted(here.rglob("*")) == before
