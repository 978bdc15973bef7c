"""`train.task_chunk=auto`: measured once, remembered, shared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metalearn.build import build_algorithm
from metalearn.data.image_classes import ImageClasses
from metalearn.data.source import TaskSource
from metalearn.task_chunk import choose_task_chunk
from metalearn.train import meta_gradient
from tests.compose import SMALL, compose

Source = Callable[..., TaskSource]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path))
    return tmp_path


def test_a_number_is_taken_as_it_is(easy: ImageClasses, source: Source, empty_cache: Path) -> None:
    config = compose("algorithm=maml", *SMALL, "train.task_chunk=3")
    algorithm = build_algorithm(config, easy)
    assert choose_task_chunk(config, algorithm, source().tasks(0, 8, 5, 1, 5), meta_gradient) == 3
    assert choose_task_chunk(config, algorithm, source().tasks(0, 2, 5, 1, 5), meta_gradient) == 2
    assert not list(empty_cache.iterdir())


def test_measured_once_and_changing_nothing(
    easy: ImageClasses, source: Source, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose("algorithm=protonet", *SMALL)
    algorithm, tasks = build_algorithm(config, easy), source().tasks(0, 6, 5, 1, 5)
    before = {key: value.clone() for key, value in algorithm.state_dict().items()}
    chosen = choose_task_chunk(config, algorithm, tasks, meta_gradient)
    assert chosen in (1, 4, 6)
    assert all(torch.equal(before[key], value) for key, value in algorithm.state_dict().items())
    assert all(p.grad is None for p in algorithm.parameters())

    def must_not_measure(*_: object) -> None:
        raise AssertionError("measured again")

    assert choose_task_chunk(config, algorithm, tasks, must_not_measure) == chosen
    assert len(list((empty_cache / "task_chunk").iterdir())) == 1


def test_the_fastest_wins_and_the_first_to_write_decides(easy: ImageClasses, source: Source, empty_cache: Path) -> None:
    import time

    config = compose("algorithm=protonet", *SMALL)
    algorithm, tasks = build_algorithm(config, easy), source().tasks(0, 6, 5, 1, 5)

    def slow_unless_whole(_: object, batch: object, size: int, precision: str) -> None:
        time.sleep(0.0 if size == 6 else 0.01)

    assert choose_task_chunk(config, algorithm, tasks, slow_unless_whole) == 6
    (file,) = (empty_cache / "task_chunk").iterdir()
    file.write_text(json.dumps({"task_chunk": 4}))
    assert choose_task_chunk(config, algorithm, tasks, slow_unless_whole) == 4
    file.write_text("damaged")
    assert choose_task_chunk(config, algorithm, tasks, slow_unless_whole) == 6
