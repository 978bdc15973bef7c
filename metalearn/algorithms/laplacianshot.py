"""LaplacianShot (Ziko, Dolz, Granger and Ben Ayed 2020, https://arxiv.org/abs/2006.15486): queries that are near to each other get the same label.

TRANSDUCTIVE, always: all queries of a task are labelled together. The assignments y of the queries to classes minimise the sum of the unary term,
each query's squared distances to the class prototypes, and the Laplacian term, which is `weight` times the disagreement of queries that are
neighbours of each other. A bound on that sum is minimised again and again (Algorithm 1), for all queries at once:

    y_q <- softmax over classes of (-a_q + weight * sum of y_p over the neighbours p of q),    from y_q = softmax(-a_q)

As in the authors' code (github.com/imtiazziko/LaplacianShot: `src/lshot_update.py`, and `create_affinity` of `src/train_lshot.py`) an edge goes
from a query to each of its nearest queries and need not go back; the updates end where the bound changes by no more than a millionth of itself,
or after 20.

Departures: the code's `--knn 3` counts the query itself, so that it is `neighbours=2` here. The code that was read (commit 1fcbc16) matches
predicted to true labels by the Hungarian method before it counts the right ones (`get_accuracy`), which uses the labels of the queries; here
predictions count as they are.
The paper tunes `weight` on validation tasks between 0.1 and 1.5 for each network; here it is one setting. Nothing is trained.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from metalearn.algorithms.embedding import class_means, negative_squared_distances
from metalearn.algorithms.transform import FeatureLearner
from metalearn.backbones import Backbone
from metalearn.errors import UserError
from metalearn.tasks import Examples

_UPDATES = 20  # at most, as in the authors' code
_CHANGE = 1e-6  # of the bound, relative to it, at which the updates end, likewise


class LaplacianShot(FeatureLearner):
    """Labels all queries of a task together, by their distances to the class means and by their neighbours' labels.

    Args:
        backbone: [n, ...] -> [n, D].
        transform: of features: "none", "l2" or "centred_l2".
        neighbours: k, of each query among the other queries of its task.
        weight: lambda, of the Laplacian term beside the unary one; 0 leaves the nearest class mean.
    """

    trains: ClassVar[bool] = False

    def __init__(self, backbone: Backbone, transform: str, neighbours: int, weight: float) -> None:
        super().__init__(backbone, transform)
        self.neighbours, self.weight = neighbours, weight

    def adapt(self, support: Examples) -> Tensor:
        """Prototypes [T, N, D]."""
        return class_means(self.features(support.x, support.mask), support)

    def predict(self, adapted: Tensor, query_x: Tensor) -> Tensor:
        """The logarithms of the assignments, [T, n, N]."""
        queries = self.features(query_x)
        return bound_updates(_squares(queries, adapted), self._neighbours_of(queries), self.weight)

    @property
    def transductive(self) -> bool:
        return True

    def set_transductive(self, transductive: bool) -> None:
        if not transductive:
            raise UserError(
                "eval.transductive=false: this algorithm labels the queries of a task together; without their Laplacian term it is "
                "algorithm=nearest_centroid"
            )

    @property
    def masks(self) -> bool:
        return False  # `predict` is not told which queries are padding, and they would be neighbours

    def _neighbours_of(self, queries: Tensor) -> Tensor:
        """The nearest other queries of each, [T, n, D] -> [T, n, k]."""
        others = queries.shape[1]
        distances = _squares(queries, queries).masked_fill(
            torch.eye(others, dtype=torch.bool, device=queries.device), torch.inf
        )
        return distances.topk(min(self.neighbours, others - 1), dim=-1, largest=False).indices


def bound_updates(unary: Tensor, neighbours: Tensor, weight: float) -> Tensor:
    """Algorithm 1: a [T, n, N], neighbours [T, n, k] -> log y [T, n, N]. Each task ends by itself, so none depends on the others."""
    log_y, bound = (-unary).log_softmax(-1), torch.full_like(unary[:, 0, 0], torch.inf)
    active = torch.ones_like(bound, dtype=torch.bool)  # [T]
    for update in range(_UPDATES):
        new = (weight * _sum_over(log_y.exp(), neighbours) - unary).log_softmax(-1)
        log_y = torch.where(active[:, None, None], new, log_y)
        y = log_y.exp()
        now = (y * (log_y + unary - weight * _sum_over(y, neighbours))).sum((1, 2))
        if update > 1:
            active = active & ((now - bound).abs() > _CHANGE * bound.abs())
            if not active.any():
                break
        bound = now
    return log_y


def _sum_over(y: Tensor, neighbours: Tensor) -> Tensor:
    """The sum of y [T, n, N] over each query's neighbours [T, n, k]."""
    tasks = torch.arange(len(y), device=y.device)[:, None, None]
    return y[tasks, neighbours].sum(2)


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances, [T, n, D], [T, m, D] -> [T, n, m]."""
    return a.square().sum(-1, keepdim=True) - negative_squared_distances(a, b)
