"""What the tests of the learners on learn2learn's meta-modules share: random tasks, and learn2learn's own loop over them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.algorithms.base import Algorithm
from metalearn.backbones import MLP, Backbone, Conv4
from metalearn.engine.gradient import meta_gradient
from metalearn.tasks import Examples, TaskBatch

WAYS, SHOTS, QUERIES, TASKS = 3, 2, 4, 5
SHAPE = (1, 16, 16)


def random_tasks(dtype: torch.dtype = torch.float64, ways: int = WAYS) -> TaskBatch:
    generator = torch.Generator().manual_seed(0)

    def examples(each: int) -> Examples:
        x = torch.rand(TASKS, ways * each, *SHAPE, generator=generator, dtype=dtype)
        return Examples(x, torch.arange(ways).repeat_interleave(each).expand(TASKS, -1), ways)

    return TaskBatch(examples(SHOTS), examples(QUERIES), torch.zeros(TASKS, ways, dtype=torch.int64))


def backbone(kind: str = "conv", running_stats: bool = False) -> Backbone:
    """With its seed set: the head that is made next is the same each time, too."""
    torch.manual_seed(1)
    if kind == "conv":
        return Conv4(SHAPE, filters=8, downsample="stride", norm="batch", running_stats=running_stats, pool="mean")
    return MLP(SHAPE, hidden=[6], norm="none", running_stats=False)


def shake(parameters: Any, size: float = 0.1) -> None:
    """Moves learned rates or transforms off their initial values, where too much is equal or symmetric."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in parameters:
            parameter += size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def gradients(algorithm: Algorithm, tasks: TaskBatch, task_chunk: int) -> tuple[float, list[Tensor]]:
    algorithm.zero_grad(set_to_none=True)
    loss = meta_gradient(algorithm, tasks, task_chunk, "fp32")["loss"]
    return float(loss), [gradient_of(parameter) for parameter in algorithm.parameters()]


def learn2learn_gradients(reference: Any, inner_steps: int, tasks: TaskBatch) -> tuple[float, list[Tensor]]:
    """The loop of learn2learn's own examples: its meta-module around a plain network, one task at a time."""
    total = torch.zeros((), dtype=tasks.support.x.dtype)
    for task in range(tasks.tasks):
        learner = reference.clone()
        for _ in range(inner_steps):
            learner.adapt(F.cross_entropy(learner(tasks.support.x[task]), tasks.support.y[task]))
        total = total + F.cross_entropy(learner(tasks.query.x[task]), tasks.query.y[task])
    (total / tasks.tasks).backward()  # type: ignore[no-untyped-call]
    return float(total.detach()) / tasks.tasks, [gradient_of(parameter) for parameter in reference.parameters()]


def gradient_of(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.clone()


def assert_equal(ours: tuple[float, list[Tensor]], theirs: tuple[float, list[Tensor]]) -> None:
    """In float64: the loss and every gradient, and that there are gradients to compare."""
    assert abs(ours[0] - theirs[0]) < 1e-9
    for our, their in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(our, their, atol=1e-9, rtol=1e-7)
    assert max(float(gradient.abs().max()) for gradient in ours[1]) > 1e-3
