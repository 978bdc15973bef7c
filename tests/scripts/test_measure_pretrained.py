"""scripts/measure_pretrained.py: what it measures, that it goes on where it stopped, and the tables that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts.load import load_script

PAGE = "before\n<!-- measured:begin -->\nold\n<!-- measured:end -->\nafter\n"
GLYPHS = ("dataset=glyphs", "dataset.classes=24", "dataset.val_classes=6", "dataset.test_classes=6", "dataset.size=16")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    script = load_script("measure_pretrained")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "page.md").write_text(PAGE)
    scratch = {"learner": "protonet", "trained": "drawn", "tested": "drawn", "shots": 1, "accuracy": 0.5}
    rows = [scratch | {"ci95": 0.01, "ci95_classes": 0.02}, scratch | {"tested": "other", "ci95": 0.3}]
    (tmp_path / "datasets.json").write_text(json.dumps({"measured": rows}))
    weights = ("backbone.weights=none", "backbone.pretrained_on=imagenet1k")
    for name, value in {
        "TESTED": {"drawn": script.DataSet(GLYPHS, 2)},
        "LEARNERS": {"knn": script.Learner("k-NN", ("algorithm=knn",), (4, 4))},
        "LARGER": {"drawn": 40},
        "AT_THE_LARGER": ("knn",),
        "SIZE": 32,
        "FROZEN": ("backbone=torchvision", "backbone.name=mobilenet_v2", *weights),
        "SHARED": ("seed=0", "device=cpu", "train.val_tasks=2", "eval.tasks=4", "eval.pictures=0"),
        "RESULTS": tmp_path / "pretrained.json",
        "PAGE": tmp_path / "page.md",
        "SPEED": tmp_path / "features.json",
        "FROM_SCRATCH": tmp_path / "datasets.json",
    }.items():
        monkeypatch.setattr(script, name, value)
    return script


@pytest.mark.thorough
def test_it_measures_each_row_once_and_sets_those_from_scratch_below(script: ModuleType, tmp_path: Path) -> None:
    script.main(["--runs", "runs"])
    rows = json.loads((tmp_path / "pretrained.json").read_text())["measured"]
    assert [(row["size"], row["shots"]) for row in rows] == [(32, 1), (32, 5), (40, 1), (40, 5)]
    assert all(row["tasks"] == 4 and row["seen_in_pretraining"]["of"] == 6 for row in rows)
    page = (tmp_path / "page.md").read_text().splitlines()
    one = page.index("5-way 1-shot:")
    assert page[one + 4 : one + 7] == [
        f"| k-NN, 4 tasks | {script.text(rows[0])} |",
        f"| k-NN, 40 pixels | {script.text(rows[2])} |",
        "| ProtoNet, from scratch | 50.0 ± 1.0/2.0 |",
    ]
    assert "| drawn | none of 6 classes, by name |" in page
    before = sorted((tmp_path / "runs").rglob("*.json"))
    script.main(["--runs", "runs", "--check"])
    script.main(["--runs", "runs"])
    assert sorted((tmp_path / "runs").rglob("*.json")) == before, "nothing is measured twice"
    (tmp_path / "page.md").write_text(PAGE)
    with pytest.raises(SystemExit, match="out of date"):
        script.main(["--check"])


def test_small_classes_take_queries_from_validation_alone(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "LEARNERS", {"knn": script.Learner("k-NN", ("algorithm=knn",), (4, 4), each=True)})
    monkeypatch.setattr(script, "VALIDATED", {"drawn": 1})
    calls = []
    real = script.metalearn.train
    monkeypatch.setattr(script.metalearn, "train", lambda *words: (calls.append(words), real(*words)))
    monkeypatch.setattr(script, "LARGER", {})
    script.main(["--runs", "runs", "--shots", "5"])
    (words,) = calls
    assert {"task.shots=5", "task.queries=1"} < set(words)
    (record,) = (json.loads(file.read_text()) for file in (tmp_path / "runs").rglob("eval-*.json"))
    (row,) = json.loads((tmp_path / "pretrained.json").read_text())["measured"]
    assert row["accuracy"] == record["test"]["accuracy"]
    assert record["task"]["queries"] == 2, "the data set's own, as all other rows have them"


def test_a_reproduction_gives_the_row_that_is_asked_for(script: ModuleType, tmp_path: Path) -> None:
    of = {"ci95": 0.1, "ci95_classes": None}
    rows = [{"name": "transductive", "ours": 99.0, **of}, {"name": "not transductive", "ours": 98.0, **of}]
    (tmp_path / "mine_5w1s.json").write_text(json.dumps({"rows": rows}))
    script.REPRODUCED, script.SCRATCH_OMNIGLOT = tmp_path, {"maml": (("mine_5w1s", "mine_5w5s"), "not transductive")}
    found = script.from_scratch()
    assert found["maml", "omniglot", 1]["accuracy"] == pytest.approx(0.98)
    assert ("maml", "omniglot", 5) not in found


def test_the_speed_is_shown_where_it_was_measured(script: ModuleType, tmp_path: Path) -> None:
    assert script.speed() == []
    row = {"title": "drawn", "features": "none", "tasks": 2000, "cpu_seconds": 8.0, "seconds": 9.0, "load": 3.2}
    (tmp_path / "features.json").write_text(json.dumps({"rows": [row]}))
    assert "| drawn | embeds its images anew | 2,000 | 4.00 | 8.0 | 9.0 | 3 |" in script.speed()


def test_the_table_in_the_documentation_is_up_to_date() -> None:
    load_script("measure_pretrained").main(["--check"])
