"""The opponents of `bench rivals`: each computes the meta-gradient that ours computes, and a missing one is left out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from metalearn.bench import functorch, rival, rivals, scaling
from metalearn.bench.harness import Bench
from metalearn.bench.ours import Ours
from metalearn.bench.rivals import CASES, Case
from metalearn.engine.build import build_dataset
from metalearn.errors import UserError
from metalearn.tasks import TaskBatch
from tests.bench.test_peer import SMALL, in_double
from tests.compose import compose

# One of each network, narrow.
NETWORKS = [
    (CASES[0], "backbone.hidden=[16,8]"),
    (CASES[2], "backbone.filters=4"),
    (CASES[4], "backbone.filters=4"),
    (CASES[6], "backbone.filters=4"),
]
INTERPRETER = rival.python()  # of the cache directory that this process was started with
TINY = Case("MAML, tiny", (*CASES[0].overrides, *SMALL, "backbone.hidden=[16,8]"), quick=True)


def batch_norm(
    x: Tensor, mean: None, variance: None, weight: Tensor, bias: Tensor, training: bool, momentum: float, eps: float
) -> Tensor:
    """`functional.batch_norm` written out."""
    over = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    scale = (x.var(over, unbiased=False, keepdim=True) + eps).rsqrt()
    return (x - x.mean(over, keepdim=True)) * scale * weight.view(shape) + bias.view(shape)


@pytest.fixture(scope="module")
def worker() -> Iterator[rival.Worker]:
    """parallel-metalearn's process, where its environment is."""
    if INTERPRETER is None:
        pytest.skip(rival.HOW_TO_MAKE)
    with rival.Worker(INTERPRETER) as started:
        yield started


def ours_and_tasks(case: Case, narrow: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Ours, TaskBatch]:
    """In double precision, an inner step size that single precision holds exactly, and the meta-gradient in `.grad`."""
    monkeypatch.setattr(functorch, "FILTERS", 4)
    ours = rivals.ours_of(case, compose(*case.overrides, *SMALL, narrow, "algorithm.inner_lr=0.125"))
    ours.algorithm.double()
    tasks = in_double(ours.tasks(0))
    monkeypatch.setattr(ours, "tasks", lambda step: tasks)
    ours.loop.gradient(tasks)
    return ours, tasks


def difference(ours: Ours, theirs: list[Tensor]) -> float:
    """Relative, of both meta-gradients as one vector."""
    mine = torch.cat([p.grad.flatten() for p in ours.algorithm.classifier().parameters()])  # type: ignore[operator]
    return float((mine - torch.cat([gradient.flatten() for gradient in theirs])).norm() / mine.norm())


@pytest.mark.parametrize(("case", "narrow"), NETWORKS, ids=[case.label for case, _ in NETWORKS])
def test_functorchs_meta_gradient_is_ours_summed_over_tasks_where_normalisation_is_written_out(
    case: Case, narrow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, tasks = ours_and_tasks(case, narrow, monkeypatch)
    monkeypatch.setattr(functional, "batch_norm", batch_norm)  # torch's has wrong second derivatives under vmap
    theirs = rivals.functorch_loop(case, ours)
    before = [parameter.clone() for parameter in theirs.parameters.values()]
    theirs.step()
    gradients: list[Any] = [parameter.grad for parameter in theirs.parameters.values()]
    assert difference(ours, [gradient / tasks.tasks for gradient in gradients]) < 1e-9
    moved = [not torch.equal(was, now) for was, now in zip(before, theirs.parameters.values(), strict=True)]
    assert all(moved)


@pytest.mark.parametrize(("case", "narrow"), NETWORKS, ids=[case.label for case, _ in NETWORKS])
def test_parallel_metalearns_meta_gradient_is_ours(
    worker: rival.Worker, case: Case, narrow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, tasks = ours_and_tasks(case, narrow, monkeypatch)
    for backend in rival.BACKENDS:
        theirs = rivals.rival_loop(worker, case, ours, None, backend)
        assert difference(ours, theirs.gradient(tasks)) < 1e-9, backend


def test_parallel_metalearn_makes_its_own_tasks(worker: rival.Worker, tmp_path: Path) -> None:
    config = compose(*TINY.overrides)
    written = rival.write_images(build_dataset(config), tmp_path)
    for backend in rival.BACKENDS:
        theirs = rivals.rival_loop(worker, TINY, Ours(config), written, backend)
        theirs.step()
        first = theirs.data_seconds
        theirs.step()
        assert 0 < first < theirs.data_seconds


def bench(**settings: Any) -> Bench:
    return Bench(lambda *overrides: compose(*overrides), 1, True, torch.device("cpu"), **settings)


def test_without_its_environment_an_opponent_is_left_out_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rival, "python", lambda: None)
    monkeypatch.setattr(rivals, "CASES", (TINY,))
    record = rivals.measure(bench())
    assert rival.HOW_TO_MAKE in capsys.readouterr().err
    assert [row["opponent"] for row in record["rows"]] == ["learn2learn, images in memory", "functorch's example"]
    learn2learn, example = record["rows"]
    assert learn2learn["data"]["theirs"] > 0
    assert example["data"]["theirs"] == 0, "its tasks are always the same"
    (table,) = rivals.tables(record)
    assert [row[:2] for row in table.rows] == [
        ("MAML, tiny", "learn2learn, images in memory"),
        ("", "functorch's example"),
    ]


def test_time_per_task_has_a_row_for_each_number_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rival, "python", lambda: None)
    monkeypatch.setattr(scaling, "CASES", (TINY,))
    monkeypatch.setattr(scaling, "_SUBJECTS", (TINY.label,))
    record = scaling.measure(bench())
    assert [row["tasks"] for row in record["rows"]] == [1, 8]
    assert all(seconds["median"] > 0 for row in record["rows"] for seconds in row["seconds_per_task"].values())
    (table,) = scaling.tables(record)
    assert [row[0] for row in table.rows] == ["1", "8"]
    assert table.rows[0][-1] == "not measured", "parallel-metalearn"
    only = scaling.measure(bench(cases=("tiny; 8 tasks",)))
    assert [row["tasks"] for row in only["rows"]] == [8]


