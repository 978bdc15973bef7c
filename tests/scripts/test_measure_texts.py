"""scripts/measure_texts.py: what it measures, that it goes on where it stopped, and the table that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts.load import load_script

PAGE = "before\n<!-- texts:begin -->\nold\n<!-- texts:end -->\nafter\n"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts_file: Path) -> ModuleType:
    script = load_script("measure_texts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "page.md").write_text(PAGE)
    few = ("task.queries=2", "task.train.queries=2", "task.train.ways=3", "train.val_tasks=2", "eval.tasks=4")
    small = ("backbone.buckets=64", "backbone.hidden=[8]", "train.steps=2")
    for name, value in {
        "SHAPES": ((2, 1), (3, 1)),
        "SHARED": ("dataset=text", f"dataset.root={texts_file}", "seed=0", "device=cpu", "eval.pictures=0", *few),
        "LEARNERS": {
            "protonet": script.Learner("ProtoNet", ("algorithm=protonet", *small)),
            "anil": script.Learner("ANIL", ("algorithm=anil", *small), own_ways=True),
        },
        "RESULTS": tmp_path / "texts.json",
        "PAGE": tmp_path / "page.md",
    }.items():
        monkeypatch.setattr(script, name, value)
    return script


def test_it_measures_each_cell_once(script: ModuleType, tmp_path: Path) -> None:
    script.main(["--runs", "runs"])
    rows = json.loads((tmp_path / "texts.json").read_text())["measured"]
    assert [(row["learner"], row["ways"]) for row in rows] == [
        ("protonet", 2),
        ("protonet", 3),
        ("anil", 2),
        ("anil", 3),
    ]
    assert sorted(each.name for each in (tmp_path / "runs").iterdir()) == ["anil-2", "anil-3", "protonet-2"]
    page = (tmp_path / "page.md").read_text().splitlines()
    assert page[2] == "|  | 2-way 1-shot | 3-way 1-shot |"
    assert page[4] == f"| ProtoNet | {script.text(rows[0])} | {script.text(rows[1])} |"
    before = (tmp_path / "texts.json").read_text()
    script.main(["--runs", "runs", "--check"])
    script.main(["--runs", "runs"])
    assert (tmp_path / "texts.json").read_text() == before, "nothing is measured twice"
    (tmp_path / "page.md").write_text(PAGE)
    with pytest.raises(SystemExit, match="out of date"):
        script.main(["--check"])
