"""Ridge regression onto one-hot labels, in closed form: R2-D2 (Bertinetto, Henriques, Torr and Vedaldi 2019, https://arxiv.org/abs/1805.08136).

The head of a task is the linear map that minimises the squared error on the support set plus `penalty` times its squared length. Where there are
fewer support examples than features it is found by Woodbury's identity, which inverts a matrix as large as the support set. Class scores are
the outputs times `scale`; they train through the softmax cross-entropy of the queries, although the head fits squared errors.

By default nothing is trained: a closed-form probe of given features. With `train.steps` above 0 the gradient passes the solution into the backbone;
with `learn_head`, penalty and scale are learned too. `algorithm=r2d2` does both.

As in the authors' code a column of ones beside the features makes the bias, which is penalised like the rest. Their code takes the mean of the
squared errors over the support set (`errors="mean"`), the paper's equations their sum: its penalty is N*K times as large for the same head.

Departures: what is learned is the logarithm of penalty and scale, so that both stay above 0. The paper's third number, beta, which is added to the
scores of all classes alike, changes neither the softmax nor a gradient and is left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.embedding import MetricScale, memberships
from metalearn.algorithms.transform import HeadLearner, exact
from metalearn.backbones import Backbone
from metalearn.tasks import Examples, TaskBatch


class Ridge(HeadLearner):
    """Labels a query by ridge regression from the support features to their labels.

    Args:
        backbone: [n, ...] -> [n, D].
        transform: of features: "none", "l2" or "centred_l2".
        errors: whether the squared errors of the support set count as their "sum" or their "mean" over examples.
        penalty: lambda, of the squared length of the head, beside the squared errors.
        scale: alpha, what the outputs are multiplied by in the softmax.
        learn_head: whether outer steps change penalty and scale, from these values on.
    """

    def __init__(
        self, backbone: Backbone, transform: str, errors: str, penalty: float, scale: float, learn_head: bool
    ) -> None:
        super().__init__(backbone, transform)
        self.errors = errors
        self.fixed_penalty = penalty
        self.log_penalty = nn.Parameter(torch.tensor(math.log(penalty))) if learn_head else None
        self.scale = MetricScale(scale, learn_head, automatic=scale)

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        loss = super().meta_loss(tasks)
        if self.log_penalty is None:
            return loss
        return loss._replace(metrics={**loss.metrics, "penalty": self.log_penalty.detach().exp().expand_as(loss.loss)})

    def head(self, features: Tensor, support: Examples) -> Tensor:
        """Heads [T, D + 1, N], the bias last."""
        with exact(features) as x:
            y = memberships(support.y, support.ways, x.dtype, support.mask)  # [T, m, N]
            penalty = self.fixed_penalty if self.log_penalty is None else self.log_penalty.exp()
            if self.errors == "mean":
                penalty = penalty * y.sum((1, 2)).view(-1, 1, 1)  # of the sum of squared errors, to the same head
            # Padding is a row of zeros, which has no part in the sums.
            return ridge(with_ones(x) * y.sum(-1, keepdim=True), y, penalty)

    def logits(self, head: Tensor, queries: Tensor) -> Tensor:
        with exact(queries) as x:
            logits: Tensor = self.scale(with_ones(x) @ head)
        return logits


def with_ones(x: Tensor) -> Tensor:
    """[T, n, D] -> [T, n, D + 1]"""
    return F.pad(x, (0, 1), value=1.0)


def ridge(x: Tensor, y: Tensor, penalty: float | Tensor) -> Tensor:
    """The W [T, D, N] that minimises |x W - y|^2 + penalty |W|^2, by the smaller of two systems of equations.

    Args:
        x: [T, m, D].
        y: [T, m, N].
        penalty: a number, or one for each task [T, 1, 1].
    """
    examples, dim = x.shape[1:]
    diagonal = penalty * torch.eye(min(examples, dim), dtype=x.dtype, device=x.device)
    if examples <= dim:
        coefficients: Tensor = torch.linalg.solve(x @ x.mT + diagonal, y)  # [T, m, N], Woodbury's form
        return x.mT @ coefficients
    solution: Tensor = torch.linalg.solve(x.mT @ x + diagonal, x.mT @ y)
    return solution
