"""Inner steps on images whose gradients and second derivatives are written out: the same meta-gradient as autograd's."""

from __future__ import annotations

import sys
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.algorithms.inner_loop import InnerLoopLearner
from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_algorithm
from metalearn.engine.gradient import meta_gradient
from metalearn.nn.task_gradients import TaskGradients
from metalearn.nn.twice import TwiceDifferentiable
from metalearn.tasks import Examples, TaskBatch, TaskShape
from tests.compose import SMALL, compose

PLAIN = TwiceDifferentiable.__call__
CASES = {
    "maml": ("algorithm=maml",),
    "three steps": ("algorithm=maml", "algorithm.inner_steps=3"),
    "first order": ("algorithm=fomaml", "algorithm.inner_steps=2"),
    "kept as parameters alone": ("algorithm=maml", "algorithm.inner_steps=2", "algorithm.checkpoint_inner=true"),
    "mamlpp": ("algorithm=mamlpp", "algorithm.inner_steps=2", "algorithm.multi_step_loss_until=10"),
    "metasgd": ("algorithm=metasgd",),
    "metacurvature": ("algorithm=metacurvature",),
    "boil": ("algorithm=boil",),
    "protomaml": ("algorithm=protomaml", "algorithm.inner_steps=2"),
    "strided": ("algorithm=maml", "backbone=conv4_stride"),
}


def in_double(part: Examples) -> Examples:
    return part._replace(x=part.x.double())


def meta_gradient_of(algorithm: Algorithm, tasks: TaskBatch) -> tuple[Tensor, list[Tensor | None]]:
    algorithm.zero_grad(set_to_none=True)
    means = meta_gradient(algorithm, tasks, 2, "fp32")
    return means["loss"], [parameter.grad for parameter in algorithm.parameters()]


@pytest.mark.thorough
@pytest.mark.parametrize("queries", [1, 3], ids=["few queries", "many queries"])
@pytest.mark.parametrize("case", CASES)
def test_meta_gradient_is_that_of_autograd(case: str, queries: int, easy: ImageClasses) -> None:
    algorithm = build_algorithm(compose(*CASES[case], *SMALL), easy).double().train()
    tasks = easy.source("train", 0, torch.device("cpu")).tasks(0, 3, TaskShape(5, 1, queries))
    tasks = tasks._replace(support=in_double(tasks.support), query=in_double(tasks.query))
    with patch.object(TwiceDifferentiable, "__call__", autospec=True, side_effect=PLAIN) as used:
        loss, gradients = meta_gradient_of(algorithm, tasks)
    assert used.called
    with (
        patch.object(TaskGradients, "differentiable", return_value=None),
        patch.object(InnerLoopLearner, "_twice_of_queries", None),
    ):
        by_autograd, expected = meta_gradient_of(algorithm, tasks)
    torch.testing.assert_close(loss, by_autograd)
    for found, gradient in zip(gradients, expected, strict=True):
        assert (found is None) == (gradient is None)
        if gradient is not None:
            torch.testing.assert_close(found, gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("case", ["maml", "strided", "metasgd"])
def test_a_first_step_waits_for_no_import_of_symbols(
    case: str, easy: ImageClasses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch imports sympy, 0.7 s and 30 MiB, where autograd is handed the gradient of an outcome that is no scalar."""
    algorithm = build_algorithm(compose(*CASES[case], *SMALL), easy).train()
    tasks = easy.source("train", 0, torch.device("cpu")).tasks(0, 2, TaskShape(5, 1, 1))
    monkeypatch.setitem(sys.modules, "torch.fx.experimental.symbolic_shapes", None)  # importing it is an error
    with patch.object(TwiceDifferentiable, "__call__", autospec=True, side_effect=PLAIN) as used:
        _, gradients = meta_gradient_of(algorithm, tasks)
    assert used.called
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
