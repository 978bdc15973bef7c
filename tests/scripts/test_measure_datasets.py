"""scripts/measure_datasets.py: what it trains and tests, that it goes on where it stopped, and the tables that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from metalearn.tasks import Examples
from tests.scripts.load import load_script

PAGE = "before\n<!-- measured:begin -->\nold\n<!-- measured:end -->\nafter\n"
GLYPHS = ("dataset=glyphs", "dataset.classes=24", "dataset.val_classes=6", "dataset.test_classes=8")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    script = load_script("measure_datasets")
    sets = {
        "small": script.DataSet((*GLYPHS, "dataset.size=16"), 3),
        "large": script.DataSet((*GLYPHS, "dataset.size=20", "dataset.seed=1"), 2),
    }
    tiny = ("train.steps=2", "train.val_every=2", "backbone.filters=4", "task.train.ways=5", "train.task_chunk=1")
    shared = ("seed=0", "device=cpu", "train.val_tasks=2", "eval.tasks=4")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    for name, value in {
        "SETS": sets,
        "LEARNERS": {"protonet": ("algorithm=protonet", *tiny)},
        "SHARED": shared,
        "TASKS": 4,
        "RESULTS": tmp_path / "datasets.json",
        "PAGE": tmp_path / "page.md",
    }.items():
        monkeypatch.setattr(script, name, value)
    return script


@pytest.mark.thorough
def test_it_measures_every_pair_once_and_writes_the_tables(script: ModuleType, tmp_path: Path) -> None:
    script.main(["--runs", "runs"])
    rows = json.loads((tmp_path / "datasets.json").read_text())["measured"]
    found = {(row["learner"], row["trained"], row["tested"], row["shots"]) for row in rows}
    here = {(learner, name, name, k) for learner in (script.PIXELS, "protonet") for name in script.SETS for k in (1, 5)}
    assert found == here | {("protonet", "small", "large", 1), ("protonet", "large", "small", 1)}
    (across,) = (row for row in rows if row["trained"] == "small" and row["tested"] == "large")
    assert across["images"] == {"shape": [1, 20, 20], "as": [1, 16, 16]}
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("before\n<!-- measured:begin -->\n5-way 1-shot")
    assert page.endswith("<!-- measured:end -->\nafter\n")
    assert f"| small | {script.text(next(row for row in rows if row['learner'] == 'protonet'))} |" in page
    script.main(["--runs", "runs", "--check"])
    before = sorted((tmp_path / "runs").rglob("*.json"))
    script.main(["--runs", "runs"])
    assert sorted((tmp_path / "runs").rglob("*.json")) == before, "nothing is measured twice"
    (tmp_path / "page.md").write_text(PAGE)
    with pytest.raises(SystemExit, match="out of date"):
        script.main(["--check"])


def test_the_nearest_image_decides(script: ModuleType) -> None:
    support = Examples(
        torch.tensor([[[0.0, 0.0], [9.0, 9.0], [5.0, 5.0], [6.0, 6.0]]]), torch.tensor([[0, 0, 1, 1]]), 2
    )
    logits = script.Nearest().predict(support, torch.tensor([[[1.0, 0.0], [8.0, 8.5], [5.2, 5.0], [7.0, 7.0]]]))
    assert logits.argmax(-1).tolist() == [[0, 0, 1, 1]]


def test_the_table_in_the_documentation_is_up_to_date() -> None:
    load_script("measure_datasets").main(["--check"])
