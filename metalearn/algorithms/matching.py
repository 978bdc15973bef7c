"""Matching Networks (Vinyals, Blundell, Lillicrap, Kavukcuoglu and Wierstra 2016, https://arxiv.org/abs/1606.04080).

A query's label distribution is the attention-weighted mean of the support labels (eq. 1); attention is the softmax over the support set of the
similarity of embeddings (section 2.1.1). With `full_context` the support examples are embedded by a bidirectional LSTM over the support set,
each query by an LSTM that reads the support set K times (section 2.1.2, appendix A).

Without support examples the support set is the descriptions of the classes, one each, embedded by a class encoder (Snell, Swersky and Zemel 2017,
section 2.7) and divided by their length; this paper has no such tasks. With `description_weight` w they stand beside the examples, and each has the
attention of w of these.

Departures: the similarity may be the negative squared Euclidean distance, and may have a factor, `scale`; in the paper it is 1. As in ProtoNet
here, support and query examples of a training task pass the network together. Where the paper leaves it open: the LSTMs start from zeros, and
the order of the support set, which the bidirectional one depends on, is the order given, by label. There is no fine-tuning on the support set.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.class_encoder import ClassEncoder, described
from metalearn.algorithms.embedding import (
    SCALE_OF_COSINES,
    EmbeddingLearner,
    MetricScale,
    memberships,
    negative_squared_distances,
    scale_of_squares,
)
from metalearn.backbones import Backbone
from metalearn.tasks import Examples, TaskBatch


class Adapted(NamedTuple):
    embedded: Tensor  # [T, N*K, D], g(x_i, S)
    y: Tensor  # [T, N*K]
    ways: int
    mask: Tensor | None  # [T, N*K], of padded tasks
    log_weights: Tensor | None = None  # [N*K], of each example in the softmax; None: all alike


class MatchingNet(EmbeddingLearner):
    """Labels a query by the attention-weighted mean of the support labels.

    Args:
        backbone: [n, c, H, W] -> [n, D].
        distance: "cosine" or "squared_euclidean".
        full_context: embed every example in the light of the whole support set.
        processing_steps: of `full_context`, K: how often a query's LSTM reads the support set.
        scale: factor of the similarities, 1 in the paper; "auto" for 4 / D with squared distances and 10 with cosines.
        learn_scale: whether outer steps change it, from `scale` on.
        class_encoder: of the descriptions of classes; None: there are support examples in every task.
        description_weight: how many support examples a description counts as beside them.
        unit_descriptions: whether embedded descriptions are divided by their length.
    """

    zero_shot: ClassVar[bool] = True

    def __init__(
        self,
        backbone: Backbone,
        distance: str,
        full_context: bool,
        processing_steps: int,
        scale: float
        | str = 1.0,  # the defaults are for code of before there was a scale, and of before there were descriptions
        learn_scale: bool = False,
        class_encoder: ClassEncoder | None = None,
        description_weight: float = 0.0,
        unit_descriptions: bool = True,
    ) -> None:
        super().__init__(backbone)
        self.distance = distance
        self.class_encoder = class_encoder
        self.description_weight, self.unit_descriptions = description_weight, unit_descriptions
        automatic = SCALE_OF_COSINES if distance == "cosine" else scale_of_squares(backbone.feature_dim)
        self.scale = MetricScale(scale, learn_scale, automatic)
        self.support_context = SupportContext(backbone.feature_dim) if full_context else None
        self.query_context = QueryContext(backbone.feature_dim, processing_steps) if full_context else None

    def adapt(self, support: Examples) -> Adapted:
        return self._adapted(self.embed(support.x, support.mask), support)

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        return self._logits(adapted, self.embed(query_x))

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        support, queries = self.embed_together(tasks)
        logits = self._logits(self._adapted(support, tasks.support), queries)
        return self.scale.logged_with(self.query_loss(logits, tasks))

    @property
    def masks(self) -> bool:
        return not self.transductive and self.support_context is None

    @property
    def repeats(self) -> bool:
        return True

    def _adapted(self, embedded: Tensor, support: Examples) -> Adapted:
        """From g' [T, N*K, D]."""
        y, mask, log_weights = support.y, support.mask, None
        descriptions = described(self.class_encoder, self.description_weight, support, self.backbone)
        if descriptions is not None:
            if self.unit_descriptions:
                descriptions = F.normalize(descriptions, dim=-1)
            if not support.zero_shot:
                log_weights = embedded.new_zeros(y.shape[1] + support.ways)
                log_weights[y.shape[1] :] = math.log(self.description_weight)
            y, mask = _with_descriptions(support)
            embedded = descriptions if support.zero_shot else torch.cat([embedded, descriptions], dim=1)
        if self.support_context is not None:
            embedded = self.support_context(embedded)
        return Adapted(embedded, y, support.ways, mask, log_weights)

    def _logits(self, adapted: Adapted, queries: Tensor) -> Tensor:
        """From f' [T, n, D]: the log of eq. 1's label probabilities, [T, n, N]."""
        if self.query_context is not None:
            queries = self.query_context(queries, adapted.embedded)
        similarities = self.similarities(adapted.embedded, queries)
        if adapted.log_weights is not None:
            similarities = similarities + adapted.log_weights
        if adapted.mask is not None:
            similarities = similarities.masked_fill(~adapted.mask.unsqueeze(1), -torch.inf)
        log_attention = similarities.log_softmax(-1)  # [T, n, N*K]
        others = ~memberships(adapted.y, adapted.ways, torch.bool, adapted.mask)  # [T, N*K, N]
        # Eq. 1: P(y) = sum of a(x, x_i) over the x_i labelled y; in logarithms, as distant classes' attention underflows.
        by_class = log_attention.unsqueeze(-1).masked_fill(others.unsqueeze(1), -torch.inf)  # [T, n, N*K, N]
        return by_class.logsumexp(2)

    def similarities(self, support: Tensor, queries: Tensor) -> Tensor:
        """[T, m, D], [T, n, D] -> [T, n, m]; up to a constant per query, which cancels in the softmax."""
        if self.distance == "cosine":
            similarities = F.normalize(queries, dim=-1) @ F.normalize(support, dim=-1).transpose(1, 2)
        else:
            similarities = negative_squared_distances(queries, support)
        scaled: Tensor = self.scale(similarities)
        return scaled


