"""What the learners share whose adaptation is a network of its own for every task: a backbone and a linear head, trained on the support set.

T tasks, N ways, K shots, Q queries per class, D features.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from metalearn.algorithms.base import Algorithm, MetaLoss
from metalearn.backbones import Backbone
from metalearn.kinds import CLASSIFICATION, REGRESSION, Kind
from metalearn.nn.beside_support import BesideSupport, forward_one_by_one
from metalearn.nn.chain import Chain, chain_of
from metalearn.nn.heads import resized_head
from metalearn.nn.task_batched import (
    WrittenOut,
    better_task_by_task,
    forward_batched,
    loss_task_by_task,
    recomputed,
    refuse_dropping,
    with_parameters,
    with_parameters_of_first,
)
from metalearn.nn.task_gradients import IMAGES, TaskGradients, images_on_cpu, in_rows_of_memory, loss_with_gradients
from metalearn.nn.twice import TwiceDifferentiable, twice_differentiable
from metalearn.tasks import Examples, TaskBatch


class Adapted(NamedTuple):
    parameters: Mapping[str, Tensor]  # of the classifier: name -> [T, ...]
    support_x: Tensor  # [T, N*K, ...], for evaluation that is not transductive


class InnerLoopLearner(Algorithm):
    """Base of those learners. A subclass says how a step is made (`adapt_stepwise`) and which network it starts from (`classifier`).

    Raises:
        UserError: the backbone drops features, or is adapted and keeps running statistics.
    """

    kinds: ClassVar[tuple[Kind, ...]] = (CLASSIFICATION, REGRESSION)
    uneven: ClassVar[bool] = True
    adapts_backbone = True

    def __init__(self, backbone: Backbone, ways: int) -> None:
        super().__init__()
        if self.adapts_backbone:
            backbone.refuse_inner_loop()
        refuse_dropping(backbone)
        self.ways = ways
        self._transductive = bool(backbone.uses_batch_statistics)
        self._support_statistics = False

    @abstractmethod
    def classifier(self) -> nn.Module:
        """The network whose parameters are adapted, as `linear_classifier` makes it: [n, ...] -> [n, N], or -> [n, D] numbers."""

    @abstractmethod
    def adapt_stepwise(self, support: Examples) -> Iterator[Adapted]:
        """The parameters before the first inner step and after each."""

    def adapt(self, support: Examples) -> Adapted:
        """The parameters after the last inner step."""
        for state in self.adapt_stepwise(support):  # one state in memory at a time
            last = state
        return last

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        if self._support_statistics and not self.training:
            return forward_one_by_one(self.classifier(), adapted.parameters, adapted.support_x, query_x)
        return forward_batched(self.classifier(), adapted.parameters, query_x)

    def deployed(self, adapted: Adapted) -> nn.Module:
        """The adapted network as it is, or with the support set where each query is normalised together with that."""
        network = with_parameters_of_first(self.classifier(), adapted.parameters).eval()
        return BesideSupport(network, adapted.support_x[0]) if self._support_statistics else network

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        return self.queries_loss(self.adapt(tasks.support), tasks)

    def queries_loss(self, adapted: Adapted, tasks: TaskBatch) -> MetaLoss:
        """The queries' loss of training tasks after adaptation; by the cheaper way where the parameters hold all that the loss depends on."""
        query = tasks.query
        one_by_one = better_task_by_task(query.x)
        written_out: WrittenOut | None = None
        if images_on_cpu(query.x):
            written_out = self._chain_of_queries if one_by_one else self._twice_of_queries
        cheaper = one_by_one or written_out is not None
        if not (self.adapts_backbone and cheaper and torch.is_grad_enabled()):
            return self.query_loss(self.predict(adapted, query.x), tasks)
        at_once = 1 if one_by_one else max(1, IMAGES // query.x.shape[1])
        loss, outputs = loss_task_by_task(
            self.classifier(), adapted.parameters, query.x, query.y, self.kind.loss, written_out, at_once
        )
        return MetaLoss(loss, self.scored(outputs, query.y))

    @functools.cached_property
    def _chain_of_queries(self) -> Chain | None:
        network = self.classifier()
        convolves = any(isinstance(module, nn.Conv2d) for module in network.modules())
        return chain_of(network, direct=True) if convolves else None  # others gain nothing by it

    @functools.cached_property
    def _twice_of_queries(self) -> TwiceDifferentiable | None:
        return twice_differentiable(self.classifier())

    @property
    def transductive(self) -> bool:
        return self._transductive and not self._support_statistics

    def set_transductive(self, transductive: bool) -> None:
        if transductive and not self._transductive:
            super().set_transductive(transductive)
        # Nichol et al. 2018, section 6: without transduction, each query is normalised together with the support set only.
        self._support_statistics = self._transductive and not transductive


class MetaModuleLearner(InnerLoopLearner):
    """Base of those whose inner steps one of learn2learn's meta-modules makes, on the gradient of the support set's loss.

    Args:
        learner: has `clone()`, `adapt(loss, first_order)`, `first_order` and, as `module`, a TaskBatched of a network with a `head`.
        checkpoint_inner: keep each inner step's parameters alone and compute the rest again in the backward pass.
        like: a network of known layers with the same names and outputs, where the learner's has others; None: its own.
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        learner: Any,
        inner_steps: int,
        test_inner_steps: int,
        checkpoint_inner: bool = False,
        like: nn.Module | None = None,
    ) -> None:
        super().__init__(backbone, ways)
        self.learner = learner
        self._gradients = TaskGradients(learner.module.module if like is None else like)
        self.checkpoint_inner = checkpoint_inner
        self.inner_steps, self.test_inner_steps = inner_steps, test_inner_steps

    def classifier(self) -> nn.Module:
        module: nn.Module = self.learner.module.module
        return module

    def adapt_stepwise(self, support: Examples) -> Iterator[Adapted]:
        return self.descend(support.x, support)

    def descend(self, x: Tensor, support: Examples) -> Iterator[Adapted]:
        """Inner steps on the support set's x, as what is adapted takes it: parameters within the graph in training, detached in evaluation."""
        with torch.enable_grad():  # evaluation turns gradients off, the inner loop lives on them
            learner = self.learner.clone()
            learner.module.expand(x.shape[0])
            self.begin(learner, x, support)
        # Evaluation needs no second derivatives.
        by_hand = not self.training and self._gradients.by_hand(x)
        if by_hand:
            in_rows_of_memory(learner.module.module)
        yield self._adapted(learner, support)
        for step in range(self.inner_steps if self.training else self.test_inner_steps):
            first_order = not self.training or self.leaves_out_second_derivatives()
            with torch.enable_grad():
                self.begin_step(learner, step)
                if self.checkpoint_inner and not first_order:
                    self._checkpointed_step(learner, x, support, step)
                elif by_hand:
                    self._step_by_hand(learner, x, support, step)
                else:
                    self._step(learner, x, support, step, first_order)
            yield self._adapted(learner, support)

    @property
    def repeats(self) -> bool:
        return True

    def leaves_out_second_derivatives(self) -> bool:
        """Whether training does, at this outer step."""
        first_order: bool = self.learner.first_order
        return first_order

    def begin(self, learner: Any, x: Tensor, support: Examples) -> None:
        """Makes a clone ready for tasks, before the first inner step: by default its head, for their number of ways."""
        if support.ways != self.ways:
            self.resize_head(learner, support.ways)

    def begin_step(self, learner: Any, step: int) -> None:  # by default nothing
        """Gives a clone what belongs to inner step number `step`, from 0 on, and to the queries after it, before the support set passes."""

    def take_step(self, learner: Any, loss: Tensor, step: int, first_order: bool) -> None:
        """Inner step number `step`, from 0 on, of a clone, along the gradient of `loss`."""
        learner.adapt(loss, first_order=first_order)

    def _step(self, learner: Any, x: Tensor, support: Examples, step: int, first_order: bool) -> None:
        written_out = self._gradients.differentiable(x)
        if written_out is not None:
            parameters = dict(learner.module.module.named_parameters())
            with torch.set_grad_enabled(not first_order):
                losses, gradients = written_out(parameters, x, support.y, self.kind.loss)
            loss = loss_with_gradients(losses, parameters, gradients)
        else:
            # The SUM over tasks: each task's parameters receive just that task's gradient.
            loss = self.kind.loss(learner(x), support.y).sum()
        self.take_step(learner, loss, step, first_order)

    def _step_by_hand(self, learner: Any, x: Tensor, support: Examples, step: int) -> None:
        parameters = dict(learner.module.module.named_parameters())
        losses, gradients = self._gradients(parameters, x, support.y, self.kind.loss)
        self.take_step(learner, loss_with_gradients(losses, parameters, gradients), step, first_order=True)

    def _checkpointed_step(self, learner: Any, x: Tensor, support: Examples, step: int) -> None:
        """Takes the inner step without keeping its graph; the backward pass computes the step again."""
        before = learner.module.module

        def taken(parameters: Sequence[Tensor], first_order: bool) -> list[Tensor]:
            with_parameters(before, parameters)
            learner.module.module = before
            self._step(learner, x, support, step, first_order)
            return list(learner.module.module.parameters())

        shared = [parameter for parameter in self.parameters() if parameter.requires_grad]  # such as learned rates
        after = recomputed(taken, list(before.parameters()), shared)
        with_parameters(learner.module.module, after)

    def resize_head(self, learner: Any, ways: int) -> None:
        """Fits the head of a clone, and what a subclass keeps for each of its parameters, to another number of ways."""
        resize_head(learner, ways, resized_head)

    def _adapted(self, learner: Any, support: Examples) -> Adapted:
        parameters = dict(learner.module.module.named_parameters())
        if not self.training:
            parameters = {name: parameter.detach() for name, parameter in parameters.items()}
        return Adapted(parameters, support.x)


def resize_head(learner: Any, ways: int, resized: Callable[[Tensor, int], Tensor]) -> None:
    """Replaces each parameter [T, N, ...] of the head of a clone by what `resized` makes of it for so many ways."""
    head = learner.module.module.head
    for name, parameter in head._parameters.items():
        head._parameters[name] = resized(parameter, ways)


def linear_classifier(backbone: Backbone, ways: int) -> nn.Sequential:
    """`backbone` and a linear `head`: [n, ...] -> [n, ways]."""
    classifier = nn.Sequential()
    classifier.add_module("backbone", backbone)
    classifier.add_module("head", nn.Linear(backbone.feature_dim, ways))
    return classifier


def start_for(named: dict[str, Tensor], ways: int) -> dict[str, Tensor]:
    """What every task of `ways` classes starts from: values [...] of each parameter of a `linear_classifier`, by name, in its order; differentiable.

    Where the head has other than `ways` rows, each class starts from the mean row (`resized_head`).
    """
    if named["head.bias"].shape[0] == ways:
        return named
    heads = {name: resized_head(named[name].unsqueeze(0), ways)[0] for name in ("head.weight", "head.bias")}
    return named | heads


def towards(start: dict[str, Tensor], direction: dict[str, Tensor]) -> Tensor:
    """Zeros [T] whose gradient by `start`, name -> [...], is each task's direction, name -> [T, ...].

    So a meta-gradient is handed on that no loss was differentiated for.
    """
    products = [(theta * direction[name].detach()).flatten(1).sum(1) for name, theta in start.items()]
    surrogate = torch.stack(products).sum(0)  # [T]
    return surrogate - surrogate.detach()


def in_rows(named: dict[str, Tensor]) -> Tensor:
    """All numbers of each task in a row: name -> [T, ...], to [T, P]."""
    return torch.cat([part.flatten(1) for part in named.values()], dim=1)


def out_of_rows(rows: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows [T, P] as parts by name, with the shapes of `like`, name -> [T, ...]."""
    parts = torch.split(rows, [part[0].numel() for part in like.values()], dim=1)
    return {name: part.view(-1, *like[name].shape[1:]) for name, part in zip(like, parts, strict=True)}
