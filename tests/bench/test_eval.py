"""The table of evaluation: which algorithms it has, on how many tasks each is measured, and what its seconds are of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metalearn.bench import eval as bench_eval
from metalearn.bench.harness import Bench
from metalearn.engine.able import learners
from metalearn.engine.build import Parts, assemble
from metalearn.errors import UserError
from metalearn.kinds import CLASSIFICATION
from metalearn.tasks import TaskShape
from tests.compose import FEW_GLYPHS, compose

TINY = (*FEW_GLYPHS, "dataset=glyphs", "device=cpu", "backbone.filters=4", "task=5way_1shot", "eval.task_chunk=10")
TEST_IMAGES = 12 * 20  # FEW_GLYPHS' test classes, with 20 images each


class Clock:
    """Time that moves only when told to: of the wall, and twice that of the processor, as on two threads."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return 2 * self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(bench_eval, "time", made)
    return made


def evaluated(clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds_per_task: float) -> list[int]:
    """Lets a task take so long, and the first call an hour more; the numbers of tasks of each call are put into the list."""
    calls: list[int] = []

    def evaluate(algorithm: Any, source: Any, shape: TaskShape, tasks: int, chunk: int, stepwise: bool) -> None:
        assert (chunk, stepwise) == (10, False)
        clock.now += tasks * seconds_per_task + (0 if calls else 3600)
        calls.append(tasks)

    monkeypatch.setattr(bench_eval, "evaluate", evaluate)
    return calls


def parts_of(algorithm: str) -> Parts:
    return assemble(compose(*TINY, f"algorithm={algorithm}"))


@pytest.mark.parametrize(
    ("seconds_per_task", "tasks"),
    [
        (0.001, 1000),  # all of them: they take a second
        (0.021, 230),  # 23 chunks of 0.21 s in five seconds
        (2.0, 10),  # one chunk takes longer than that
    ],
)
def test_a_slow_learner_is_measured_on_as_many_whole_chunks_as_five_seconds_hold(
    seconds_per_task: float, tasks: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = evaluated(clock, monkeypatch, seconds_per_task)
    found, taken = bench_eval._evaluated(parts_of("fomaml"))
    assert (found, calls[-1]) == (tasks, tasks)
    assert taken.wall == pytest.approx(tasks * seconds_per_task), "without the first call, which warms up"
    assert taken.processor == pytest.approx(2 * taken.wall)


def test_where_images_are_embedded_once_all_tasks_are_measured_however_long_they_take(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(clock, monkeypatch, 2.0)
    tasks, taken = bench_eval._evaluated(parts_of("protonet"))
    assert tasks == 1000
    assert taken.wall == pytest.approx(2000)


@pytest.mark.parametrize(
    ("algorithm", "images"),
    [
        ("fomaml", 1000 * (5 + 5 * 15)),  # those of every task
        ("protonet", TEST_IMAGES),  # each one once
    ],
)
def test_the_backbones_passes_are_of_the_images_of_all_tasks_or_of_the_split(
    algorithm: str, images: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(algorithm)

    def infer(backbone: torch.nn.Module, x: Tensor) -> None:
        assert not torch.is_grad_enabled()
        assert not backbone.training
        clock.now += 0.25 * len(x)

    monkeypatch.setattr(bench_eval, "infer", infer)
    assert bench_eval._passes(parts) == pytest.approx(0.25 * images)


def bench(*cases: str) -> Bench:
    return Bench(lambda *overrides: compose(*overrides, *TINY), 1, True, torch.device("cpu"), cases=cases)


def test_seconds_are_those_of_a_thousand_tasks_also_where_fewer_were_measured(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(clock, monkeypatch, 0.021)
    monkeypatch.setattr(bench_eval, "_passes", lambda parts: 7.5)
    (row,) = bench_eval.measure(bench("fomaml"))["rows"]
    assert row["seconds"] == pytest.approx(21)
    assert row["processor"] == pytest.approx(42)
    (table,) = bench_eval.tables({"dataset": "glyphs", "rows": [row]})
    assert table.rows == [("fomaml", "conv4", "21.0", "42.0", "7.5", "230", "yes")]


def test_a_tiny_network_is_evaluated_in_earnest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_eval, "_SECONDS", 0.0)
    (row,) = bench_eval.measure(bench("ridge"))["rows"]
    assert row["tasks"] == 1000
    assert min(row["seconds"], row["processor"], row["passes"]) > 0
    (row,) = bench_eval.measure(bench("maml"))["rows"]
    assert row["tasks"] == 10


def asked_for(monkeypatch: pytest.MonkeyPatch, *cases: str) -> list[str]:
    """The rows that a call with these --case has, without measuring them."""
    monkeypatch.setattr(bench_eval, "_row", lambda config: {})
    given = Bench(lambda *overrides: {"names": {"dataset": "glyphs"}}, 1, True, torch.device("cpu"), cases=cases)
    return [row["label"] for row in bench_eval.measure(given)["rows"]]


def test_every_algorithm_that_learns_classes_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_eval, "learners", lambda kind: [*learners(kind), "of_a_plug_in"])
    found = asked_for(monkeypatch)
    assert found == [*learners(CLASSIFICATION), "of_a_plug_in"]
    assert {"finetune", "knn", "metaoptnet", "snail"} < set(found)
    assert not {"cnp", "bayesian"} & set(found), "they learn functions"


def test_a_case_that_is_a_name_means_this_algorithm_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_for(monkeypatch, "maml") == ["maml"]
    assert asked_for(monkeypatch, "knn", "maml") == ["knn", "maml"]
    assert asked_for(monkeypatch, "baseline") == ["baseline"]
    assert asked_for(monkeypatch, "baselin", "maml") == ["baseline", "baselinepp", "maml"], "a part of two names"


def test_an_algorithm_that_cannot_be_evaluated_is_named_below_the_table_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def row(config: Any) -> dict[str, Any]:
        raise UserError("it takes features of a pre-trained backbone")

    monkeypatch.setattr(bench_eval, "_row", row)
    record = bench_eval.measure(bench("knn"))
    (table,) = bench_eval.tables(record)
    assert not table.rows
    assert table.note.endswith(" knn: it takes features of a pre-trained backbone.")


def test_rows_measured_at_different_times_stand_in_one_table_by_name() -> None:
    rows = [
        {"label": label, "backbone": "conv4", "seconds": 1.0, "tasks": 1000, "transductive": False}
        for label in ("maml", "knn", "snail", "boil")
    ]
    (table,) = bench_eval.tables({"dataset": "omniglot", "rows": rows})
    assert [row[0] for row in table.rows] == ["boil", "knn", "maml", "snail"]
    assert {row[3:5] for row in table.rows} == {("not measured", "not measured")}, "columns that older records lack"
