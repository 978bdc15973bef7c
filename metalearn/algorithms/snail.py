"""SNAIL, a simple neural attentive meta-learner (Mishra, Rohaninejad, Chen and Abbeel 2018, https://arxiv.org/abs/1707.03141).

A task is one sequence: the support examples, each with its label, then a query without one, whose label the last position predicts (section 3).
Temporal convolutions bring together what neighbours in the sequence say, causal attention finds a position far back; blocks of both alternate, and
each puts its outputs beside its inputs. Nothing is adapted. As no position sees those after it, the support set is computed once, and every query
is a last position of its own.

The order of the support set is a hash: in training of the task's examples, so that each task has another one; in evaluation of the number of
examples alone, so that a test task has the same order at every call.

Departures: all queries of a task share its support set in a training step, the paper has one query in a task. The convolutions reach back 1, 2, 4,
... positions; by the paper's pseudocode 2, 4, ..., which never reach the neighbour. How many there are is a setting (`convolutions`) and does not
follow the length of the sequence, so that other numbers of shots can be tested. There are label units for `most_ways` classes, of which a training
task has a random choice. The first attention block starts as a comparison of features (`initial="images"`; "plain" is torch's initial weights).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.embedding import EmbeddingLearner, refuse_more_ways, task_keys
from metalearn.backbones import Backbone
from metalearn.nn.causal import CausalAttention, CausalLayer, CausalStack, DenseCausal, Kept
from metalearn.nn.hashed_numbers import shuffled
from metalearn.tasks import Examples, TaskBatch

_ORDER, _UNITS = 1, 2  # what is drawn for a task


class Adapted(NamedTuple):
    kept: tuple[Kept, ...]  # what each layer keeps of the support set
    ways: int


class SNAIL(EmbeddingLearner):
    """Labels a query as the last position of a sequence whose others are the support examples with their labels.

    Args:
        backbone: [n, ...] -> [n, D].
        ways: of the training tasks.
        width: numbers of an example in the sequence, beside those of the label.
        filters: of a temporal convolution.
        convolutions: in each of the two blocks of them; they reach 2^convolutions - 1 positions back.
        initial: "images": the first attention block compares features at first; "plain": torch's initial weights.
        most_ways: label units; "auto": as many as training tasks have ways.

    Raises:
        UserError: fewer label units than ways.
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        width: int,
        filters: int,
        convolutions: int,
        initial: str,
        most_ways: int | str,
    ) -> None:
        super().__init__(backbone)
        self.most_ways = ways if most_ways == "auto" else int(most_ways)
        self.check_ways(ways)
        self.project = nn.Linear(backbone.feature_dim, width)  # the last layer of the paper's embedding network
        layers = list(_layers(width + self.most_ways, filters, convolutions))
        self.stack = CausalStack(layers)
        self.read = nn.Linear(layers[-1].out_channels, self.most_ways)
        if initial == "images":
            self._see_images_first(width)

    def _see_images_first(self, width: int) -> None:
        """Sets initial weights with which the first attention block reads the labels of the examples that are like the one at hand.

        Torch's give keys and queries that have nothing to do with each other; that they should is what takes long to learn.
        """
        first = self.stack.layers[0]
        assert isinstance(first, CausalAttention)
        with torch.no_grad():
            nn.init.orthogonal_(self.project.weight)
            first.key.weight[:, width:] = 0
            nn.init.orthogonal_(first.key.weight[:, :width], gain=2)
            first.key.bias.zero_()
            first.query.weight.copy_(first.key.weight)
            first.query.bias.zero_()
            nn.init.orthogonal_(first.value.weight[:, width:])

    def check_ways(self, ways: int) -> None:
        refuse_more_ways(ways, self.most_ways, "label units")

    def adapt(self, support: Examples) -> Adapted:
        self.check_ways(support.ways)
        order = shuffled(support.y[:1, :1], support.y.shape[1], _ORDER)[0]  # y starts with 0: the same for every task
        kept = self._support(self.embed(support.x)[:, order], support.y[:, order])
        return Adapted(kept, support.ways)

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        return self._scores(self.embed(query_x), adapted.kept)[..., : adapted.ways]

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        """The loss of the last position alone, as in the paper: nothing else has to be predicted."""
        ways = tasks.support.ways
        self.check_ways(ways)
        support, queries = self.embed_together(tasks)
        keys = task_keys(tasks.support).unsqueeze(1)
        # Which unit stands for which class: another choice for every task, so that all units are trained.
        units = shuffled(keys, self.most_ways, _UNITS)[:, :ways]  # [T, N]
        order = shuffled(keys, support.shape[1], _ORDER)  # [T, m]
        labels = units.gather(1, tasks.support.y).gather(1, order)
        kept = self._support(support.gather(1, order.unsqueeze(-1).expand_as(support)), labels)
        scores = self._scores(queries, kept)
        return self.query_loss(scores.gather(2, units.unsqueeze(1).expand(-1, scores.shape[1], -1)), tasks)

    @property
    def repeats(self) -> bool:
        return True

    def _support(self, features: Tensor, units: Tensor) -> tuple[Kept, ...]:
        """Features [T, m, D] and label units [T, m] of the support set, in its order -> what each layer keeps."""
        x = self.project(features)
        return self.stack.over_sequence(torch.cat([x, F.one_hot(units, self.most_ways).to(x)], dim=-1))

    def _scores(self, features: Tensor, kept: tuple[Kept, ...]) -> Tensor:
        """Queries [T, n, D], each as the last position: scores of all label units [T, n, most_ways]."""
        ends = F.pad(self.project(features), (0, self.most_ways))  # no label
        scores: Tensor = self.read(self.stack.of_ends(ends, kept))
        return scores


def _layers(channels: int, filters: int, convolutions: int) -> Iterator[CausalLayer]:
    """The blocks of the paper's networks for images: attention, convolutions, attention, convolutions, attention."""
    for keys, values in ((64, 32), (256, 128), (512, 256)):
        attention = CausalAttention(channels, keys, values)
        channels = attention.out_channels
        yield attention
        if keys == 512:
            return
        for number in range(convolutions):
            convolution = DenseCausal(channels, filters, dilation=2**number)
            channels = convolution.out_channels
            yield convolution
