"""scripts/bench_features.py: the rows that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.scripts.load import load_script


def test_each_case_is_timed_on_the_tasks_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("bench_features")
    small = (
        "algorithm=protonet",
        "backbone.filters=4",
        "dataset=glyphs",
        "dataset.classes=24",
        "dataset.val_classes=6",
    )
    drawn = (*small, "dataset.test_classes=6", "dataset.size=16")
    cases = [script.Case("drawn", drawn, features, 300) for features in ("memory", "none")]
    monkeypatch.setattr(script, "CASES", cases)
    monkeypatch.setattr(script, "RESULTS", tmp_path / "features.json")
    script.main(["--quick"])
    record = json.loads((tmp_path / "features.json").read_text())
    assert record["quick"]
    assert [(row["features"], row["tasks"], row["images"]) for row in record["rows"]] == [
        ("memory", 3, 120),
        ("none", 3, 120),
    ]
    assert all(row["cpu_seconds"] > 0 and row["seconds"] > 0 for row in record["rows"])
