"""How a step grows: sizes, exponents, and which axes are measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metalearn.bench import growth
from metalearn.bench.growth import SUBJECTS, Axis, Subject
from metalearn.bench.harness import Bench

WAYS = Axis("ways", "task.train.ways", (5, 10, 20))
SUBJECT = Subject("Some steps; 8 tasks", ("algorithm=maml", "task.train.ways=7"), (WAYS,))


def bench(*cases: str) -> Bench:
    return Bench(lambda *overrides: {"overrides": overrides}, 9, False, torch.device("cpu"), cases=cases)


class Step:
    """The steps of one configuration, whose time is not measured here."""

    def __init__(self, config: dict[str, Any]) -> None:
        (self.ways,) = (int(each.partition("=")[2]) for each in config["overrides"] if each.startswith(WAYS.key))
        self.task_chunk = self.ways // 5

    def step(self) -> None:
        raise AssertionError("interleave is replaced")


def measured(monkeypatch: pytest.MonkeyPatch, with_memory: bool) -> dict[str, Any]:
    """A step that takes ways ** 2 ms and 3 * ways MiB."""
    asked = []

    def interleave(actions: dict[str, Any], rounds: int, device: torch.device) -> dict[str, list[float]]:
        assert rounds == 5, "fewer than the nine that a ratio has"
        return {size: [0.001 * int(size) ** 2] * 3 for size in actions}

    def peak(config: dict[str, Any], loop: str | None) -> dict[str, float] | None:
        asked.append(config["overrides"])
        return {"mib": 3.0 * Step(config).ways} if with_memory else None

    monkeypatch.setattr(growth, "Ours", Step)
    monkeypatch.setattr(growth, "interleave", interleave)
    monkeypatch.setattr(growth.memory, "peak", peak)
    row = growth._measure(bench(), ("dataset=glyphs",), SUBJECT, WAYS)
    assert asked[1] == (
        *("dataset=glyphs", "algorithm=maml", "task.train.ways=10"),
        *("train.task_chunk=2", "device=cpu"),
    ), "the axis' own value, and the chunk that was chosen before"
    return row


def test_exponents_of_time_and_memory_over_the_sizes_of_an_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    row = measured(monkeypatch, with_memory=True)
    assert row["seconds_exponent"] == pytest.approx(2.0)
    assert row["mib_exponent"] == pytest.approx(1.0)
    (table,) = growth.tables({"rows": [row]})
    assert table.rows == [("ways", "5 10 20", "25.0 100.0 400.0", "2.00", "15 30 60", "1.00", "1 2 4")]


def test_where_memory_cannot_be_measured_its_cells_stay_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    row = measured(monkeypatch, with_memory=False)
    (table,) = growth.tables({"rows": [row]})
    assert table.rows[0][4:6] == ("", "")


def test_a_case_may_name_a_subject_or_an_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(bench: Bench, data: tuple[str, ...], subject: Subject, axis: Axis) -> dict[str, Any]:
        return {"label": subject.label, "axis": axis.name}

    def axes(*cases: str) -> list[tuple[str, str]]:
        return [(found["label"], found["axis"]) for found in growth.measure(bench(*cases))["rows"]]

    monkeypatch.setattr(growth, "_measure", row)
    monkeypatch.setattr(growth, "images", lambda bench: ())
    assert axes() == [(subject.label, axis.name) for subject in SUBJECTS for axis in subject.axes]
    assert axes("ProtoNet") == [(SUBJECTS[1].label, axis.name) for axis in SUBJECTS[1].axes]
    assert axes(": ways") == [(subject.label, "ways") for subject in SUBJECTS]
    assert axes(f"{SUBJECTS[0].label}: inner steps") == [(SUBJECTS[0].label, "inner steps")]
