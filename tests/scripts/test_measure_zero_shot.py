"""scripts/measure_zero_shot.py: what it measures, that it goes on where it stopped, and the tables that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts.load import load_script

PAGE = "before\n<!-- measured:begin -->\nold\n<!-- measured:end -->\nafter\n"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    script = load_script("measure_zero_shot")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "page.md").write_text(PAGE)
    rows = [f"this is {first} {second} {i},{first} {second}" for first in "abcd" for second in "efg" for i in range(8)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]))
    overrides = ("dataset=text", "dataset.root=texts.csv", "dataset.test_classes=4", "algorithm=protonet")
    small = ("train.steps=2", "backbone.buckets=32", "task.ways=2", "task.queries=2", "task.train.ways=3")
    for name, value in {
        "ROWS": {"mine": script.Row("text", "my texts", (*overrides, *small))},
        "WAYS": (2, 3),
        "SHOTS": (0, 1),
        "TASKS": 4,
        "SHARED": ("seed=0", "device=cpu", "task.shots=0", "train.val_tasks=2", "eval.tasks=4", "eval.pictures=0"),
        "RESULTS": tmp_path / "zero_shot.json",
        "PAGE": tmp_path / "page.md",
    }.items():
        monkeypatch.setattr(script, name, value)
    return script


def test_it_measures_each_cell_once_and_writes_the_tables(script: ModuleType, tmp_path: Path) -> None:
    script.main(["--runs", "runs"])
    rows = json.loads((tmp_path / "zero_shot.json").read_text())["measured"]
    assert [(row["ways"], row["shots"]) for row in rows] == [(2, 0), (2, 1), (3, 0), (3, 1)]
    assert all(row["tasks"] == 4 for row in rows)
    page = (tmp_path / "page.md").read_text().splitlines()
    first = page.index("| text, 3-way | 0-shot | 1-shot |")
    assert page[first + 2] == f"| my texts | {script.text(rows[2])} | {script.text(rows[3])} |"
    before = sorted((tmp_path / "runs").rglob("*.json"))
    script.main(["--runs", "runs", "--check"])
    script.main(["--runs", "runs"])
    assert sorted((tmp_path / "runs").rglob("*.json")) == before, "nothing is measured twice"
    (tmp_path / "page.md").write_text(PAGE)
    with pytest.raises(SystemExit, match="out of date"):
        script.main(["--check"])


def test_the_tables_in_the_documentation_are_up_to_date() -> None:
    load_script("measure_zero_shot").main(["--check"])
