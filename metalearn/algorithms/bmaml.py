"""Bayesian MAML (Yoon, Kim, Dia, Kim, Bengio and Ahn 2018, Bayesian Model-Agnostic Meta-Learning, https://arxiv.org/abs/1806.03836).

The initialisation is a set of particles, each a whole network. Inner steps move the particles of a task together by Stein variational gradient
descent, so that they approximate the posterior over parameters (`_moved`; section 3.1); predictions are averaged over them. With `loss="chaser"`
the outer loss is the squared distance between the particles and the "leader" particles that `leader_steps` further steps on support and query
examples together would reach, held constant (section 3.2); with `loss="prediction"` it is the loss of the averaged prediction. One particle with
that loss is MAML, to the digit.

The log posterior is that of the support examples, each with the log-probability of its label, or with a normal distribution of variance 1/2 around
the prediction, whose negative logarithm is the squared error; plus that of normal parameters around 0 with precision `prior`. Divided by the number
of examples its gradient is minus that of the mean loss, so that a step size means the same as in MAML; the kernel's repulsion is divided likewise.

Departures from the authors' code (github.com/jsikyoon/bmaml, regression alone): their networks learn the precision of noise and weights, with
priors of their own; here both are settings (the noise one by `temperature`). Their kernel's gradient lacks the factor 2 of the kernel's own
exponent; their median takes each particle's distance to itself, 0, among the distances. In their chaser loss the sum over particles; here the mean.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.inner_loop import (
    Adapted,
    InnerLoopLearner,
    in_rows,
    linear_classifier,
    out_of_rows,
)
from metalearn.backbones import Backbone
from metalearn.nn.beside_support import BesideSupport
from metalearn.nn.heads import resized_head
from metalearn.nn.normals import Normals
from metalearn.nn.stein import stein_direction
from metalearn.nn.task_batched import forward_batched, with_parameters_of_first
from metalearn.nn.task_gradients import TaskGradients
from metalearn.tasks import Examples, TaskBatch

Parameters = dict[str, Tensor]  # of the network: name -> [T * M, ...], a task's particles one after another


class BayesianMAML(InnerLoopLearner):
    """Adapts several networks together, as samples of the posterior over parameters; the outer loop learns where they start.

    Args:
        backbone: [n, c, H, W] -> [n, D]; the first particle's, and the form of the others'.
        ways: outputs of the linear heads.
        particles: M.
        inner_lr: step size along the Stein direction, for the mean cross-entropy of the support set.
        inner_steps: inner steps in training.
        test_inner_steps: inner steps in evaluation.
        loss: "prediction" or "chaser".
        leader_steps: of loss="chaser": steps on support and query examples, behind the inner steps.
        temperature: factor of the particles' repulsion.
        prior: precision of the parameters' normal prior around 0.
        first_order: leave out the second derivatives.

    Raises:
        UserError: the backbone keeps running statistics.
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        particles: int,
        inner_lr: float,
        inner_steps: int,
        test_inner_steps: int,
        loss: str,
        leader_steps: int,
        temperature: float,
        prior: float,
        first_order: bool,
    ) -> None:
        super().__init__(backbone, ways)
        first = linear_classifier(backbone, ways)
        self.networks = nn.ModuleList([first, *(shuffled_copy(first) for _ in range(particles - 1))])
        self._gradients = TaskGradients(first)
        self.inner_lr = inner_lr
        self.inner_steps, self.test_inner_steps = inner_steps, test_inner_steps
        self.loss, self.leader_steps = loss, leader_steps
        self.temperature, self.prior, self.first_order = temperature, prior, first_order

    def classifier(self) -> nn.Module:
        return self.networks[0]

    def adapt_stepwise(self, support: Examples) -> Iterator[Adapted]:
        parameters = self._start(support)
        yield Adapted(parameters, support.x)
        for _ in range(self.inner_steps if self.training else self.test_inner_steps):
            parameters = self._moved(parameters, support.x, support.y, within_graph=self.training)
            yield Adapted(parameters, support.x)

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        """The logarithms of the mean probabilities, [T, N*Q, N], or the mean numbers."""
        return average(self._each(adapted, query_x), self.kind.classifies)

    def predict_distribution(self, adapted: Adapted, query_x: Tensor) -> Normals | None:
        """The mixture of the particles' likelihoods."""
        if self.kind.classifies:
            return None
        means = self._each(adapted, query_x)
        variance = (self.temperature or 1.0) / 2
        return Normals(means, torch.full_like(means, variance**0.5))

    def _each(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        """What each particle predicts, [M, T, n, N]."""
        given = adapted._replace(support_x=self._for_each(adapted.support_x))
        return self._by_task(super().predict(given, self._for_each(query_x))).transpose(0, 1)

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        adapted = self.adapt(tasks.support)
        if self.loss == "prediction":
            return self.query_loss(self.predict(adapted, tasks.query.x), tasks)
        with torch.no_grad():
            outcome = self.query_loss(self.predict(adapted, tasks.query.x), tasks)
        return MetaLoss(self._chased(dict(adapted.parameters), tasks), outcome.metrics)

    def deployed(self, adapted: Adapted) -> nn.Module:
        """The adapted networks, each with the support set where queries are normalised together with that, and their average."""
        networks = []
        for particle in range(len(self.networks)):
            own = {name: part[particle : particle + 1] for name, part in adapted.parameters.items()}
            network: nn.Module = with_parameters_of_first(self.classifier(), own).eval()
            networks.append(BesideSupport(network, adapted.support_x[0]) if self._support_statistics else network)
        return Averaged(networks, self.kind.classifies)

    def _start(self, support: Examples) -> Parameters:
        """Every task's particles before the first step."""
        tasks, named = support.y.shape[0], [dict(network.named_parameters()) for network in self.networks]
        start = {}
        for name in named[0]:
            part = torch.stack([of_one[name] for of_one in named])  # [M, ...]
            if name.startswith("head.") and support.ways != self.ways:
                part = resized_head(part, support.ways)
            start[name] = part.expand(tasks, *part.shape).flatten(0, 1)
        return start if self.training else {name: part.detach() for name, part in start.items()}

    def _moved(self, parameters: Parameters, x: Tensor, y: Tensor, within_graph: bool) -> Parameters:
        """The particles after a step of Stein variational gradient descent on examples x [T, n, ...], y [T, n, ...]."""
        if not within_graph:
            _, found = self._gradients(parameters, self._for_each(x), self._for_each(y), self.kind.loss)
            with torch.no_grad():
                return self._along(parameters, found, y.shape[1])
        with torch.enable_grad():
            leaves = {
                name: part if part.requires_grad else part.detach().requires_grad_()
                for name, part in parameters.items()
            }
            losses = self.kind.loss(forward_batched(self.classifier(), leaves, self._for_each(x)), self._for_each(y))
            slopes = torch.autograd.grad(
                # The SUM over tasks and particles, so each gets only its own gradient.
                losses.sum(),
                list(leaves.values()),
                create_graph=not self.first_order,
            )
            return self._along(leaves, dict(zip(leaves, slopes, strict=True)), y.shape[1])

    def _along(self, parameters: Parameters, slopes: Parameters, examples: int) -> Parameters:
        """The particles after a step along the Stein direction of the losses' gradients, `slopes`, of so many examples."""
        rows, upwards = self._by_task(in_rows(parameters)), -self._by_task(in_rows(slopes))
        if self.prior:
            upwards = upwards - self.prior / examples * rows
        moved = rows + self.inner_lr * stein_direction(rows, upwards, self.temperature / examples)
        return out_of_rows(moved.flatten(0, 1), parameters)

    def _chased(self, parameters: Parameters, tasks: TaskBatch) -> Tensor:
        """The chaser loss of each task, [T] (eq. 5)."""
        x, y = (torch.cat([getattr(part, of) for part in (tasks.support, tasks.query)], dim=1) for of in ("x", "y"))
        leader = {name: part.detach() for name, part in parameters.items()}
        for _ in range(self.leader_steps):
            leader = self._moved(leader, x, y, within_graph=False)
        apart = (in_rows(parameters) - in_rows(leader)).square().sum(1)
        return self._by_task(apart).mean(1)

    def _for_each(self, x: Tensor) -> Tensor:
        """Once for each particle: [T, ...] -> [T * M, ...]."""
        return x.repeat_interleave(len(self.networks), dim=0) if len(self.networks) > 1 else x

    def _by_task(self, of_particles: Tensor) -> Tensor:
        """[T * M, ...] -> [T, M, ...]"""
        return of_particles.view(-1, len(self.networks), *of_particles.shape[1:])


class Averaged(nn.Module):
    """The average of what several networks predict: [n, ...] -> [n, N]."""

    def __init__(self, networks: list[nn.Module], of_probabilities: bool) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.of_probabilities = of_probabilities

    def forward(self, x: Tensor) -> Tensor:
        return average(torch.stack([network(x) for network in self.networks]), self.of_probabilities)


def average(outputs: Tensor, of_probabilities: bool) -> Tensor:
    """The mean of several networks' outputs [M, ...]; of logits the logarithms of the mean probabilities, and a single network's as they are."""
    if not of_probabilities:
        return outputs.mean(0)
    return outputs.log_softmax(-1).logsumexp(0) - math.log(len(outputs)) if len(outputs) > 1 else outputs[0]


def shuffled_copy(network: nn.Module) -> nn.Module:
    """A network whose initial parameters are the numbers of `network` in another order within each tensor: another draw, however they were drawn."""
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel())].view_as(parameter))
    return copied
