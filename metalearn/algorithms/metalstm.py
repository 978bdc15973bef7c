"""The meta-learner LSTM: optimization as a model for few-shot learning (Ravi and Larochelle 2017, https://openreview.net/forum?id=rJY0-Kcll).

An LSTM trains the network of a task. Its cell state is the network's parameters theta; what it may write is minus the gradient; so its update

    theta_t = f_t * theta_{t-1} - i_t * gradient_t                                                     (eq. 2)

is gradient descent where the forget gate f is 1 and the input gate i is the step size. The gates are learned functions of the gradient, the loss,
theta and the gates before (section 3.1). Learned, too, is the initial cell state: the network that all tasks start from. All coordinates of theta
share the weights of the LSTM, but each has a state of its own. Below lies a usual LSTM that reads gradient and loss, preprocessed (section 3.2).

The outer gradient passes the gates and the cell states, but not the gradients and losses that the LSTM is given: these are taken for constants
(section 3.3).

Batch normalisation (section 3.4): the backbone normalises with the statistics of the examples at hand, in training as in the paper. In evaluation
that is transductive; `eval.transductive=false` normalises each query together with the support set. The paper uses running statistics of the task's
own inner steps there. Gains and shifts are coordinates of theta, as in the authors' code (github.com/twitter-research/meta-learning-lstm).

Departures: the inner loss is the mean over the mini-batch; the authors' code divides its gradient once more by the number of examples. The gates
start at `inner_lr` and `keep` in every coordinate; theirs at biases drawn from [-5, -4] and [4, 5], which are gates of 0.01 and 0.99. The gates see
those of the step before, by the paper's equations; in the authors' code their values before the sigmoid. Before the first step both take zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metalearn.algorithms.inner_loop import (
    Adapted,
    InnerLoopLearner,
    in_rows,
    linear_classifier,
    out_of_rows,
    start_for,
)
from metalearn.algorithms.reptile import mini_batches
from metalearn.backbones import Backbone
from metalearn.nn.task_gradients import TaskGradients
from metalearn.tasks import Examples

_P = math.exp(10)  # e^p of the preprocessing, p = 10
_BLOCK = 8192  # coordinates at a time: in evaluation on two threads 1.2 times as fast as all at once, in less memory


class State(NamedTuple):
    """What the meta-learner carries from inner step to inner step, for each of the P coordinates of T tasks: n = T P columns."""

    theta: Tensor  # [n], the cell state
    gates: Tensor  # [2, n], f and i of the step before
    hidden: Tensor  # [H, n], of the LSTM below
    cell: Tensor  # [H, n]


class MetaLSTM(InnerLoopLearner):
    """Trains the network of a task by a learned LSTM whose cell state the network's parameters are.

    Args:
        backbone: [n, ...] -> [n, D].
        ways: outputs of the linear head.
        hidden: H, units of the LSTM below.
        inner_lr: what the input gate starts at: the step size of the gradient descent that training starts with.
        keep: what the forget gate starts at.
        inner_steps: inner steps in training.
        test_inner_steps: inner steps in evaluation.
        inner_batch: support examples in an inner step; None: all of them.

    Raises:
        UserError: the backbone keeps running statistics, or drops features.
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        hidden: int,
        inner_lr: float,
        keep: float,
        inner_steps: int,
        test_inner_steps: int,
        inner_batch: int | None,
    ) -> None:
        super().__init__(backbone, ways)
        self.network = linear_classifier(backbone, ways)  # its parameters are the initial cell state
        self._gradients = TaskGradients(self.network)
        self.gates = Gates(hidden, inner_lr, keep)
        self.inner_steps, self.test_inner_steps, self.inner_batch = inner_steps, test_inner_steps, inner_batch

    def classifier(self) -> nn.Module:
        return self.network

    @property
    def repeats(self) -> bool:
        return True

    def adapt_stepwise(self, support: Examples) -> Iterator[Adapted]:
        tasks = len(support.x)
        start = {
            name: part.unsqueeze(0)
            for name, part in start_for(dict(self.network.named_parameters()), support.ways).items()
        }
        learns = self.training and torch.is_grad_enabled()
        theta = in_rows(start).expand(tasks, -1)
        theta = theta if learns else theta.detach()
        state = self.gates.start(theta)
        parameters = out_of_rows(theta, start)
        yield Adapted(parameters, support.x)
        for x, y in self._batches(support):
            # As constants (section 3.3).
            losses, gradients = self._gradients(parameters, x, y, self.kind.loss)
            with torch.set_grad_enabled(learns):
                state = self.gates(losses, in_rows(gradients), state)
            parameters = out_of_rows(state.theta.view_as(theta), start)
            yield Adapted(parameters, support.x)

    def _batches(self, support: Examples) -> Iterator[tuple[Tensor, Tensor]]:
        """The examples [T, n, ...] and labels [T, n, ...] of each inner step."""
        steps = self.inner_steps if self.training else self.test_inner_steps
        if self.inner_batch is None:
            yield from [(support.x, support.y)] * steps
            return
        places = mini_batches(support.x, self.inner_batch, steps)  # [T, steps, n]
        rows = torch.arange(len(places), device=places.device).unsqueeze(1)
        for step in range(steps):
            yield support.x[rows, places[:, step]], support.y[rows, places[:, step]]


