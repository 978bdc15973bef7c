"""Meta Networks (Munkhdalai and Yu 2017, https://arxiv.org/abs/1703.00837): slow weights, which outer steps learn, and fast ones, which a task makes.

Two networks have both. The base learner b labels examples; the representation learner u gives each example a key. What a network should change is
seen in the gradients of its loss on the support set, the meta information; networks of their own turn these into fast weights (algorithm 1):

    Q* = d({gradients of u's loss on parts of the support set})       task-level fast weights of u       (d: an LSTM)
    W*_i = m(gradient of b's loss on support example i)               example-level fast weights of b    (m: a small network)

Support example i leaves W*_i in a memory, under its key r_i = u(Q, Q*, x_i). A query reads the memory with its own key r, by soft attention on
cosines, and is labelled with what it reads: b(W, W* = sum_i a_i W*_i, x). A layer with both weights adds what comes out of each, behind the
activation: relu(W x) + relu(W* x) (section 3.3, layer augmentation). Each weight's gradient becomes a fast weight by itself, by the same m or d for
all weights of a network.

As in the authors' code (MetaNetFull, in Chainer), the gradients are constants: the outer gradient does not pass them. So nothing trains u's output
layer, which its loss alone uses: here it is a buffer, drawn once. Layers with fast weights have no biases.

Departures: fast weights are those of the fully connected layers behind the backbone, of which b has two and u one; the paper's networks have them in
the convolutions, too. The loss of u is cross-entropy for any number of shots; with several the paper has a contrastive loss of pairs of examples. The
order of the support set, which the LSTM depends on, is a hash, and its parts are as equal as they can be. Cosines are
multiplied by `scale` before the softmax, which is nearly flat without (`scale=1` is the paper). There are outputs for `most_ways` classes, of which a
training task has a random choice.
"""

from __future__ import annotations

import copy
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.algorithms.base import Algorithm, MetaLoss
from metalearn.algorithms.embedding import SCALE_OF_COSINES, MetricScale, refuse_more_ways, task_keys
from metalearn.algorithms.mann import lstm_step
from metalearn.backbones import Backbone, embed_tasks
from metalearn.nn.hashed_numbers import shuffled
from metalearn.tasks import Examples, TaskBatch

_ORDER, _UNITS = 1, 2  # what is drawn for a task
_K = 7.0  # of the preprocessing, as in the authors' code


class Features(NamedTuple):
    """What the two backbones make of examples."""

    base: Tensor  # [T, n, D], of b
    key: Tensor  # [T, n, D], of u


class Adapted(NamedTuple):
    """The memory of each task, under the keys of its support examples."""

    keys: Tensor  # [T, m, H], R
    hidden: Tensor  # [T, m, H, D], M: the fast weights of b's first layer
    output: Tensor  # [T, m, N, H], M: those of its second
    fast_key: Tensor  # [T, H, D], Q*
    slow_output: Tensor  # [T, N, H], the rows of the second layer's slow weights that stand for the task's classes


