"""Meta-Curvature (Park and Oliva 2019, https://arxiv.org/abs/1902.03356), on learn2learn's `GBML` and its gradient transforms.

Section 3: an inner step moves the parameters by `inner_lr` times a learned linear transform of the gradient, learned in the outer loop together with
the initialisation. The gradient G [O, I, h*w] of a convolution becomes M_f M_i M_o G, one square matrix for each of its axes, that of a linear layer
likewise with two; the gradient of a bias is scaled elementwise. All transforms start as the identity, so that training starts as MAML's.

`transform="kronecker"` is learn2learn's other transform (Arnold, Iqbal and Sha 2019, https://arxiv.org/abs/1910.13603): two matrices for each
parameter, each the square L'L of the learned one; the output channels of a convolution are not mixed.

Departures: as learn2learn does, the norms' gain and shift are adapted too, with a transform of their own. The transforms stay as they are within a
task, also "kronecker", which learn2learn's example of it adapts. The inner loss is the mean over the support set, see maml.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from metalearn.algorithms.inner_loop import MetaModuleLearner, linear_classifier
from metalearn.backbones import Backbone
from metalearn.nn.l2l import learn2learn
from metalearn.nn.task_batched import TaskBatched


class MetaCurvature(MetaModuleLearner):
    """MAML whose gradients pass a learned linear transform before each inner step.

    Args:
        backbone: [n, c, H, W] -> [n, D].
        ways: outputs of the linear head.
        transform: "metacurvature" or "kronecker".
        inner_lr: step size along the transformed gradient of the mean cross-entropy of the support set.
        inner_steps: inner steps in training.
        test_inner_steps: inner steps in evaluation.
        first_order: leave out the second derivatives; the transforms are learned all the same.
        checkpoint_inner: keep each inner step's parameters alone and compute the rest again in the backward pass.

    Raises:
        UserError: learn2learn is missing, or the backbone keeps running statistics.
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        transform: str,
        inner_lr: float,
        inner_steps: int,
        test_inner_steps: int,
        first_order: bool,
        checkpoint_inner: bool,
    ) -> None:
        # allow_nograd takes the branch that does not swallow a RuntimeError; nothing here lacks a gradient.
        learner = learn2learn().algorithms.GBML(
            TaskBatched(linear_classifier(backbone, ways)),
            transform=lambda parameter: TaskBatchedTransform(one_task_transform(transform, parameter)),
            lr=inner_lr,
            first_order=first_order,
            allow_nograd=True,
        )
        super().__init__(backbone, ways, learner, inner_steps, test_inner_steps, checkpoint_inner)
        self.transform = transform

    def resize_head(self, learner: Any, ways: int) -> None:
        super().resize_head(learner, ways)
        transforms = learner.compute_update.transforms_modules
        for i, (name, parameter) in enumerate(learner.module.module.named_parameters()):
            if name.startswith("head."):
                resized = TaskBatchedTransform(one_task_transform(self.transform, parameter[0]))
                take_resized_factors(transforms[i], resized, ways)
                transforms[i] = resized


class TaskBatchedTransform(nn.Module):
    """One of learn2learn's transforms, shared between tasks: gradients [T, ...] -> updates [T, ...].

    GBML makes its transforms for the parameters before these get their task axis and hands them gradients with it; nothing else in it looks
    at shapes.
    """

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, gradient: Tensor) -> Tensor:
        # Contiguous, as the transforms view it in other shapes.
        updates: Tensor = vmap(self.transform)(gradient.contiguous())
        return updates


def one_task_transform(kind: str, parameter: Tensor) -> nn.Module:
    """learn2learn's transform for the gradient of one task's `parameter`."""
    l2l = learn2learn()
    make = {
        "metacurvature": l2l.optim.transforms.MetaCurvatureTransform,
        "kronecker": l2l.optim.transforms.KroneckerTransform(l2l.nn.KroneckerLinear),
    }[kind]
    transform: nn.Module = make(parameter)
    return transform


def take_resized_factors(trained: nn.Module, resized: nn.Module, ways: int) -> None:
    """Puts the factors of `trained`, of one of the head's parameters, into `resized`, made for another number of ways."""
    factors = dict(trained.named_parameters())
    for path, parameter in list(resized.named_parameters()):
        factor = factors[path] if factors[path].shape == parameter.shape else resized_factor(factors[path], ways)
        owner, _, name = path.rpartition(".")
        # A Tensor where nn.Module declares a Parameter, as learn2learn's clone does.
        resized.get_submodule(owner)._parameters[name] = factor  # type: ignore[assignment]


def resized_factor(factor: Tensor, ways: int) -> Tensor:
    """A factor M [N, N] over the classes, or one [N] that scales elementwise, for another number of ways.

    Labels are permuted in every training task, so that M's entries mean nothing beyond their averages, a on the diagonal and b off it. The
    gradient of the cross-entropy sums to 0 over the classes: such a matrix multiplies it by a - b, for any number of them.
    """
    if factor.dim() == 1:
        return factor.mean().expand(ways)
    classes = len(factor)
    scale = (classes * factor.trace() - factor.sum()) / (classes * (classes - 1))  # a - b
    return scale * torch.eye(ways, dtype=factor.dtype, device=factor.device)