def _with_descriptions(support: Examples) -> tuple[Tensor, Tensor | None]:
    """Labels [T, N*K + N] of the support examples and behind them of the descriptions, and which of both are there; None: all are."""
    tasks, labels = len(support.y), torch.arange(support.ways, device=support.y.device)
    y, mask = torch.cat([support.y, labels.expand(tasks, -1)], dim=1), support.mask
    if support.task_ways is None or min(support.task_ways) == support.ways:
        there = torch.ones_like(labels, dtype=torch.bool).expand(tasks, -1)
        return y, None if mask is None else torch.cat([mask, there], dim=1)
    there = labels < torch.tensor(support.task_ways).to(labels.device, non_blocking=True)[:, None]
    examples = torch.ones_like(support.y, dtype=torch.bool) if mask is None else mask
    return y, torch.cat([examples, there], dim=1)


class SupportContext(nn.Module):
    """g(x_i, S), a bidirectional LSTM over the support set, in its order (appendix A.2): g' [T, m, D] -> g [T, m, D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, batch_first=True, bidirectional=True)

    def forward(self, embedded: Tensor) -> Tensor:
        both: Tensor = self.lstm(embedded)[0]  # [T, m, 2D]
        forward, backward = both.chunk(2, dim=-1)
        return forward + backward + embedded  # g' goes round the LSTM


class QueryContext(nn.Module):
    """f(x, S), an LSTM that attends to the support set (appendix A.1): f' [T, n, D], g [T, m, D] -> f [T, n, D]."""

    def __init__(self, dim: int, steps: int) -> None:
        super().__init__()
        # The paper appends the read-out r to the hidden state, which would make it twice as wide as the cell; appended to the input instead, it
        # enters the gates through the same linear map.
        self.cell = nn.LSTMCell(2 * dim, dim)
        self.steps = steps

    def forward(self, queries: Tensor, support: Tensor) -> Tensor:
        hidden = cell = torch.zeros_like(queries).flatten(0, 1)  # [T*n, D]
        flat = queries.flatten(0, 1)
        for _ in range(self.steps):
            attention = (hidden.view_as(queries) @ support.transpose(1, 2)).softmax(-1)  # eq. 6, [T, n, m]
            read = (attention @ support).flatten(0, 1)  # eq. 5
            lstm_hidden, cell = self.cell(torch.cat([flat, read], dim=1), (hidden, cell))  # eq. 3
            hidden = lstm_hidden + flat  # eq. 4
        return hidden.view_as(queries)
