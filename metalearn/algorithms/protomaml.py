"""Proto-MAML (Triantafillou, Zhu, Dumoulin et al. 2020, Meta-Dataset, https://arxiv.org/abs/1903.03096), on learn2learn's `MAML`.

Section 3: MAML whose linear head starts, in each task, as the classifier of Prototypical Networks. With c_k the mean of the embedded support examples
of class k, minus the squared Euclidean distance of x is 2 c_k . x - |c_k|^2, up to a part that all classes share: the head's row is W_k = 2 c_k and
its bias b_k = -|c_k|^2. The inner loop then adapts all parameters; the outer gradient passes through the prototypes too. There is no head to learn,
so that tasks may have any number of ways.

As in the authors' code an inner step takes the head as a parameter like the others: what it moves the backbone by does not know where the head came
from.

Departures: the squared distances may have a factor, `scale`; in the paper it is 1. The norms' gain and shift are adapted too, as in `maml` here; the
authors' code leaves them out of the inner loop by a setting. By another one its queries are normalised with the statistics of the support set; here
with their own, as in `maml`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.embedding import MetricScale, class_means, scale_of_squares
from metalearn.algorithms.inner_loop import MetaModuleLearner, linear_classifier
from metalearn.algorithms.transform import exact
from metalearn.backbones import Backbone
from metalearn.kinds import CLASSIFICATION, Kind
from metalearn.nn.l2l import learn2learn_module
from metalearn.nn.task_batched import TaskBatched, forward_batched, with_parameters
from metalearn.tasks import Examples, TaskBatch


class ProtoMAML(MetaModuleLearner):
    """Adapts all parameters by gradient descent on the support set, from a head that is made of the task's prototypes.

    Args:
        backbone: [n, c, H, W] -> [n, D].
        scale: factor of the squared distances that the head starts from, 1 in the paper; "auto" for 4 / D.
        learn_scale: whether outer steps change it, from `scale` on.
        inner_lr: step size of the inner gradient descent, on the mean cross-entropy of the support set.
        inner_steps: inner steps in training.
        test_inner_steps: inner steps in evaluation.
        first_order: leave out the second derivatives; the gradient passes through the prototypes all the same.
        checkpoint_inner: keep each inner step's parameters alone and compute the rest again in the backward pass.

    Raises:
        UserError: learn2learn is missing, or the backbone keeps running statistics.
    """

    kinds: ClassVar[tuple[Kind, ...]] = (CLASSIFICATION,)

    def __init__(
        self,
        backbone: Backbone,
        scale: float | str,
        learn_scale: bool,
        inner_lr: float,
        inner_steps: int,
        test_inner_steps: int,
        first_order: bool,
        checkpoint_inner: bool,
    ) -> None:
        network = nn.Sequential(OrderedDict(backbone=backbone, head=HeadOfTask()))
        # allow_nograd takes the branch of learn2learn's adapt that does not swallow a RuntimeError; nothing here lacks a gradient.
        learner = learn2learn_module("algorithms.maml").MAML(
            TaskBatched(network), lr=inner_lr, first_order=first_order, allow_unused=False, allow_nograd=True
        )
        like = linear_classifier(backbone, 1)  # but for its head
        super().__init__(backbone, 0, learner, inner_steps, test_inner_steps, checkpoint_inner, like)
        self.scale = MetricScale(scale, learn_scale, scale_of_squares(backbone.feature_dim))

    def begin(self, learner: Any, x: Tensor, support: Examples) -> None:
        network = learner.module.module
        shared = dict(network.backbone.named_parameters())
        with torch.set_grad_enabled(self.training), exact(forward_batched(network.backbone, shared, x)) as features:
            prototypes = class_means(features, support)  # [T, N, D]
            weight = self.scale(2 * prototypes)
            bias = self.scale(-prototypes.square().sum(-1))
        # Views of the parameters take the inner steps: the gradient by them does not reach what the prototypes were made of.
        with_parameters(network, [parameter.view_as(parameter) for parameter in network.parameters()])
        for name, parameter in (("weight", weight), ("bias", bias)):
            network.head._parameters[name] = parameter if self.training else parameter.requires_grad_()

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        return self.scale.logged_with(super().meta_loss(tasks))


class HeadOfTask(nn.Module):
    """A linear layer that has no parameters until a task gives it some: [n, D] -> [n, N]."""

    weight: Tensor  # [N, D]
    bias: Tensor  # [N]

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)
