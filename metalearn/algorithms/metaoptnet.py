"""MetaOptNet-SVM (Lee, Maji, Ravichandran and Soatto 2019, Meta-Learning with Differentiable Convex Optimization, https://arxiv.org/abs/1904.03758).

The head of a task is a linear support vector machine of all its classes at once (Crammer and Singer, eq. 4), fitted to the support features to its
optimum, in the dual form, whose size does not depend on the number of features (section 3.3, eq. 9 and 10). The cross-entropy of the queries, with
scores times a learned `scale` (section 3.4, eq. 12), trains the backbone through the optimum, by implicit differentiation of the optimality
conditions (section 3.3, eq. 8).

As in the authors' code there is no bias, and `diagonal` is added to the diagonal of the kernel, which makes the dual solution the only one. Label
smoothing gives the part `label_smoothing` of a training query's label to the other classes.

Departures: the authors' solver (qpth) takes the dual problem as one dense system; ours (`metalearn/nn/multiclass_svm.py`) takes it apart into one
system for each class, and stops at the optimum, not after a number of steps. What is learned is the logarithm of the scale.
"""

from __future__ import annotations

import functools

from torch import Tensor

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.embedding import MetricScale, memberships
from metalearn.algorithms.transform import HeadLearner, exact
from metalearn.backbones import Backbone
from metalearn.nn.multiclass_svm import fit
from metalearn.tasks import Examples, TaskBatch


class MetaOptNet(HeadLearner):
    """Labels a query by a support vector machine that is fitted to the support features.

    Args:
        backbone: [n, ...] -> [n, D].
        transform: of features: "none", "l2" or "centred_l2".
        cost: C, of each support example's distance from the margin, beside half the squared length of the weights.
        diagonal: what is added to the diagonal of the kernel of the support features, above 0.
        scale: what the scores of queries are multiplied by.
        learn_scale: whether outer steps change it, from `scale` on.
        label_smoothing: the part of a training query's label that the wrong classes share.
    """

    def __init__(
        self,
        backbone: Backbone,
        transform: str,
        cost: float,
        diagonal: float,
        scale: float,
        learn_scale: bool,
        label_smoothing: float,
    ) -> None:
        super().__init__(backbone, transform)
        self.cost, self.diagonal = cost, diagonal
        self.scale = MetricScale(scale, learn_scale, automatic=scale)
        self.label_smoothing = label_smoothing

    def head(self, features: Tensor, support: Examples) -> Tensor:
        """Weights [T, D, N]."""
        with exact(features) as x:  # eq. 9, of the solution of eq. 10
            return fit(x, memberships(support.y, support.ways, x.dtype, support.mask), self.cost, self.diagonal)

    def logits(self, head: Tensor, queries: Tensor) -> Tensor:
        with exact(queries) as x:
            logits: Tensor = self.scale(x @ head)  # eq. 12
        return logits

    def query_loss(self, outputs: Tensor, tasks: TaskBatch) -> MetaLoss:
        loss = super().query_loss(outputs, tasks)
        if self.label_smoothing == 0:
            return loss
        smoothed = functools.partial(smoothed_cross_entropy, smoothing=self.label_smoothing)
        return loss._replace(loss=tasks.query.by_task(smoothed, outputs))


def smoothed_cross_entropy(logits: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """The cross-entropy with labels of 1 - smoothing for the right class, and the rest shared by the others: [T, n, N], [T, n] -> [T]."""
    log_p = logits.log_softmax(-1)
    right = log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    others = (log_p.sum(-1) - right) / (logits.shape[-1] - 1)
    return -((1 - smoothing) * right + smoothing * others).mean(1)
