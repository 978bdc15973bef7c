"""A linear probe for each task: logistic regression on features (Tian, Wang, Krishnan, Tenenbaum and Isola 2020, RFS, https://arxiv.org/abs/2003.11539).

The head of a task minimises the cross-entropy of its support set plus `penalty` / 2 times the squared length of the weights, on features
of length 1 by default. It is solved to the optimum, for all tasks at once, by Newton's method (`metalearn/nn/softmax_regression.py`);
the authors' code calls scikit-learn's LogisticRegression, whose optimum is the same for C = 1 / penalty: C = 1 there.

By default nothing is trained; the paper's backbone is a classifier of the training classes (here `algorithm=pretrain`), which it distils. With
`train.steps` above 0 the loss of the queries trains the backbone through the optimum, by implicit differentiation, as in the logistic-regression
variant of Bertinetto, Henriques, Torr and Vedaldi 2019 (https://arxiv.org/abs/1805.08136) that unrolls a few Newton steps.

Departures: `scale` multiplies the scores of queries; 1 as in the paper.
"""

from __future__ import annotations

from torch import Tensor

from metalearn.algorithms.embedding import MetricScale, memberships
from metalearn.algorithms.transform import HeadLearner, exact
from metalearn.backbones import Backbone
from metalearn.nn.softmax_regression import fit
from metalearn.tasks import Examples

Head = tuple[Tensor, Tensor]


class Logistic(HeadLearner):
    """Labels a query by a logistic regression that is fitted to the support features.

    Args:
        backbone: [n, ...] -> [n, D].
        transform: of features: "none", "l2" or "centred_l2".
        penalty: of half the squared length of the weights, beside the sum of the support examples' losses; 1 / C of scikit-learn.
        scale: what the scores of queries are multiplied by.
        learn_scale: whether outer steps change it, from `scale` on.
    """

    def __init__(self, backbone: Backbone, transform: str, penalty: float, scale: float, learn_scale: bool) -> None:
        super().__init__(backbone, transform)
        self.penalty = penalty
        self.scale = MetricScale(scale, learn_scale, automatic=scale)

    def head(self, features: Tensor, support: Examples) -> Head:
        """Weights [T, D, N] and biases [T, N]."""
        with exact(features) as x:
            found = fit(x, memberships(support.y, support.ways, x.dtype, support.mask), self.penalty)
        return found.weight, found.bias

    def logits(self, head: Head, queries: Tensor) -> Tensor:
        weight, bias = head
        with exact(queries) as x:
            logits: Tensor = self.scale(x @ weight + bias.unsqueeze(1))
        return logits
