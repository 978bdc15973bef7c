"""Meta-SGD (Li, Zhou, Chen and Li 2017, https://arxiv.org/abs/1707.09835), on learn2learn's `MetaSGD`.

Algorithm 1: a task moves the initialisation theta by alpha * gradient, elementwise: alpha holds one rate for each parameter, and with it direction
and length of the step. The outer loop learns alpha together with theta. The rates are shared between tasks and inner steps, and may become negative.

Departures: all rates start at `inner_lr`, the paper draws their start from [0.005, 0.1]; several inner steps are possible, each with the same
rates; the norms' gain and shift are adapted too, as learn2learn does (the authors' code was not found).
"""

from __future__ import annotations

from typing import Any

from metalearn.algorithms.inner_loop import MetaModuleLearner, linear_classifier
from metalearn.backbones import Backbone
from metalearn.nn.heads import resized_head
from metalearn.nn.l2l import learn2learn_module
from metalearn.nn.task_batched import TaskBatched


class MetaSGD(MetaModuleLearner):
    """MAML with a learned step size for every single parameter.

    Args:
        backbone: [n, c, H, W] -> [n, D].
        ways: outputs of the linear head.
        inner_lr: what every learned rate starts at; of the mean cross-entropy of the support set.
        inner_steps: inner steps in training.
        test_inner_steps: inner steps in evaluation.
        first_order: leave out the second derivatives.
        checkpoint_inner: keep each inner step's parameters alone and compute the rest again in the backward pass.

    Raises:
        UserError: learn2learn is missing, or the backbone keeps running statistics.
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        inner_lr: float,
        inner_steps: int,
        test_inner_steps: int,
        first_order: bool,
        checkpoint_inner: bool,
    ) -> None:
        network = TaskBatched(linear_classifier(backbone, ways))
        # Its rates take the shapes of the parameters before these get their task axis, so each step broadcasts them over the tasks.
        learner = learn2learn_module("algorithms.meta_sgd").MetaSGD(network, lr=inner_lr, first_order=first_order)
        super().__init__(backbone, ways, learner, inner_steps, test_inner_steps, checkpoint_inner)

    def resize_head(self, learner: Any, ways: int) -> None:
        super().resize_head(learner, ways)
        for i, (name, _) in enumerate(learner.module.module.named_parameters()):
            if name.startswith("head."):
                learner.lrs[i] = resized_head(learner.lrs[i].unsqueeze(0), ways)  # [1, ways, ...]
