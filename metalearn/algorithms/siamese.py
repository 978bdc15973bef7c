"""Siamese networks for verification (Koch, Zemel and Salakhutdinov 2015, https://www.cs.cmu.edu/~rsalakhu/papers/oneshot1.pdf).

Two images are of the same class with probability p = sigmoid(sum_j alpha_j |h1_j - h2_j|), with learned alpha (section 3.1); training is the
regularised cross-entropy of "same" and "different" over pairs (section 3.2). A query belongs to the class whose support example it is most
probably the same as (section 4.3).

Departures: the pairs are all pairs of a support example and a query of the training task, same and different ones with half the weight each,
where the paper draws as many of either from all training images. Of several shots, the mean of the log-odds of p decides. One strength of L2
for all layers, and one learning rate; no affine distortions. alpha starts as a distance with a threshold, theirs is drawn from a normal
distribution of mean 0. Verification decides at p = 1/2, theirs at the best threshold. As in ProtoNet here, support and query examples of a
training task pass the network together, which matters to backbones with batch norm; theirs has none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.embedding import EmbeddingLearner, memberships
from metalearn.backbones import Backbone
from metalearn.tasks import Examples, TaskBatch


class Adapted(NamedTuple):
    embedded: Tensor  # [T, N*K, D]
    y: Tensor  # [T, N*K]
    ways: int
    mask: Tensor | None  # [T, N*K], of padded tasks


class Siamese(EmbeddingLearner):
    """Labels a query by the class of the support example that is most probably of the same class.

    Args:
        backbone: [n, c, H, W] -> [n, D].
        threshold: the mean difference of two images' features at which p = 1/2 before training.
        l2: lambda, the factor of the squared weights in the loss.
    """

    def __init__(self, backbone: Backbone, threshold: float, l2: float) -> None:
        super().__init__(backbone)
        # With a bias, which the paper's equation does not show: without it two equal images would have p = 1/2.
        self.alpha = nn.Linear(backbone.feature_dim, 1)
        nn.init.constant_(self.alpha.weight, -(backbone.feature_dim**-0.5))
        nn.init.constant_(self.alpha.bias, threshold * backbone.feature_dim**0.5)
        self.l2 = l2

    def adapt(self, support: Examples) -> Adapted:
        return Adapted(self.embed(support.x, support.mask), support.y, support.ways, support.mask)

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        log_odds = self._log_odds(adapted.embedded, self.embed(query_x))
        return self._class_logits(log_odds, adapted.y, adapted.ways, adapted.mask)

    @property
    def masks(self) -> bool:
        return not self.transductive

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        support = tasks.support
        log_odds = self._log_odds(*self.embed_together(tasks))
        same, different = _pairs(tasks)
        pair_losses = F.binary_cross_entropy_with_logits(log_odds, same.to(log_odds.dtype), reduction="none")
        loss = _balanced_mean(pair_losses, same, different) + self.l2 * self._squared_weights()
        logits = self._class_logits(log_odds.detach(), support.y, support.ways, support.mask)
        verification = _balanced_mean(((log_odds.detach() > 0) == same).float(), same, different)
        return MetaLoss(loss, {**self.query_loss(logits, tasks).metrics, "verification_accuracy": verification})

    def further_scores(self, tasks: TaskBatch) -> dict[str, Tensor]:
        """Table 1's accuracy of "same" or "different", on the pairs of a support example and a query."""
        support, queries = (self.embed(part.x, part.mask) for part in (tasks.support, tasks.query))
        same, different = _pairs(tasks)
        decisions = self._log_odds(support, queries) > 0
        return {"verification_accuracy": _balanced_mean((decisions == same).float(), same, different)}

    def _log_odds(self, support: Tensor, queries: Tensor) -> Tensor:
        """Section 3.1: log p / (1 - p) of every pair, [T, m, D], [T, n, D] -> [T, n, m]."""
        differences = (queries.unsqueeze(2) - support.unsqueeze(1)).abs()  # [T, n, m, D]
        log_odds: Tensor = self.alpha(differences)
        return log_odds.squeeze(-1)

    @staticmethod
    def _class_logits(log_odds: Tensor, y: Tensor, ways: int, mask: Tensor | None) -> Tensor:
        members = memberships(y, ways, log_odds.dtype, mask)  # [T, m, N]
        return log_odds @ members / members.sum(1).clamp_min(1).unsqueeze(1)

    def _squared_weights(self) -> Tensor:
        return torch.stack([p.square().sum() for p in self.parameters() if p.ndim > 1]).sum()


def _pairs(tasks: TaskBatch) -> tuple[Tensor, Tensor]:
    """Which query is of the class of which support example, and which is of another, both [T, N*Q, N*K]; padding is in neither."""
    same = tasks.query.y.unsqueeze(2) == tasks.support.y.unsqueeze(1)
    different = ~same
    for mask, axis in ((tasks.query.mask, 2), (tasks.support.mask, 1)):
        if mask is not None:
            same, different = same & mask.unsqueeze(axis), different & mask.unsqueeze(axis)
    return same, different


def _balanced_mean(values: Tensor, same: Tensor, different: Tensor) -> Tensor:
    """[T, n, m] -> [T]: the mean over a task's pairs, where those of the same class weigh as much together as those of different ones."""
    of_same = torch.where(same, values, 0).sum((1, 2)) / same.sum((1, 2))
    of_different = torch.where(different, values, 0).sum((1, 2)) / different.sum((1, 2))
    return (of_same + of_different) / 2