class Gates(nn.Module):
    """The meta-learner: one LSTM of H units below, and above it the two gates of the cell that holds theta; each coordinate by itself."""

    def __init__(self, hidden: int, inner_lr: float, keep: float) -> None:
        super().__init__()
        self.below = nn.Linear(4 + hidden, 4 * hidden)
        self.forget, self.write = (nn.Linear(hidden + 2, 1) for _ in range(2))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.01, 0.01)  # as in the authors' code
        nn.init.constant_(self.forget.bias, _logit(keep))
        nn.init.constant_(self.write.bias, _logit(inner_lr))

    def start(self, theta: Tensor) -> State:
        """Before the first inner step, of parameters [T, P]."""
        gates, hidden, cell = (
            theta.new_zeros(size, theta.numel()) for size in (2, *2 * [self.below.out_features // 4])
        )
        return State(theta.flatten(), gates, hidden, cell)

    def forward(self, losses: Tensor, gradient: Tensor, before: State) -> State:
        """An inner step: losses [T] and their gradients [T, P] -> the state after it. Without autograd it may take the memory of `before`."""
        with torch.autocast(gradient.device.type, enabled=False):
            losses, gradient = (given.to(self.below.weight.dtype) for given in (losses, gradient))
            loss = preprocessed(losses).unsqueeze(2).expand(-1, -1, gradient.shape[1]).flatten(1)
            gradient = gradient.flatten()
            if torch.is_grad_enabled() or gradient.device.type != "cpu":
                return self._columns(loss, gradient, before)
            # In place, so that the numbers of a block stay in the cache; but theta before is what the last inner step gave to the caller.
            after = before._replace(theta=torch.empty_like(before.theta))
            for start in range(0, len(gradient), _BLOCK):
                block = slice(start, start + _BLOCK)
                step = self._columns(loss[:, block], gradient[block], State(*(part[..., block] for part in before)))
                for part, columns in zip(after, step, strict=True):
                    part[..., block] = columns
            return after

    def _columns(self, loss: Tensor, gradient: Tensor, before: State) -> State:
        """Preprocessed losses [2, n] and gradients [n] of n coordinates. With the coordinates last, each gate's numbers lie together."""
        units = len(before.hidden)
        # The candidate is tanh(x) = 2 sigmoid(2 x) - 1: torch's tanh takes five times as long on a CPU. One sigmoid of all four parts: with
        # `lstm_step`, which takes two, evaluation on two threads took 1.2 to 1.5 times as long.
        twice = torch.ones_like(self.below.bias).index_fill(
            0, torch.arange(3 * units, 4 * units, device=loss.device), 2
        )
        seen = torch.cat([loss, preprocessed(gradient), before.hidden])  # [4 + H, n]
        terms = torch.addmm((twice * self.below.bias).unsqueeze(1), twice.unsqueeze(1) * self.below.weight, seen)
        forget, write, show, candidate = terms.sigmoid_().chunk(4)
        cell = forget * before.cell + write * (2 * candidate - 1)
        hidden = show * (2 * torch.sigmoid(2 * cell) - 1)
        # Both gates above: sigmoids of linear functions of [h_t, theta_{t-1}, the gate before] (section 3.1).
        weight = torch.cat([self.forget.weight, self.write.weight])  # [2, H + 2]
        bias = torch.stack([self.forget.bias, self.write.bias])  # [2, 1]
        of_hidden, of_theta, of_gate = torch.split(weight, [units, 1, 1], dim=1)
        gates = torch.sigmoid(torch.addmm(bias, of_hidden, hidden) + of_theta * before.theta + of_gate * before.gates)
        return State(gates[0] * before.theta - gates[1] * gradient, gates, hidden, cell)  # eq. 2


def preprocessed(x: Tensor) -> Tensor:
    """Section 3.2: (log|x| / p, sign x) where |x| >= e^-p, else (-1, e^p x): [...] -> [2, ...]. For numbers of very different size."""
    size = x.abs()
    large = size >= 1 / _P
    logarithm = torch.where(large, size.clamp_min(1 / _P).log() / math.log(_P), -1.0)
    return torch.stack([logarithm, torch.where(large, x.sign(), _P * x)])


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
