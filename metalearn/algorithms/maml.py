"""Model-Agnostic Meta-Learning (Finn, Abbeel and Levine 2017, https://arxiv.org/abs/1703.03400), on learn2learn's `MAML`.

Algorithm 2, lines 5 to 10: every task takes gradient steps from the shared initialisation on its support set; the initialisation moves so that
the queries are classified well after those steps, differentiating through them (second order) unless `first_order`.

Departures from the authors' code: the inner loss is the mean over the support set, theirs the sum over classes of the mean over shots (so
their step size 0.4 on 5 ways is `inner_lr=2.0` here); the norms' scale and shift are adapted too, as learn2learn does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metalearn import objective
from metalearn.algorithms.base import Algorithm
from metalearn.backbones import Backbone
from metalearn.errors import UserError
from metalearn.l2l import learn2learn
from metalearn.task_batched import TaskBatched, forward_batched
from metalearn.tasks import Examples

_QUERIES_AT_ONCE = (
    25  # of one task, when each is normalised with a copy of the support set: bounds the memory of those copies
)


class Adapted(NamedTuple):
    parameters: dict[str, Tensor]  # name -> [T, ...]
    support_x: Tensor  # [T, N*K, ...], for evaluation that is not transductive


class MAML(Algorithm):
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
        super().__init__()
        if any(getattr(module, "track_running_stats", False) for module in backbone.modules()):
            raise UserError(
                "backbone.running_stats=true: an inner loop cannot use running statistics, they fit no task's own parameters "
                "(false normalises with the task at hand)"
            )
        classifier = nn.Sequential()
        classifier.add_module("backbone", backbone)
        classifier.add_module("head", nn.Linear(backbone.feature_dim, ways))
        # allow_nograd takes the branch of learn2learn's adapt that does not swallow a RuntimeError; nothing here lacks a gradient.
        self.learner = learn2learn().algorithms.MAML(
            TaskBatched(classifier), lr=inner_lr, first_order=first_order, allow_unused=False, allow_nograd=True
        )
        self.ways = ways
        self.inner_steps = inner_steps
        self.test_inner_steps = test_inner_steps
        self._transductive = bool(backbone.uses_batch_statistics)
        self._support_statistics = False

    def adapt(self, support: Examples) -> Adapted:
        """Parameters after the last inner step; part of the graph in training, detached in evaluation."""
        *_, last = self.adapt_stepwise(support)
        return last

    def adapt_stepwise(self, support: Examples) -> Iterator[Adapted]:
        with torch.enable_grad():  # evaluation turns gradients off, the inner loop lives on them
            learner = self.learner.clone()
            learner.module.expand(support.x.shape[0])
            if support.ways != self.ways:
                _resize_head(learner.module.module.head, support.ways)
        yield self._adapted(learner, support)
        for _ in range(self.inner_steps if self.training else self.test_inner_steps):
            with torch.enable_grad():
                # The SUM over tasks: each task's parameters receive just that task's gradient (eq. 1).
                loss = objective.cross_entropy(learner(support.x), support.y).sum()
                learner.adapt(loss, first_order=learner.first_order or not self.training)
            yield self._adapted(learner, support)

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        classifier = self.learner.module.module
        if self._support_statistics and not self.training:
            return self._predict_one_by_one(classifier, adapted, query_x)
        return forward_batched(classifier, adapted.parameters, query_x)

    @property
    def transductive(self) -> bool:
        return self._transductive and not self._support_statistics

    def set_transductive(self, transductive: bool) -> None:
        if transductive and not self._transductive:
            super().set_transductive(transductive)
        # Nichol et al. 2018, section 6: without transduction, each query is normalised together with the support set only.
        self._support_statistics = self._transductive and not transductive

    def _adapted(self, learner: Any, support: Examples) -> Adapted:
        parameters = dict(learner.module.module.named_parameters())
        if not self.training:
            parameters = {name: parameter.detach() for name, parameter in parameters.items()}
        return Adapted(parameters, support.x)

    @staticmethod
    def _predict_one_by_one(classifier: nn.Module, adapted: Adapted, query_x: Tensor) -> Tensor:
        logits = []
        for task in range(query_x.shape[0]):
            parameters = {name: parameter[task] for name, parameter in adapted.parameters.items()}
            support_x = adapted.support_x[task]

            def on_one_query(
                x: Tensor, parameters: dict[str, Tensor] = parameters, support_x: Tensor = support_x
            ) -> Tensor:
                logits: Tensor = functional_call(classifier, parameters, (torch.cat([support_x, x.unsqueeze(0)]),))
                return logits[-1]

            logits.append(vmap(on_one_query, chunk_size=_QUERIES_AT_ONCE)(query_x[task]))
        return torch.stack(logits)


def _resize_head(head: nn.Module, ways: int) -> None:
    """Lets a head trained for another number of ways start on `ways` classes: each from the mean of the trained rows.

    Labels are permuted in every training task, so the rows' differences carry no meaning (Ye and Chao 2022, "How to Train Your MAML to
    Excel in Few-Shot Classification", section 5).
    """
    for name, parameter in head._parameters.items():
        assert parameter is not None
        mean = parameter.mean(1, keepdim=True)  # [T, 1, ...]
        head._parameters[name] = mean.expand(-1, ways, *parameter.shape[2:])  # type: ignore[assignment]
