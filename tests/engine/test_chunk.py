"""`train.task_chunk=auto`: measured once, remembered, shared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metalearn.data.base import TaskSource
from metalearn.data.images import ImageClasses
from metalearn.engine import chunk as task_chunk
from metalearn.engine.build import build_algorithm
from metalearn.engine.chunk import choose_task_chunk
from metalearn.engine.gradient import meta_gradient
from metalearn.tasks import TaskBatch, TaskShape
from tests.compose import SMALL, compose

Source = Callable[..., TaskSource]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path))
    return tmp_path


def test_a_number_is_taken_as_it_is(easy: ImageClasses, source: Source, empty_cache: Path) -> None:
    config = compose("algorithm=maml", *SMALL, "train.task_chunk=3")
    algorithm = build_algorithm(config, easy)
    assert choose_task_chunk(config, algorithm, source().tasks(0, 8, TaskShape(5, 1, 5)), meta_gradient) == 3
    assert choose_task_chunk(config, algorithm, source().tasks(0, 2, TaskShape(5, 1, 5)), meta_gradient) == 2
    assert not list(empty_cache.iterdir())

    def must_not_measure(*_: object) -> None:
        pytest.fail("a number needs no measurement, of the memory neither")

    assert choose_task_chunk(config, algorithm, source().tasks(0, 8, TaskShape(5, 1, 5)), must_not_measure) == 3


def test_slow_steps_are_measured_once(
    easy: ImageClasses, source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = compose("algorithm=protonet", *SMALL)
    algorithm, tasks, tried = build_algorithm(config, easy), source().tasks(0, 6, TaskShape(5, 1, 5)), []
    clock = [0.0]  # seconds

    def slow(_: object, batch: TaskBatch, size: int, precision: str) -> None:
        tried.append((batch.tasks, size))
        clock[0] += batch.tasks * (0.01 if size == 4 else 0.02)

    monkeypatch.setattr("metalearn.engine.chunk.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(task_chunk, "_SECONDS", 0.17)
    with caplog.at_level("INFO", "metalearn"):
        assert choose_task_chunk(config, algorithm, tasks, slow) == 4
    assert tried[0] == (1, 1), "what one task takes of the memory"
    assert set(tried[1:]) == {(1, 1), (4, 4)}, "one chunk of each size; the six tasks would have taken too long"
    assert tried.count((4, 4)) == 2, "once to warm up, once for its time"
    on_console = [record.message for record in caplog.records if record.name == "metalearn"]
    assert on_console == ["measuring train.task_chunk: how many of 6 tasks share a backward pass"]
    assert "task_chunk: 4 of 6 tasks per backward pass" in caplog.text


def test_measured_once_and_changing_nothing(
    easy: ImageClasses, source: Source, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose("algorithm=protonet", *SMALL)
    algorithm, tasks = build_algorithm(config, easy), source().tasks(0, 6, TaskShape(5, 1, 5))
    before = {key: value.clone() for key, value in algorithm.state_dict().items()}
    chosen = choose_task_chunk(config, algorithm, tasks, meta_gradient)
    assert chosen in (1, 4, 6)
    assert all(torch.equal(before[key], value) for key, value in algorithm.state_dict().items())
    assert all(p.grad is None for p in algorithm.parameters())

    def must_not_measure(_: object, batch: TaskBatch, size: int, precision: str) -> None:
        assert batch.tasks == 1, "what one task takes of the memory is looked at each time, its speed is not"

    assert choose_task_chunk(config, algorithm, tasks, must_not_measure) == chosen
    assert len(list((empty_cache / "task_chunk").iterdir())) == 1


def test_the_fastest_wins_and_the_first_to_write_decides(easy: ImageClasses, source: Source, empty_cache: Path) -> None:
    import time

    config = compose("algorithm=protonet", *SMALL)
    algorithm, tasks = build_algorithm(config, easy), source().tasks(0, 6, TaskShape(5, 1, 5))

    def slow_unless_whole(_: object, batch: TaskBatch, size: int, precision: str) -> None:
        time.sleep(0.0 if size == 6 else 0.01 * batch.tasks)

    assert choose_task_chunk(config, algorithm, tasks, slow_unless_whole) == 6
    (file,) = (empty_cache / "task_chunk").iterdir()
    file.write_text(json.dumps({"task_chunk": 4}))
    assert choose_task_chunk(config, algorithm, tasks, slow_unless_whole) == 4
    file.write_text("damaged")
    assert choose_task_chunk(config, algorithm, tasks, slow_unless_whole) == 6


def test_sizes_that_run_out_of_memory_are_left_out(easy: ImageClasses, source: Source) -> None:
    import time

    config = compose("algorithm=protonet", *SMALL)
    algorithm, tasks, tried = build_algorithm(config, easy), source().tasks(0, 16, TaskShape(5, 1, 5)), []

    def small_memory(_: object, batch: TaskBatch, size: int, precision: str) -> None:
        tried.append(size)
        if size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        time.sleep(0.0 if size == 4 else 0.01 * batch.tasks)

    assert choose_task_chunk(config, algorithm, tasks, small_memory) == 4
    assert (tried.count(8), tried.count(16)) == (1, 0), "once was enough, and larger ones need more"


def test_a_size_that_is_much_slower_ends_the_search(easy: ImageClasses, source: Source) -> None:
    import time

    config = compose("algorithm=protonet", *SMALL)
    algorithm, tasks, tried = build_algorithm(config, easy), source().tasks(0, 32, TaskShape(5, 1, 5)), []

    def best_alone(_: object, batch: TaskBatch, size: int, precision: str) -> None:
        tried.append(size)
        time.sleep(batch.tasks * (0.005 if size == 1 else 0.01))

    assert choose_task_chunk(config, algorithm, tasks, best_alone) == 1
    assert set(tried) == {1, 4}


def test_another_error_is_not_taken_for_a_lack_of_memory(easy: ImageClasses, source: Source) -> None:
    config = compose("algorithm=protonet", *SMALL)
    algorithm, tasks = build_algorithm(config, easy), source().tasks(0, 6, TaskShape(5, 1, 5))

    def broken(_: object, batch: object, size: int, precision: str) -> None:
        if size > 1:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        choose_task_chunk(config, algorithm, tasks, broken)


def test_what_a_task_takes_is_told_and_bounds_the_choice(
    easy: ImageClasses, source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = compose("algorithm=protonet", *SMALL)
    algorithm, tasks, tried = build_algorithm(config, easy), source().tasks(0, 8, TaskShape(5, 1, 5)), set()
    monkeypatch.setattr(task_chunk, "bytes_taken", lambda compute, device: 30 * 2**20)
    monkeypatch.setattr(task_chunk, "free_bytes", lambda device: 100 * 2**20)
    with caplog.at_level("INFO", "metalearn"):
        choose_task_chunk(config, algorithm, tasks, lambda _, batch, size, precision: tried.add(size))
    assert tried == {1, 3}
    assert "memory: 30.0 MiB per task, 100 MiB free: 3 tasks at a time fit" in caplog.text


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [({1: 1.3, 4: 1.04, 6: 1.0}, 4), ({1: 1.3, 4: 1.06, 6: 1.0}, 6), ({1: 1.0, 4: 1.0}, 1)],
)
def test_of_sizes_about_as_fast_the_one_that_needs_least_memory_is_taken(
    easy: ImageClasses,
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[int, float],
    chosen: int,
) -> None:
    config = compose("algorithm=protonet", *SMALL)
    algorithm, tasks = build_algorithm(config, easy), source().tasks(0, 6, TaskShape(5, 1, 5))
    monkeypatch.setattr(task_chunk, "_measure", lambda *_: seconds)
    assert choose_task_chunk(config, algorithm, tasks, meta_gradient) == chosen
