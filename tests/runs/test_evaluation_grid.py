"""`metalearn eval` with several values and runs: every cell, one that cannot be done, one that an earlier call computed."""

from __future__ import annotations

import csv
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

import metalearn
from metalearn.backbones import Conv4
from metalearn.cli.main import main
from metalearn.errors import UserError
from metalearn.runs import directory, evaluation
from metalearn.runs.housekeeping import removable
from tests.runs.test_evaluation import TINY


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs of other algorithms."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("maml", "protonet"):
        main(["train", f"algorithm={name}", *TINY, f"hydra.run.dir={folder / name}"])
    return folder


@pytest.fixture
def runs(both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(both, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path / "runs"


def exit_code(*argv: str) -> int:
    try:
        main(list(argv))
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def scores(record: dict[str, Any]) -> list[float]:
    return [cell["test"]["accuracy"] for cell in record["cells"]]


def grid_of(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("grid-*.json")
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def test_every_combination_is_a_cell_with_the_number_that_it_has_alone(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("eval", "protonet", "task.ways=5,3", "task.shots=1,2") == 0
    said = capsys.readouterr().out
    record = grid_of(runs / "protonet")
    assert [cell["choices"] for cell in record["cells"]] == [
        {"task.ways": ways, "task.shots": shots} for ways in (5, 3) for shots in (1, 2)
    ]
    assert "tested on glyphs (" in said
    assert f"written to: protonet/{next((runs / 'protonet').glob('grid-*')).name}" in said
    for cell in record["cells"]:
        choices = [f"{key}={value}" for key, value in cell["choices"].items()]
        assert metalearn.evaluate(runs / "protonet", *choices)["test"] == cell["test"]
        own = json.loads((runs / "protonet" / cell["file"]).read_text())
        assert own["test"] == cell["test"]
        assert (runs / "protonet" / cell["file"].replace(".json", "-tasks.npz")).exists()
    assert removable(runs / "protonet")


@pytest.mark.thorough
def test_cells_of_one_model_and_data_set_share_the_features_of_images(runs: Path) -> None:
    """Each test image passes a network once, whatever the cells; another checkpoint or other images have features of their own."""
    passed: list[int] = []

    def count(module: nn.Module, given: tuple[Tensor, ...], out: object) -> None:
        if isinstance(module, Conv4) and given[0].any():  # a new network is tried with empty images
            passed.append(len(given[0]))

    hook = register_module_forward_hook(count)
    try:
        varied = {"task.shots": [1, 2], "eval.seed": [0, 1, 2], "eval.tasks": 60}
        whole = metalearn.evaluate_grid("protonet", **varied)
        images = sum(passed)
        passed.clear()
        alone = [
            metalearn.evaluate(
                "protonet", "eval.tasks=60", *(f"{key}={value}" for key, value in cell["choices"].items())
            )
            for cell in whole["cells"]
        ]
    finally:
        hook.remove()
    assert images == 12 * 20, "test classes, and images of each"
    assert sum(passed) > 4 * images
    for cell, one in zip(whole["cells"], alone, strict=True):
        assert cell["test"]["accuracy"] == one["test"]["accuracy"]
        assert cell["test"]["loss"] == pytest.approx(one["test"]["loss"], abs=1e-5)


@pytest.mark.thorough
def test_a_cell_that_cannot_be_done_is_a_line_and_the_others_go_on(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("eval", "maml", "protonet", "task.ways=500,3", "algorithm.test_inner_steps=2,1") == 1
    captured = capsys.readouterr()
    cells = grid_of(runs / "maml")["cells"]
    assert [cell["status"] for cell in cells] == ["failed", "failed", "done", "done"] + 4 * ["failed"]
    assert cells[0]["error"].startswith("glyphs cannot serve the test tasks: task.ways=500")
    assert cells[6]["error"].startswith("no setting 'algorithm.test_inner_steps'")
    assert "without a score: 6 of 8 cells" in captured.out
    assert captured.err == ""


@pytest.mark.thorough
def test_classes_that_were_seen_are_refused_in_their_cells_alone(runs: Path) -> None:
    assert exit_code("eval", "protonet", "dataset.test_classes=12,25") == 1
    cells = grid_of(runs / "protonet")["cells"]
    assert [cell["status"] for cell in cells] == ["done", "failed"]
    assert "eval.allow_seen=true" in cells[1]["error"]
    assert exit_code("eval", "protonet", "dataset.test_classes=12,25", "eval.allow_seen=true") == 0
    assert [
        cell["test"].get("seen_classes")
        for cell in metalearn.evaluate_grid("protonet", **{"dataset.test_classes": [12, 25], "eval.allow_seen": True})[
            "cells"
        ]
    ] == [None, 5]
    assert exit_code("eval", "protonet", "dataset.test_classes=12,25") == 1, (
        "what was allowed once is not allowed for good"
    )


@pytest.mark.thorough
def test_a_killed_grid_keeps_its_cells_and_goes_on(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    original = evaluation.Evaluator.test

    def test(self: Any, run_dir: Path, config: dict[str, Any], *args: Any, **options: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(config["task"]["ways"])
        return original(self, run_dir, config, *args, **options)

    monkeypatch.setattr(evaluation.Evaluator, "test", test)
    assert exit_code("eval", "protonet", "task.ways=2,3,4,5") == 130
    stopped = grid_of(runs / "protonet")
    assert [cell["status"] for cell in stopped["cells"]] == ["done", "done", "pending", "pending"]
    done[:] = [0, 0, 0]
    assert exit_code("eval", "protonet", "task.ways=2,3,4,5") == 0
    assert done == [0, 0, 0, 4, 5], "only what was missing is computed"
    whole = grid_of(runs / "protonet")
    assert [cell["earlier"] for cell in whole["cells"]] == [True, True, False, False]
    assert scores(whole)[:2] == [cell["test"]["accuracy"] for cell in stopped["cells"][:2]]
    assert exit_code("eval", "protonet", "task.ways=2,3,4,5", "--fresh") == 0
    assert done[5:] == [2, 3, 4, 5]


@pytest.mark.thorough
def test_another_checkpoint_or_other_conditions_are_computed_anew(runs: Path) -> None:
    def ask(**settings: Any) -> list[bool]:
        return [
            cell["earlier"]
            for cell in metalearn.evaluate_grid("protonet", **{"task.ways": [2, 3], **settings})["cells"]
        ]

    assert ask() == [False, False]
    assert ask(device="cpu") == [True, True]
    assert ask(**{"eval.seed": 1}) == [False, False]
    assert ask(**{"eval.checkpoint": "last"}) == [False, False]
    shutil.copy("maml/best.pt", "protonet/kept.pt")
    shutil.copy("protonet/last.pt", "protonet/best.pt")
    assert ask() == [False, False]


def test_a_full_disk_costs_no_number(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_json(path: Path, obj: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory, "write_json", write_json)
    assert exit_code("eval", "protonet", "task.ways=2,3") == 1
    captured = capsys.readouterr()
    assert captured.out.count(" ± ") > 4
    assert captured.err.count("No space left on device") == 2
    assert "written to" not in captured.out


@pytest.mark.thorough
def test_csv_json_and_a_page(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["eval", "maml", "protonet", "task.ways=2,5", "task.shots=1,2"]
    assert exit_code(*ask, "--csv", "-", "--html", "grid.html") == 0
    text = capsys.readouterr().out.partition("written to: ")[0]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["algorithm"], row["ways"], row["shots"]) for row in rows] == [
        (name, ways, shots) for name in ("maml", "protonet") for ways in "25" for shots in "12"
    ]
    assert {row["transductive"] for row in rows} == {"True", "False"}
    assert exit_code(*ask, "--json", "-") == 0
    assert scores(json.loads(capsys.readouterr().out)) == [pytest.approx(float(row["score"])) for row in rows]
    page = Path("grid.html").read_text()
    for said in (
        "Test accuracy against shots",
        "Test accuracy against ways",
        "Test accuracy by inner step",
        "Calibration",
    ):
        assert said in page
    assert page.count("<svg") == 4
    assert "<script" not in page
    assert not any(word in page for word in ("src=", "href=", "url("))
    assert "maml ways=2" in page

    class Checked(HTMLParser):
        tables = 0

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tables += tag == "table"

    checked = Checked()
    checked.feed(page)
    assert checked.tables == 1


@pytest.mark.thorough
def test_transductive_and_other_numbers_are_told_apart(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("eval", "maml", "protonet", "task.ways=2,3") == 0
    said = capsys.readouterr().out
    assert "transductive: the queries of a task influence each other's predictions; do not rank" in said
    rows = [line.split() for line in said.splitlines() if line.startswith(("maml ", "protonet "))]
    assert {(row[0], "yes" in row) for row in rows} == {("maml", True), ("protonet", False)}
    assert exit_code("eval", "maml", "eval.transductive=true,false") == 0
    assert [
        cell["test"]["transductive"]
        for cell in json.loads(
            sorted((runs / "maml").glob("grid-*.json"), key=lambda file: file.stat().st_mtime)[-1].read_text()
        )["cells"]
    ] == [True, False]
    assert exit_code("eval", "protonet", "eval.transductive=true,false") == 1


def test_compare_shows_the_cells_as_rows(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("eval", "protonet", "task.ways=2,3", "task.shots=2") == 0
    capsys.readouterr()
    rows = metalearn.compare(runs / "protonet", evaluations=True)["rows"]
    assert {(row["task"]["ways"], row["task"]["shots"]) for row in rows} == {(5, 1), (2, 2), (3, 2)}


def test_wrong_calls_write_nothing(runs: Path) -> None:
    for settings in ({"task.ways": [5, 1]}, {"train.lr": [1, 2]}, {"task.wys": [1, 2]}):
        with pytest.raises(UserError):
            metalearn.evaluate_grid(runs / "protonet", **settings)
    assert exit_code("eval", "protonet", "maml", "./protonet") == 2
    assert not [*runs.glob("*/grid-*"), *runs.glob("*/eval-*")]
