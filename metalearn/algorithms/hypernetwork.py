"""HyperTransformer (Zhmoginov, Sandler and Vladymyrov 2022, https://arxiv.org/abs/2201.04182), which generates the last layer.

A transformer reads the support set and writes the weights of the linear layer that labels the queries (section 3.1; for networks of the size of conv4
the paper generates that layer alone). Its tokens are, for each support example, its feature beside a learned vector of its label, and for each class
a placeholder, a learned vector beside zeros. What comes out at the placeholder of class c is the weights w_c and the bias b_c of that class:

    logit of class c = <w_c, feature of the query> + b_c

Nothing is adapted by gradients, and the order of the support set does not matter. As long as there are vectors for them, a task may have any number
of classes.

Departures: the encoder has the normalisation before each part, the authors' behind it (github.com/google-research/google-research, hypertransformer).
A linear layer brings features to the width of the tokens, and another one the tokens to weights, so that the width does not depend on the backbone;
in the authors' code both are cut out of the token. Features come less the mean of the support set's; b_c makes good for it. In training each task has
a random choice of the vectors, so that there can be more of them than training tasks have ways. The transformer starts as the construction of section
3.2, in which attention makes w_c of the mean feature of class c (`initial="means"`): the vector of a placeholder is that of its label, rolled by half
its length, and the later blocks add nothing. "plain" is torch's initial weights and, as in the authors' code, vectors drawn from N(0, 1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.caml import check_widths
from metalearn.algorithms.embedding import EmbeddingLearner, refuse_more_ways, scale_of_squares, task_keys
from metalearn.backbones import Backbone
from metalearn.nn.hashed_numbers import shuffled
from metalearn.nn.normals import masked_mean
from metalearn.nn.set_encoder import SetEncoder, equiangular
from metalearn.tasks import Examples, TaskBatch

_LABELS = 0  # number of the draw (`shuffled`)


class Generated(NamedTuple):
    """The last layer of each task."""

    weight: Tensor  # [T, N, D]
    bias: Tensor  # [T, N]


class HyperTransformer(EmbeddingLearner):
    """Labels a query by a linear layer that a transformer wrote, having seen the support set.

    Args:
        backbone: [n, ...] -> [n, D].
        ways: of the training tasks.
        width: of a token.
        label_width: numbers of a token that stand for the label.
        layers, heads: of the transformer.
        hidden: units in the middle of each block's network.
        initial: "means": the layer starts as one of class means; "plain": random vectors and torch's initial weights.
        most_ways: classes that there are vectors for; "auto": as many as training tasks have.

    Raises:
        UserError: the numbers do not fit each other, or training tasks have more ways.
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        width: int,
        label_width: int,
        layers: int,
        heads: int,
        hidden: int,
        initial: str,
        most_ways: int | str,
    ) -> None:
        super().__init__(backbone)
        self.most_ways = ways if most_ways == "auto" else int(most_ways)
        self.check_ways(ways)
        check_widths(width, width, label_width, heads, self.most_ways)
        self.label_width = label_width
        self.project = nn.Linear(backbone.feature_dim, width - label_width, bias=False)
        self.labels, self.placeholders = (nn.Parameter(torch.randn(self.most_ways, label_width)) for _ in range(2))
        self.encoder = SetEncoder(width, layers, heads, hidden)
        self.write = nn.Linear(width, backbone.feature_dim + 1)
        if initial == "means":
            self._start_with_means()

    @torch.no_grad()
    def _start_with_means(self) -> None:
        """Section 3.2: the first block's attention takes a class's placeholder to the examples of that class, and their features to it."""
        directions = self.label_width**0.5 * equiangular(self.most_ways, self.label_width)
        self.labels.copy_(directions)
        # Not the same directions: a placeholder would attend to itself first.
        rolled = self.label_width // 2
        self.placeholders.copy_(directions.roll(rolled, dims=1))
        nn.init.orthogonal_(self.project.weight)
        self.encoder.start_as_mean_of_asked(self.label_width, rolled)
        self.write.weight.zero_()
        self.write.bias.zero_()
        scale = scale_of_squares(self.backbone.feature_dim)
        self.write.weight[:-1, : -self.label_width] = scale * self.project.weight.t()

    def check_ways(self, ways: int) -> None:
        refuse_more_ways(ways, self.most_ways, "label vectors")

    @property
    def masks(self) -> bool:
        return not self.transductive

    @property
    def repeats(self) -> bool:
        return True

    def adapt(self, support: Examples) -> Generated:
        self.check_ways(support.ways)
        units = torch.arange(support.ways, device=support.y.device).expand(len(support.y), -1)
        return self.generated(self.embed(support.x, support.mask), support, units)

    def predict(self, adapted: Generated, query_x: Tensor) -> Tensor:
        return _logits(adapted, self.embed(query_x))

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        self.check_ways(tasks.support.ways)
        support, queries = self.embed_together(tasks)
        units = shuffled(task_keys(tasks.support).unsqueeze(1), self.most_ways, _LABELS)[:, : tasks.support.ways]
        return self.query_loss(_logits(self.generated(support, tasks.support, units), queries), tasks)

    def generated(self, features: Tensor, support: Examples, units: Tensor) -> Generated:
        """The last layers, of support features [T, m, D] and the vectors that stand for the classes, `units` [T, N]."""
        mean = masked_mean(features, support.mask).unsqueeze(1)  # [T, 1, D]
        shown = torch.cat([self.project(features - mean), self.labels[units.gather(1, support.y)].to(features)], -1)
        asked = F.pad(self.placeholders[units].to(features), (shown.shape[-1] - self.label_width, 0))  # [T, N, W]
        written = self.write(self.encoder.first(torch.cat([asked, shown], 1), support.ways, _there(support)))
        weight = written[..., :-1]
        # The weights are for features less that mean: <w, x - mean> + b.
        return Generated(weight, written[..., -1] - (weight @ mean.mT).squeeze(-1))


def _logits(layer: Generated, queries: Tensor) -> Tensor:
    """[T, n, D] -> [T, n, N]."""
    return queries @ layer.weight.mT + layer.bias.unsqueeze(1)


def _there(support: Examples) -> Tensor | None:
    """Of padded tasks: which of the N placeholders and m examples belong to a task, [T, N + m]."""
    if support.mask is None or support.task_ways is None:
        return None
    ways = torch.tensor(support.task_ways).to(support.y.device, non_blocking=True)
    return torch.cat([torch.arange(support.ways, device=ways.device) < ways[:, None], support.mask], 1)
