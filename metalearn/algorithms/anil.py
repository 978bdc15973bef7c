"""ANIL, almost no inner loop (Raghu, Raghu, Bengio and Vinyals 2020, https://arxiv.org/abs/1909.09157), on learn2learn's `MAML`.

Section 4: MAML whose inner loop, in training and at test, adapts the linear head alone; the backbone is learned in the outer loop only. Each image
passes the backbone once, the inner steps work on features, and tasks share the backbone's parameters.

Where the backbone normalises with the statistics of the examples at hand, these are those of the support set or of the query set, as in MAML
here; learn2learn's example passes both together. With running statistics, which nothing forbids as the backbone is the same for all tasks, both
sets of a training task pass together, and evaluation takes each example by itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from metalearn.algorithms.base import MetaLoss, TwoSteps
from metalearn.algorithms.embedding import two_steps
from metalearn.algorithms.inner_loop import Adapted, MetaModuleLearner
from metalearn.backbones import Backbone, embed_tasks
from metalearn.nn.l2l import learn2learn_module
from metalearn.nn.task_batched import TaskBatched, forward_batched
from metalearn.tasks import Examples, TaskBatch


class ANIL(MetaModuleLearner):
    """MAML that adapts the linear head alone; one backbone serves all tasks.

    Args:
        backbone: [n, c, H, W] -> [n, D].
        ways: outputs of the linear head.
        inner_lr: step size of the inner gradient descent, on the mean cross-entropy of the support set.
        inner_steps: inner steps in training.
        test_inner_steps: inner steps in evaluation.
        first_order: leave out the second derivatives; the backbone then learns from the queries alone.

    Raises:
        UserError: learn2learn is missing.
    """

    adapts_backbone = False

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        inner_lr: float,
        inner_steps: int,
        test_inner_steps: int,
        first_order: bool,
    ) -> None:
        head = nn.Sequential(OrderedDict(head=nn.Linear(backbone.feature_dim, ways)))
        # allow_nograd takes the branch of learn2learn's adapt that does not swallow a RuntimeError; nothing here lacks a gradient.
        learner = learn2learn_module("algorithms.maml").MAML(
            TaskBatched(head), lr=inner_lr, first_order=first_order, allow_unused=False, allow_nograd=True
        )
        super().__init__(backbone, ways, learner, inner_steps, test_inner_steps)
        self.backbone = backbone

    def classifier(self) -> nn.Module:
        """Adapted are the head's parameters alone; the backbone's are shared by all tasks."""
        return nn.Sequential(OrderedDict(backbone=self.backbone, **dict(self._head().named_children())))

    def adapt_stepwise(self, support: Examples) -> Iterator[Adapted]:
        return self.descend(self._features(support.x), support)

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        if self._support_statistics and not self.training:
            return super().predict(adapted, query_x)
        return self._logits(adapted, self._features(query_x))

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        if self.backbone.uses_batch_statistics:
            return super().meta_loss(tasks)
        support, query = tasks.support, tasks.query
        features = self._features(torch.cat([support.x, query.x], dim=1))  # [T, N*K + N*Q, D]
        *_, adapted = self.descend(features[:, : support.x.shape[1]], support)
        return self.query_loss(self._logits(adapted, features[:, support.x.shape[1] :]), tasks)

    def in_two_steps(self) -> TwoSteps | None:
        return None if self.backbone.uses_batch_statistics else two_steps(self, self.backbone)

    def _features(self, x: Tensor) -> Tensor:
        return embed_tasks(self.backbone, x, self.training)

    def _logits(self, adapted: Adapted, features: Tensor) -> Tensor:
        return forward_batched(self._head(), adapted.parameters, features)

    def _head(self) -> nn.Module:
        module: nn.Module = self.learner.module.module
        return module
