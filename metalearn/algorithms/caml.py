"""CAML, context-aware meta-learning (Fifty, Duan, Junkins, Amid, Leskovec, Re and Thrun 2024, https://arxiv.org/abs/2310.10971).

A task is a set of tokens for a transformer that learned, over many tasks, how to label one query by labelled examples; nothing is adapted in a test
task. A support example's token is its feature beside the vector of its label, the query's token is its feature beside a learned vector for "unknown".
The label vectors are fixed: they have length 1 and equal, largest angles (ELMES). An encoder without places and without a causal mask lets all tokens
see each other, and a linear layer reads the label from the query's token. Each query has a sequence of its own. The features are those of a frozen
pre-trained network; as in the authors' code (github.com/cfifty/CAML: `src/models/CAML.py`, `src/models/TransformerEncoder.py`) nothing forbids to
train it too.

Departures: features are centred and divided by their length (`transform="none"` leaves them as they are), and pass a linear layer, so that the
width of the tokens does not depend on the backbone (`width="auto"` leaves it out). In training each task has a random choice of the label vectors,
so that there can be more of them than training tasks have ways. The last block computes the query's token alone: nobody looks at the others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.embedding import refuse_more_ways, task_keys
from metalearn.algorithms.transform import FeatureLearner
from metalearn.backbones import Backbone
from metalearn.errors import UserError
from metalearn.nn.hashed_numbers import shuffled
from metalearn.nn.set_encoder import SetEncoder, equiangular
from metalearn.tasks import Examples, TaskBatch

_LABELS = 0  # number of the draw (`shuffled`)


class Adapted(NamedTuple):
    features: Tensor  # [T, m, D], of the support set
    y: Tensor  # [T, m]
    ways: int
    mask: Tensor | None  # [T, m], of padded tasks


class CAML(FeatureLearner):
    """Labels a query by a transformer over the query and the support set.

    Args:
        backbone: [n, ...] -> [n, D].
        ways: of the training tasks.
        transform: of features: "none", "l2" or "centred_l2".
        width: of a token; "auto": D + `label_width`, without a linear layer for the features.
        label_width: numbers of a token that stand for the label.
        layers, heads: of the transformer.
        hidden: units in the middle of each block's network.
        most_ways: labels that there are vectors for; "auto": as many as training tasks have.

    Raises:
        UserError: the numbers do not fit each other, or training tasks have more ways.
    """

    labels: Tensor  # [most_ways, label_width]

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        transform: str,
        width: int | str,
        label_width: int,
        layers: int,
        heads: int,
        hidden: int,
        most_ways: int | str,
    ) -> None:
        super().__init__(backbone, transform)
        self.most_ways = ways if most_ways == "auto" else int(most_ways)
        self.check_ways(ways)
        of_tokens = backbone.feature_dim + label_width if width == "auto" else int(width)
        check_widths(width, of_tokens, label_width, heads, self.most_ways)
        self.project = nn.Identity() if width == "auto" else _projection(backbone.feature_dim, of_tokens - label_width)
        self.unknown = nn.Parameter(torch.zeros(label_width))
        self.label_scale = nn.Parameter(torch.ones(()))
        self.encoder = SetEncoder(of_tokens, layers, heads, hidden)
        self.read = nn.Linear(of_tokens, self.most_ways, bias=False)
        self.register_buffer("labels", equiangular(self.most_ways, label_width))

    def check_ways(self, ways: int) -> None:
        refuse_more_ways(ways, self.most_ways, "labels")

    def adapt(self, support: Examples) -> Adapted:
        self.check_ways(support.ways)
        return Adapted(self.features(support.x, support.mask), support.y, support.ways, support.mask)

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        labels = torch.arange(adapted.ways, device=adapted.y.device).expand(len(adapted.y), -1)
        return self._logits(adapted, self.features(query_x), labels)

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        support, queries = self.features_together(tasks)
        self.check_ways(tasks.support.ways)
        adapted = Adapted(support, tasks.support.y, tasks.support.ways, tasks.support.mask)
        labels = shuffled(task_keys(tasks.support).unsqueeze(1), self.most_ways, _LABELS)[:, : tasks.support.ways]
        return self.query_loss(self._logits(adapted, queries, labels), tasks)

    @property
    def repeats(self) -> bool:
        return True

    def _logits(self, adapted: Adapted, queries: Tensor, labels: Tensor) -> Tensor:
        """Queries [T, n, D], which label vector stands for which class [T, N] -> [T, n, N]."""
        vectors = self.label_scale * self.labels[labels.gather(1, adapted.y)]  # [T, m, label_width]
        support = torch.cat([self.project(adapted.features), vectors.to(queries)], -1)  # [T, m, W]
        unknown = self.unknown.to(queries).expand(*queries.shape[:2], -1)
        first = torch.cat([self.project(queries), unknown], -1).unsqueeze(2)  # [T, n, 1, W]
        others = support.unsqueeze(1).expand(-1, queries.shape[1], -1, -1)  # [T, n, m, W]
        there = None
        if adapted.mask is not None:
            with_query = torch.cat([torch.ones_like(adapted.mask[:, :1]), adapted.mask], 1)  # [T, 1 + m]
            there = with_query.repeat_interleave(queries.shape[1], dim=0)
        read = self.read(self.encoder(torch.cat([first, others], 2).flatten(0, 1), there))
        logits: Tensor = read.view(*queries.shape[:2], -1)
        return logits.gather(2, labels.unsqueeze(1).expand(-1, queries.shape[1], -1))


def _projection(dim: int, width: int) -> nn.Linear:
    """Keeps the lengths of features, on average, and their angles as far as there is room: they and the labels are of equal weight."""
    projection = nn.Linear(dim, width, bias=False)
    nn.init.orthogonal_(projection.weight, gain=math.sqrt(max(dim / width, 1.0)))
    return projection


def check_widths(width: int | str, of_tokens: int, label_width: int, heads: int, most_ways: int) -> None:
    """For tokens of a feature and a label.

    Args:
        width: the setting: a number or "auto".
        of_tokens: the number that it stands for.

    Raises:
        UserError: the numbers do not fit each other.
    """
    if most_ways > label_width:
        raise UserError(f"algorithm.label_width={label_width} is less than the number of labels, {most_ways}")
    if of_tokens <= label_width:
        raise UserError(
            f"algorithm.width={width} leaves no room for features beside algorithm.label_width={label_width}"
        )
    if of_tokens % heads:
        what = f"algorithm.width={width}" + ("" if width == of_tokens else f", which is {of_tokens} here,")
        raise UserError(f"{what} is no multiple of algorithm.heads={heads}")
