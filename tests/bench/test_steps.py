"""The table of steps: what is measured of a case beside its time, and what its cells come to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metalearn.bench import steps
from metalearn.bench.harness import Bench


def row_of(label: str) -> dict[str, Any]:
    ours, theirs = ({"median": seconds, "lower": seconds, "upper": seconds} for seconds in (0.003, 0.010))
    ratio = {"median": 3.3, "lower": 3.2, "upper": 3.4}
    data = {"ours": 0.001, "theirs": 0.004}
    return {
        "label": label,
        "ours": ours,
        "theirs": theirs,
        "ratio": ratio,
        "data": data,
        "task_chunk": 8,
        "choice_seconds": 1.25,
    }


def measured(monkeypatch: pytest.MonkeyPatch, quick: bool) -> tuple[dict[str, Any], list[tuple[Any, str | None]]]:
    """The record of Reptile's and ProtoNet's rows, and of what memory was asked for: overrides, and whose loop."""
    asked: list[tuple[Any, str | None]] = []

    def peak(config: dict[str, Any], loop: str | None) -> dict[str, Any]:
        asked.append((config["overrides"], loop))
        mib = 30.0 if loop is None else 60.0
        return {"mib": mib, "mib_early": mib / 1.25, "steps": 4, "seconds": 0.002}

    monkeypatch.setattr(steps, "_measure", lambda bench, case, data, files: row_of(case.label))
    monkeypatch.setattr(steps, "images", lambda bench: ("dataset=glyphs",))
    monkeypatch.setattr(steps, "image_files", lambda config: None)
    monkeypatch.setattr(steps.memory, "peak", peak)
    cases = ("Reptile", "ProtoNet")
    bench = Bench(lambda *overrides: {"overrides": overrides}, 3, quick, torch.device("cpu"), cases=cases)
    return steps.measure(bench), asked


def test_memory_is_that_of_the_chunk_that_was_chosen_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    record, asked = measured(monkeypatch, quick=False)
    assert [loop for _, loop in asked] == [None, "ReptileLoop", None, "PrototypeLoop"]
    assert all("train.task_chunk=8" in overrides for overrides, _ in asked), "choosing would hold memory before"
    assert all(row["memory"]["theirs"]["mib"] == 60 for row in record["rows"])


def test_a_quick_call_measures_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    record, asked = measured(monkeypatch, quick=True)
    assert not asked
    (row,) = record["rows"]
    assert row["label"].startswith("ProtoNet"), "Reptile is not among the few cases"
    (table,) = steps.tables(record)
    assert table.title == "One meta-training step, data included"


def test_the_ratio_without_data_is_of_what_making_tasks_leaves_of_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps.without_data(row_of("a case")) == pytest.approx((10 - 4) / (3 - 1))
    times, memory = steps.tables(measured(monkeypatch, quick=False)[0])
    assert times.rows[0][1:] == ("3.0", "10.0", "3.3 (3.2 to 3.4)", "4.0", "3.0", "8", "1.2")
    assert memory.rows[0][1:] == ("30", "60", "0.50", "25 %", "25 %", "4, 4", "2.0", "2.0")
