"""A recorded and replayed step, on the CPU with a stand-in that runs the work again where a CUDA graph would replay it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.data.base import TaskSource
from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_algorithm
from metalearn.engine.cuda_graph import GraphedGradient, Work, cuda_record
from metalearn.engine.gradient import meta_gradient, outer_gradient
from metalearn.tasks import TaskShape
from tests.compose import SMALL, compose
from tests.described import described_classes

Source = Callable[..., TaskSource]
CALLS = 8  # the fifth replays for the first time


class Recorder:
    """As `cuda_record`: each replay fills the tensors that the recorded work returned."""

    def __init__(self, replays: bool = True) -> None:
        self.recorded = self.replayed = 0
        self._replays = replays

    def __call__(self, work: Work) -> tuple[Callable[[], None], list[Tensor]]:
        written = [tensor.clone() for tensor in work()]
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            for tensor, value in zip(written, work() if self._replays else written, strict=True):
                tensor.copy_(value)

        return replay, written


def make(easy: ImageClasses, name: str, *overrides: str) -> Algorithm:
    return build_algorithm(compose(f"algorithm={name}", *SMALL, *overrides), easy).train()


def trained(
    algorithm: Algorithm, gradient: Any, source: TaskSource, calls: int = CALLS, tasks: int = 3, shots: int = 1
) -> list[dict[str, Tensor]]:
    """The metrics of some outer steps."""
    optimizer = torch.optim.Adam(algorithm.parameters(), lr=0.01)
    logged = []
    for step in range(calls):
        algorithm.outer_step = step
        algorithm.zero_grad(set_to_none=True)
        logged.append(gradient(algorithm, source.tasks(step * tasks, tasks, TaskShape(5, shots, 3)), 2, "fp32", tasks))
        torch.nn.utils.clip_grad_norm_(algorithm.parameters(), 1.0)  # writes into the gradients
        optimizer.step()
    return logged


def assert_same_as_ordinary(easy: ImageClasses, source: Source, gradient: Any, name: str, *overrides: str) -> None:
    outcomes = []
    for each in (gradient, meta_gradient):
        algorithm = make(easy, name, *overrides)
        logged = trained(algorithm, each, source("train"))
        outcomes.append((logged, algorithm.state_dict()))
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=0, atol=0)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("maml", ()),
        ("fomaml", ()),
        ("anil", ("backbone.running_stats=true",)),
        ("metasgd", ()),
        ("protonet", ("backbone.running_stats=true",)),
        ("matching", ()),
    ],
)
def test_replayed_steps_train_as_ordinary_ones_do(
    name: str, overrides: tuple[str, ...], easy: ImageClasses, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "metalearn")
    recorder = Recorder()
    assert_same_as_ordinary(easy, source, GraphedGradient(meta_gradient, recorder), name, *overrides)
    assert (recorder.recorded, recorder.replayed) == (1, CALLS - 4)
    assert [record.message for record in caplog.records] == ["the step is replayed as a CUDA graph"]


def test_a_replay_reads_the_descriptions_of_its_own_tasks() -> None:
    dataset, recorder = described_classes(), Recorder()
    outcomes = []
    for gradient in (meta_gradient, GraphedGradient(meta_gradient, recorder)):
        algorithm = make(dataset, "protonet", "task.shots=0")
        logged = trained(algorithm, gradient, dataset.source("train", 0, torch.device("cpu")), shots=0)
        outcomes.append((logged, algorithm.state_dict()))
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=0, atol=0)
    assert (recorder.recorded, recorder.replayed) == (1, CALLS - 4)


def test_a_replay_that_comes_to_something_else_is_not_used(
    easy: ImageClasses, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(replays=False)  # as where the tasks' values were fixed in the recording
    assert_same_as_ordinary(easy, source, GraphedGradient(meta_gradient, recorder), "protonet")
    assert (recorder.recorded, recorder.replayed) == (1, 1)
    assert "gives another gradient than the step itself; going on without it" in caplog.text


def test_a_step_that_cannot_be_recorded_is_run_as_ever(
    easy: ImageClasses, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = 0

    def failing(work: Work) -> tuple[Callable[[], None], list[Tensor]]:
        nonlocal attempts
        attempts += 1
        work()
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    overrides = ("backbone.running_stats=true",)
    assert_same_as_ordinary(easy, source, GraphedGradient(meta_gradient, failing), "protonet", *overrides)
    assert attempts == 1
    assert "cannot be recorded: operation not permitted when stream is capturing; going on" in caplog.text


def test_what_anneals_is_recorded_after_it_has(easy: ImageClasses, source: Source) -> None:
    recorder = Recorder()
    overrides = ("algorithm.multi_step_loss_until=2", "algorithm.first_order_until=1")
    assert_same_as_ordinary(easy, source, GraphedGradient(meta_gradient, recorder), "maml", *overrides)
    assert (recorder.recorded, recorder.replayed) == (1, CALLS - 4 - 2)


def test_what_does_not_say_that_it_repeats_is_never_recorded(easy: ImageClasses, source: Source) -> None:
    recorder = Recorder()
    assert_same_as_ordinary(easy, source, GraphedGradient(meta_gradient, recorder), "reptile")
    assert recorder.recorded == 0


def test_other_shapes_are_recorded_anew(easy: ImageClasses, source: Source) -> None:
    recorder, algorithm = Recorder(), make(easy, "protonet")
    gradient = GraphedGradient(meta_gradient, recorder)
    trained(algorithm, gradient, source("train"), 6)
    trained(algorithm, gradient, source("train"), 6, tasks=4)
    assert (recorder.recorded, recorder.replayed) == (2, 4)


def test_only_a_gpu_records() -> None:
    assert outer_gradient(True, torch.device("cpu")) is meta_gradient
    assert isinstance(outer_gradient(True, torch.device("cuda")), GraphedGradient)
    assert outer_gradient(False, torch.device("cuda")) is meta_gradient


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["maml", "protonet"])
def test_a_cuda_graph_trains_as_the_step_itself_does(name: str, easy: ImageClasses) -> None:
    device = torch.device("cuda")
    losses = []
    for gradient in (GraphedGradient(meta_gradient, cuda_record), meta_gradient):
        algorithm = make(easy, name).to(device)
        logged = trained(algorithm, gradient, easy.source("train", 0, device), 20)
        losses.append(torch.stack([sums["loss"] for sums in logged]))
        if isinstance(gradient, GraphedGradient):
            assert gradient.replays
    torch.testing.assert_close(*losses, rtol=1e-2, atol=1e-3)
