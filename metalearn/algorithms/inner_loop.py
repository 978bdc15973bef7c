"""What the learners share whose adaptation is a network of its own for every task: a backbone and a linear head, trained on the support set.

T tasks, N ways, K shots, Q queries per class, D features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from metalearn.algorithms.base import Algorithm
from metalearn.backbones import Backbone
from metalearn.task_batched import forward_batched, forward_one_by_one, refuse_dropping, refuse_running_statistics
from metalearn.tasks import Examples


class Adapted(NamedTuple):
    parameters: dict[str, Tensor]  # of the classifier: name -> [T, ...]
    support_x: Tensor  # [T, N*K, ...], for evaluation that is not transductive


class InnerLoopLearner(Algorithm):
    """Base of those learners. A subclass says how a step is made (`adapt_stepwise`) and which network it starts from (`classifier`).

    Raises:
        UserError: the backbone keeps running statistics, or drops features.
    """

    def __init__(self, backbone: Backbone, ways: int) -> None:
        super().__init__()
        refuse_running_statistics(backbone)
        refuse_dropping(backbone)
        self.ways = ways
        self._transductive = bool(backbone.uses_batch_statistics)
        self._support_statistics = False

    @abstractmethod
    def classifier(self) -> nn.Module:
        """The network whose parameters are adapted, as `linear_classifier` makes it: [n, c, H, W] -> [n, N]."""

    @abstractmethod
    def adapt_stepwise(self, support: Examples) -> Iterator[Adapted]:
        """The parameters before the first inner step and after each."""

    def adapt(self, support: Examples) -> Adapted:
        """The parameters after the last inner step."""
        for state in self.adapt_stepwise(support):  # one state in memory at a time
            last = state
        return last

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        if self._support_statistics and not self.training:
            return forward_one_by_one(self.classifier(), adapted.parameters, adapted.support_x, query_x)
        return forward_batched(self.classifier(), adapted.parameters, query_x)

    @property
    def transductive(self) -> bool:
        return self._transductive and not self._support_statistics

    def set_transductive(self, transductive: bool) -> None:
        if transductive and not self._transductive:
            super().set_transductive(transductive)
        # Nichol et al. 2018, section 6: without transduction, each query is normalised together with the support set only.
        self._support_statistics = self._transductive and not transductive


def linear_classifier(backbone: Backbone, ways: int) -> nn.Sequential:
    """`backbone` and a linear `head`: [n, c, H, W] -> [n, ways]."""
    classifier = nn.Sequential()
    classifier.add_module("backbone", backbone)
    classifier.add_module("head", nn.Linear(backbone.feature_dim, ways))
    return classifier
