"""Scores of groups of test tasks, and what is said of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from metalearn.data.classes import ClassId
from metalearn.engine.evaluate import Scores
from metalearn.intervals import interval95, interval95_of_classes
from metalearn.report.results import _result_lines
from metalearn.runs import tested
from metalearn.runs.groups import grouped, means


def scores(**about: tuple[Any, ...]) -> Scores:
    return Scores(torch.tensor([[0.1] * 6, [0.2, 0.4, 0.6, 0.8, 1.0, 0.3]]), [0, 1], torch.zeros(6), {}, about=about)


def test_numbers_fall_into_ranges_in_ascending_order() -> None:
    found = grouped(scores(ways=(12, 5, 9, 20, 1000, 1), shots=(0.0, 1.4, 1.6, 4.4, 4.6, 499.6)))
    assert list(found["ways"]) == ["1", "5-9", "10-19", "20-49", "500 or more"]
    assert list(found["shots"]) == ["0", "1", "2-4", "5-9", "500 or more"]
    group = found["ways"]["5-9"]
    assert group.score == pytest.approx(0.5)
    assert group.ci95 == pytest.approx(interval95([0.4, 0.6]), rel=1e-5)
    assert group.tasks == 2
    assert group.chance == pytest.approx((1 / 5 + 1 / 9) / 2)
    assert found["ways"]["1"].ci95 is None, "one task has no interval"


def test_names_are_groups_with_a_mean_in_which_each_counts_the_same() -> None:
    tasks = scores(source=("b", "a", "b", "b", "b", "a"))
    found = grouped(tasks)
    assert list(found["source"]) == ["b", "a"]
    assert found["source"]["b"].score == pytest.approx(0.65)
    assert found["source"]["a"].score == pytest.approx(0.35)
    assert found["source"]["a"].chance is None, "all tasks have the same"
    mean = means(tasks, found)["source"]
    assert mean.score == pytest.approx(0.5)
    assert mean.tasks == 6
    widths = [group.ci95 for group in found["source"].values() if group.ci95 is not None]
    assert mean.ci95 == pytest.approx(math.hypot(*widths) / 2)
    alone = scores(source=("b", "a", "a", "a", "a", "a"))
    assert means(alone, grouped(alone))["source"].ci95 is None
    assert means(scores(ways=(2, 3, 4, 5, 6, 7)), grouped(scores(ways=(2, 3, 4, 5, 6, 7)))) == {}


def test_they_stand_in_the_results_and_on_the_console() -> None:
    tasks = scores(ways=(5, 5, 5, 10, 10, 10), source=("a", "b") * 3)
    entry = tested.TestRecord.of(tasks, transductive=False, checkpoint="best", step=3).to_json()
    assert entry["chance"] == pytest.approx(0.15)
    assert entry["groups"]["ways"]["5-9"] == {
        "accuracy": pytest.approx(0.4),
        "ci95": pytest.approx(interval95([0.2, 0.4, 0.6])),
        "ci95_classes": None,
        "tasks": 3,
        "chance": pytest.approx(0.2),
    }
    assert list(entry["groups"]["source"]) == ["a", "b"]
    assert entry["mean_of_groups"]["source"]["accuracy"] == pytest.approx(0.55)
    task = {"ways": "varying", "shots": "varying", "queries": "varying", "min_ways": 5, "max_ways": 10}
    first, *lines = _result_lines(tasks.kind, task, entry)
    assert first.startswith("test 5- to 10-way varying-shot: 55.00 ± ")
    assert "mean chance 15.00 %" in first
    assert lines[1].startswith("by ways: 5-9 40.00 ± ")
    assert "(3 tasks, chance 20.0 %), 10-19 70.00 ± " in lines[1]
    assert lines[2].startswith("by source: a 60.00 ± ")
    assert ", mean 55.00 ± " in lines[2]


def test_sources_are_no_draw_of_classes() -> None:
    """A source that is easier than the other makes no class look easier than others of its source."""
    rng = np.random.default_rng(0)
    classes = np.stack([rng.permutation(20)[:3] + 20 * (task % 2) for task in range(200)])
    values = (
        0.5 * (np.arange(200) % 2) + 0.1 * rng.standard_normal(40)[classes].mean(1) + 0.01 * rng.standard_normal(200)
    )
    ids = tuple(ClassId("set", f"class{number}") for number in range(40))
    score = torch.from_numpy(values).float()
    about = {"source": ("easy", "hard") * 100}
    tasks = Scores(score[None], [0], score, {}, classes=torch.from_numpy(classes), class_ids=ids, about=about)
    width = tasks.ci95_classes(score)
    halves = [interval95_of_classes(score[part::2], classes[part::2]) for part in (0, 1)]
    assert width == pytest.approx(math.hypot(*halves) / 2)
    assert width < interval95_of_classes(score, classes) / 3
    found = grouped(tasks)
    assert found["source"]["easy"].ci95_classes == pytest.approx(halves[0])
    assert means(tasks, found)["source"].ci95_classes == pytest.approx(width)


def test_a_group_of_one_task_is_shown_without_an_interval() -> None:
    tasks = scores(ways=(5, 5, 5, 10, 10, 30))
    entry = tested.TestRecord.of(tasks, transductive=False, checkpoint="best", step=3).to_json()
    task = {"ways": "varying", "shots": 1, "queries": 5, "min_ways": 5, "max_ways": 30}
    assert _result_lines(tasks.kind, task, entry)[2].endswith("20-49 30.00 % (1 task, chance 3.3 %)")


def test_tasks_of_one_size_and_source_have_no_groups() -> None:
    entry = tested.TestRecord.of(scores(), transductive=False, checkpoint="best", step=3).to_json()
    assert not {"groups", "mean_of_groups", "chance"} & set(entry)
