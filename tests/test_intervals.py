"""Intervals: by hand, against the model written out, and against how often they hold."""

from __future__ import annotations

import math
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

from metalearn.intervals import interval95, interval95_of_classes, t95
from tests.scripts.load import load_script


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    return load_script("coverage")


@pytest.mark.parametrize(("degrees", "expected"), [(1, 12.7062), (2, 4.3027), (9, 2.2622), (999, 1.9623)])
def test_student_by_a_table(degrees: int, expected: float) -> None:
    assert t95(degrees) == pytest.approx(expected, abs=1e-4)


def test_interval_by_hand() -> None:
    per_task = np.array([0.0, 1.0, 1.0, 0.0, 1.0], dtype=np.float32)
    assert interval95(per_task) == pytest.approx(2.7764 * np.std(per_task, ddof=1) / np.sqrt(5), rel=1e-4)
    assert interval95([0.4, 0.6]) == pytest.approx(12.7062 * 0.1, rel=1e-4)
    assert math.isnan(interval95([0.5])), "one value says nothing about how much values differ"


def shared_by_hand(scores: np.ndarray, classes: np.ndarray) -> float:
    """The estimator with all matrices written out, [T, T]."""
    tasks = len(scores)
    each = (classes >= 0).sum(1)
    counts = np.stack([np.bincount(row[row >= 0], minlength=classes.max() + 1) for row in classes])  # [T, C]
    counts = counts * (each.mean() / each)[:, None]
    shared = (counts @ counts.T).astype(float)
    mean_off = np.eye(tasks) - 1 / tasks
    e, k = mean_off @ scores, mean_off @ shared @ mean_off
    moments = np.array([[np.trace(k @ k), np.trace(k)], [np.trace(k), tasks - 1]])
    of_class, rest = np.linalg.solve(moments, [e @ shared @ e, e @ e])
    of_class = max(of_class, 0.0)
    rest = max((e @ e - of_class * np.trace(k)) / (tasks - 1), 0.0)
    different = (shared.sum() - np.trace(shared)) / tasks / (tasks - 1)
    variance = np.var(scores, ddof=1) / tasks + of_class * different
    # variance = e' form e; of normal effects its variance is 2 tr(form cov form cov)
    inverse = np.linalg.inv(moments)
    form = mean_off / tasks / (tasks - 1) + different * (inverse[0, 0] * k + inverse[0, 1] * mean_off)
    product = form @ (of_class * k + rest * mean_off)
    freedom = variance**2 / np.trace(product @ product)
    used = int((counts.sum(0) > 0).sum())
    return t95(min(max(freedom, 4), used - 1)) * math.sqrt(variance)


@pytest.mark.parametrize(("classes", "tasks"), [(25, 80), (60, 40)])  # more tasks than classes, and fewer
@pytest.mark.parametrize("effect", [0.0, 0.3])
def test_the_interval_over_classes_is_that_of_its_model(classes: int, tasks: int, effect: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        chosen = rng.integers(0, classes, (tasks, 4))  # some are twice in a task
        scores = effect * rng.standard_normal(classes)[chosen].mean(1) + 0.1 * rng.standard_normal(tasks)
        assert interval95_of_classes(scores, chosen) == pytest.approx(shared_by_hand(scores, chosen), rel=1e-6)


def test_a_class_counts_for_less_in_a_task_of_many() -> None:
    rng = np.random.default_rng(5)
    for _ in range(5):
        chosen = np.stack([rng.permutation(40)[:9] for _ in range(120)])
        chosen[np.arange(9) >= rng.integers(2, 10, 120)[:, None]] = -1
        effects = np.where(chosen < 0, 0, rng.standard_normal(40)[chosen])
        scores = effects.sum(1) / (chosen >= 0).sum(1) + 0.1 * rng.standard_normal(120)
        assert interval95_of_classes(scores, chosen) == pytest.approx(shared_by_hand(scores, chosen), rel=1e-6)


def test_it_holds_the_mean_of_other_classes_where_ways_differ() -> None:
    """Of 200 draws of 40 classes, each with 300 tasks of 2 to 12 of them; that over tasks alone holds in far fewer."""
    rng, hold, hold_tasks = np.random.default_rng(6), 0, 0
    for _ in range(200):
        chosen = rng.random((300, 40)).argsort(1)[:, :12]
        chosen[np.arange(12) >= rng.integers(2, 13, 300)[:, None]] = -1
        effects = np.where(chosen < 0, 0, rng.standard_normal(40)[chosen])
        scores = effects.sum(1) / (chosen >= 0).sum(1) + 0.3 * rng.standard_normal(300)
        hold += abs(scores.mean()) <= interval95_of_classes(scores, chosen)
        hold_tasks += abs(scores.mean()) <= interval95(scores)
    assert hold >= 180
    assert hold_tasks < 120


def test_the_names_of_classes_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    chosen, scores = rng.integers(0, 30, (50, 5)), rng.random(50)
    renamed = rng.permutation(1000)[chosen]
    assert interval95_of_classes(scores, renamed) == pytest.approx(interval95_of_classes(scores, chosen), rel=1e-9)


def test_there_is_no_interval_where_classes_say_nothing(coverage: ModuleType) -> None:
    rng = np.random.default_rng(3)
    for classes, ways, tasks in ((9, 3, 50), (20, 11, 50), (20, 20, 50), (40, 5, 2)):
        chosen = coverage.choose(rng, classes, ways, tasks)
        assert math.isnan(interval95_of_classes(rng.random(tasks), chosen)), (classes, ways, tasks)
    apart = np.arange(60).reshape(12, 5)  # no two tasks share a class
    assert math.isnan(interval95_of_classes(rng.random(12), apart))
    alike = coverage.choose(rng, 30, 5, 50)
    assert interval95_of_classes(np.full(50, 0.9), alike) == 0


def test_over_classes_it_is_never_less_sure_than_over_tasks(coverage: ModuleType) -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        chosen, scores = coverage.choose(rng, 100, 5, 200), rng.random(200)
        assert interval95_of_classes(scores, chosen) >= interval95(scores)


@pytest.mark.thorough
@pytest.mark.parametrize(("classes", "ways", "tasks"), [(40, 5, 400), (100, 5, 1000), (100, 20, 200)])
def test_it_holds_the_mean_of_other_classes(coverage: ModuleType, classes: int, ways: int, tasks: int) -> None:
    """Of 100 draws of classes; that over tasks alone holds in far fewer."""
    world = coverage.WORLDS["typical"]
    found = coverage.row("typical", world, classes, ways, tasks, 100, world.mean(ways, 100_000))
    assert found.classes_hold >= 0.87
    assert found.tasks_hold < 0.75
    # Nor is it too wide: half its width is about 1.96 standard deviations of the mean over draws.
    assert 0.75 < found.over_classes / (1.96 * found.deviation) < 1.5


def test_scipy_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, metalearn.intervals, metalearn.sweeps.summary; assert 'scipy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