def test_a_process_that_ends_is_named(tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\nexit 3\n")
    interpreter.chmod(0o755)
    with pytest.raises(UserError, match="parallel-metalearn ended with code 3"), rival.Worker(interpreter):
        pass


class Side:
    """Steps that take no time; each makes its tasks in a second for every one of them."""

    data_seconds = 0.0
    task_chunk = 4

    def __init__(self, tasks: int) -> None:
        self.tasks, self.steps = tasks, 0

    def step(self) -> None:
        self.data_seconds += self.tasks
        self.steps += 1


def turns(seconds: dict[str, float]) -> Any:
    """In place of `interleave`: three calls of each side, and so many seconds."""

    def interleave(actions: dict[str, Any], rounds: int, device: torch.device) -> dict[str, list[float]]:
        for action in actions.values():
            for _ in range(3):
                action()
        return {name: [seconds.get(name, seconds["else"])] * rounds for name in actions}

    return interleave


def test_time_per_task_is_without_making_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    def ours_of(case: Case, config: dict[str, Any]) -> Side:
        made.append(config["train"])
        return Side(8)

    monkeypatch.setattr(scaling, "ours_of", ours_of)
    monkeypatch.setattr(scaling, "interleave", turns({"one by one": 80.0, "else": 24.0}))
    found = scaling._measure(bench(), TINY, (), 8, None, None)
    assert [(train["task_chunk"], train["meta_batch_size"]) for train in made] == [("auto", 8), (8, 8), (1, 8)]
    per_task = {name: each["median"] for name, each in found["seconds_per_task"].items()}
    assert per_task == {"task_chunk=auto": 2.0, "all at once": 2.0, "one by one": 9.0}, "less a second of each task"
    assert set(found["making_per_task"].values()) == {1.0}
    (table,) = scaling.tables({"rows": [found]})
    assert table.rows[0] == ("8", "2000.00", "4", "2000.00", "9000.00", "not measured", "not measured")


@pytest.mark.parametrize("fastest", rival.BACKENDS)
def test_the_faster_backend_in_a_step_before_is_the_one_that_is_measured(
    fastest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = {backend: Side(32) for backend in rival.BACKENDS}
    seconds = {loops[backend].step: 1.0 if backend == fastest else 2.0 for backend in rival.BACKENDS}
    monkeypatch.setattr(rivals, "ours_of", lambda case, config: Side(32))
    monkeypatch.setattr(rivals, "learn2learn_loops", lambda *given: {})
    monkeypatch.setattr(rivals, "functorch_loop", lambda case, ours: Side(0))
    monkeypatch.setattr(rivals, "rival_loop", lambda worker, case, ours, written, backend: loops[backend])
    monkeypatch.setattr(rivals, "_seconds", lambda step: seconds[step])
    monkeypatch.setattr(rivals, "interleave", turns({"ours": 40.0, "else": 60.0}))
    worker: Any = "a process"
    example, parallel = rivals._measure(bench(), TINY, (), None, worker, None)
    assert example["opponent"] == "functorch's example"
    assert parallel["opponent"] == f"parallel-metalearn, {fastest}"
    # Its row takes the place of one by the other backend.
    assert parallel["label"].endswith(": parallel-metalearn")
    assert [loop.steps for loop in loops.values()] == [3 if backend == fastest else 0 for backend in rival.BACKENDS]
    assert parallel["ratio"]["median"] == 1.5
    assert parallel["data"] == {"ours": 32.0, "theirs": 32.0}


def test_the_process_of_a_rival_has_started_before_anything_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, done = tmp_path / "slow_to_start.py", tmp_path / "started"
    program.write_text(
        "import sys, time\n"
        "time.sleep(0.3)\n"
        f"open({str(done)!r}, 'w').close()\n"
        "for line in sys.stdin:\n"
        "    print('{}', flush=True)\n"
    )
    monkeypatch.setattr(rival.rival_worker, "__file__", str(program))
    with rival.Worker(Path(sys.executable)):
        assert done.exists()
