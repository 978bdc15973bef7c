"""Model-Agnostic Meta-Learning (Finn, Abbeel and Levine 2017, https://arxiv.org/abs/1703.03400), on learn2learn's `MAML`.

Algorithm 2, lines 5 to 10: every task takes gradient steps from the shared initialisation on its support set; the initialisation moves so that
the queries are classified well after those steps, differentiating through them (second order) unless `first_order`.

Departures from the authors' code: the inner loss is the mean over the support set, theirs the sum over classes of the mean over shots (so
their step size 0.4 on 5 ways is `inner_lr=2.0` here); the norms' scale and shift are adapted too, as learn2learn does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from metalearn import objective
from metalearn.algorithms.inner_loop import Adapted, InnerLoopLearner, linear_classifier
from metalearn.backbones import Backbone
from metalearn.l2l import learn2learn
from metalearn.task_batched import TaskBatched, resized_head
from metalearn.tasks import Examples


class MAML(InnerLoopLearner):
    """Args:
    backbone: [n, c, H, W] -> [n, D].
    ways: outputs of the linear head.
    inner_lr: step size of the inner gradient descent, on the mean cross-entropy of the support set.
    inner_steps: inner steps in training.
    test_inner_steps: inner steps in evaluation.
    first_order: leave out the second derivatives.

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
    ) -> None:
        super().__init__(backbone, ways)
        # allow_nograd takes the branch of learn2learn's adapt that does not swallow a RuntimeError; nothing here lacks a gradient.
        self.learner = learn2learn().algorithms.MAML(
            TaskBatched(linear_classifier(backbone, ways)),
            lr=inner_lr,
            first_order=first_order,
            allow_unused=False,
            allow_nograd=True,
        )
        self.inner_steps = inner_steps
        self.test_inner_steps = test_inner_steps

    def classifier(self) -> nn.Module:
        module: nn.Module = self.learner.module.module
        return module

    def adapt_stepwise(self, support: Examples) -> Iterator[Adapted]:
        """Parameters that are part of the graph in training, detached in evaluation."""
        with torch.enable_grad():  # evaluation turns gradients off, the inner loop lives on them
            learner = self.learner.clone()
            learner.module.expand(support.x.shape[0])
            if support.ways != self.ways:
                head = learner.module.module.head
                for name, parameter in head._parameters.items():
                    head._parameters[name] = resized_head(parameter, support.ways)
        yield self._adapted(learner, support)
        for _ in range(self.inner_steps if self.training else self.test_inner_steps):
            with torch.enable_grad():
                # The SUM over tasks: each task's parameters receive just that task's gradient (eq. 1).
                loss = objective.cross_entropy(learner(support.x), support.y).sum()
                learner.adapt(loss, first_order=learner.first_order or not self.training)
            yield self._adapted(learner, support)

    def _adapted(self, learner: Any, support: Examples) -> Adapted:
        parameters = dict(learner.module.module.named_parameters())
        if not self.training:
            parameters = {name: parameter.detach() for name, parameter in parameters.items()}
        return Adapted(parameters, support.x)