class MetaNet(Algorithm):
    """Labels a query by a network whose fast weights are read from a memory of what the support examples' gradients ask for.

    Args:
        backbone: [n, ...] -> [n, D]; u has a copy of it, with weights of its own from the first outer step on.
        ways: of the training tasks.
        width: H, units of b's hidden layer, and numbers of a key.
        parts: of the support set, one for each step of the LSTM; fewer where it has fewer examples.
        units: of the networks that make fast weights.
        scale: factor of the cosines; "auto": 10.
        most_ways: classes that there are outputs for; "auto": as many as training tasks have.

    Raises:
        UserError: training tasks have more ways.
    """

    uneven: ClassVar[bool] = True
    key_output: Tensor  # [most_ways, H], of u's loss

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        width: int,
        parts: int,
        units: int,
        scale: float | str,
        most_ways: int | str,
    ) -> None:
        super().__init__()
        self.most_ways = ways if most_ways == "auto" else int(most_ways)
        self.check_ways(ways)
        self.parts = parts
        self.backbone, self.key_backbone = backbone, copy.deepcopy(backbone)
        dim = backbone.feature_dim
        self.hidden, self.key = (nn.Linear(dim, width, bias=False) for _ in range(2))
        self.output = nn.Linear(width, self.most_ways, bias=False)
        self.register_buffer("key_output", nn.Linear(width, self.most_ways, bias=False).weight.detach().clone())
        self.of_example = _OfGradient(units)
        self.of_task = _OfSequence(units)
        self.scale = MetricScale(scale, learned=False, automatic=SCALE_OF_COSINES)

    def check_ways(self, ways: int) -> None:
        refuse_more_ways(ways, self.most_ways, "outputs")

    @property
    def transductive(self) -> bool:
        return self.backbone.uses_batch_statistics

    @property
    def repeats(self) -> bool:
        return True

    def adapt(self, support: Examples) -> Adapted:
        self.check_ways(support.ways)
        tasks, examples = support.y.shape
        units = torch.arange(support.ways, device=support.y.device).expand(tasks, -1)
        # y starts with 0: the same order for every task.
        order = shuffled(support.y[:1, :1], examples, _ORDER).expand(tasks, -1)
        return self._memory(self._features(support.x), support, units, order)

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        return self._logits(adapted, self._features(query_x))

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        support = tasks.support
        self.check_ways(support.ways)
        together = self._features(torch.cat([support.x, tasks.query.x], dim=1))
        size = support.x.shape[1]
        shown, asked = (Features(*parts) for parts in zip(*((x[:, :size], x[:, size:]) for x in together), strict=True))
        drawn = task_keys(support).unsqueeze(1)
        # Which output stands for which class: another choice for every task, so that all of them are trained.
        units = shuffled(drawn, self.most_ways, _UNITS)[:, : support.ways]
        order = shuffled(drawn, support.y.shape[1], _ORDER)
        return self.query_loss(self._logits(self._memory(shown, support, units, order), asked), tasks)

    def _features(self, x: Tensor) -> Features:
        return Features(*(embed_tasks(network, x, self.training) for network in (self.backbone, self.key_backbone)))

    def _memory(self, shown: Features, support: Examples, units: Tensor, order: Tensor) -> Adapted:
        """Algorithm 1 up to the queries: outputs `units` [T, N] stand for the classes, the LSTM reads in `order` [T, m]."""
        y = F.one_hot(support.y, support.ways)
        slow_output = self.output.weight[units]
        of_key, _ = gradients(shown.key, self.key.weight, self.key_output[units], y)
        fast_key = self.of_task(_means_of_parts(of_key, order, self.parts))  # eq. 4
        of_hidden, of_output = gradients(shown.base, self.hidden.weight, slow_output, y)
        keys = self._keys(shown.key, fast_key)
        return Adapted(keys, self.of_example(of_hidden), self.of_example(of_output), fast_key, slow_output)  # eq. 8

    def _keys(self, features: Tensor, fast: Tensor) -> Tensor:
        """u(Q, Q*, x): features [T, n, D], Q* [T, H, D] -> [T, n, H]."""
        keys: Tensor = self.key(features) + features @ fast.mT.to(features.dtype)
        return keys

    def _logits(self, adapted: Adapted, asked: Features) -> Tensor:
        """Algorithm 1, of the queries -> [T, n, N]."""
        keys = F.normalize(self._keys(asked.key, adapted.fast_key), dim=-1)
        attention = self.scale(keys @ F.normalize(adapted.keys, dim=-1).mT).softmax(-1)  # [T, n, m]
        x = asked.base
        # With each support example's fast weights first, then their mean: no query needs a matrix of its own.
        fast = torch.einsum("tnm,tnmh->tnh", attention, torch.einsum("tmhd,tnd->tnmh", adapted.hidden, x))
        hidden = self.hidden(x).relu() + fast.relu()
        fast = torch.einsum("tnm,tnmc->tnc", attention, torch.einsum("tmch,tnh->tnmc", adapted.output, hidden))
        logits: Tensor = hidden @ adapted.slow_output.mT + fast
        return logits


def gradients(x: Tensor, hidden: Tensor, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """What each example's cross-entropy asks of the weights of two layers with a relu between them, as constants.

    Args:
        x: [T, m, D].
        hidden: the first layer's weights, [H, D].
        output: the second layer's, [T, N, H].
        y: one-hot, [T, m, N].

    Returns:
        gradients [T, m, H, D] and [T, m, N, H].
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        x = x.to(hidden.dtype)
        between = (x @ hidden.t()).relu()  # [T, m, H]
        of_logits = (between @ output.mT).softmax(-1) - y
        of_between = (of_logits @ output) * (between > 0)
        return of_between.unsqueeze(-1) * x.unsqueeze(-2), of_logits.unsqueeze(-1) * between.unsqueeze(-2)


def preprocessed(gradient: Tensor) -> Tensor:
    """[...] -> [..., 2], within -1 and 1: the logarithm of the size, and the sign of what is large (Andrychowicz et al. 2016, arXiv:1606.04474)."""
    # By the authors' formula; that of `metalstm` has both cases apart and another constant, with nearly the same outcome.
    size = (gradient.abs() + torch.finfo(gradient.dtype).eps).log() / _K
    return torch.stack([size.clamp(min=-1), (gradient * torch.e**_K).clamp(-1, 1)], dim=-1)


class _OfGradient(nn.Module):
    """m: a gradient of any shape -> as many fast weights, each from its own number alone."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, 1)
        )

    def forward(self, gradient: Tensor) -> Tensor:
        made: Tensor = self.layers(preprocessed(gradient))
        return made.squeeze(-1)


class _OfSequence(nn.Module):
    """d: gradients [T, S, ...] -> fast weights [T, ...], by an LSTM over the S of each number."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.gates = nn.Linear(2 + units, 4 * units)
        self.read = nn.Linear(units, 1)

    def forward(self, gradients: Tensor) -> Tensor:
        hidden = cell = gradients.new_zeros(*gradients[:, 0].shape, self.read.in_features)
        for seen in preprocessed(gradients).unbind(1):
            hidden, cell = lstm_step(self.gates(torch.cat([seen, hidden], dim=-1)), cell)
        made: Tensor = self.read(hidden)
        return made.squeeze(-1)


def _means_of_parts(gradient: Tensor, order: Tensor, parts: int) -> Tensor:
    """Of gradients [T, m, ...], in `order` [T, m]: their means over parts that follow each other, [T, parts, ...]."""
    examples = order.shape[1]
    parts = min(parts, examples)
    part_of = torch.arange(examples, device=order.device) * parts // examples
    share = F.one_hot(part_of, parts).to(gradient)  # [m, parts], in order
    share = share / share.sum(0)
    rows = torch.arange(len(order), device=order.device).unsqueeze(1)
    return torch.einsum("mp,tm...->tp...", share, gradient[rows, order])
