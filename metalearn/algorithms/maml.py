"""Model-Agnostic Meta-Learning (Finn, Abbeel and Levine 2017, https://arxiv.org/abs/1703.03400), on learn2learn's `MAML`; as options, what the
field uses of MAML++ (Antoniou, Edwards and Storkey 2019, "How to train your MAML", https://arxiv.org/abs/1810.09502).

Algorithm 2, lines 5 to 10: every task takes gradient steps from the shared initialisation on its support set (section 2.2; `descend`); the
initialisation moves so that the queries are classified well after those steps (eq. 1; `meta_loss`), differentiating through them (second
order) unless `first_order` (section 5.2). MAML++, section 4: the multi-step loss is `meta_loss` with `step_weights`; derivative-order annealing
is `first_order_until`; the learned rates, one per parameter tensor and inner step, are `rates`, applied by `take_step`; the gains and shifts of
normalisation layers for each inner step are `norm_parameters="per_step"`, set by `begin_step`.

learn2learn's module holds the parameters and the step size; steps are taken on its clone. On a CPU, the plain steps of a fully connected network
are computed without one (`metalearn/nn/low_rank_steps.py`): the same numbers but for rounding.

BOIL, body only update in the inner loop (Oh, Yoo, Kim and Yun 2021, https://arxiv.org/abs/2008.08882), is `head_parameters="shared"`: the inner
loop's step size is 0 for the head, so that features have to move towards the rows of a head that is the same for all tasks.

Departures from MAML's authors' code: the inner loss is the mean over the support set, theirs the sum over classes of the mean over shots (so
their step size 0.4 on 5 ways is `inner_lr=2.0` here); the norms' gain and shift are adapted too by default, as learn2learn does, where theirs
have a shift alone, which the outer loop alone learns (`norm_parameters="shared"`, but for the gain); their norms add 1e-3 to the variance, ours 1e-5.

Departures from MAML++'s authors' code, whose inner loss is that mean too: no statistics for each inner step (theirs are kept, but their forward pass
normalises with those of the set at hand, as here); what they anneal by epochs of 500 outer steps moves with every outer step; their floor under the
weights of the earlier steps, 0.03 / N, is left out (it would count in annealings longer than 33 of their epochs; theirs take 10 or 15).

Departure from BOIL: a task of other ways than the head has rows for takes the first rows, and rows that `rows_of_head` makes; the paper has no such
tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.inner_loop import Adapted, MetaModuleLearner, linear_classifier, resize_head, start_for
from metalearn.backbones import Backbone
from metalearn.nn.heads import resized_head, rows_of_head
from metalearn.nn.l2l import learn2learn_module
from metalearn.nn.low_rank_steps import FullyConnected, LowRank, fully_connected
from metalearn.nn.task_batched import TaskBatched, with_parameters
from metalearn.tasks import Examples, TaskBatch


class MAML(MetaModuleLearner):
    """Adapts all parameters by gradient descent on the support set; the outer loop learns where that descent starts.

    Args:
        backbone: [n, c, H, W] -> [n, D].
        ways: outputs of the linear head.
        inner_lr: step size of the inner gradient descent, on the mean cross-entropy of the support set.
        inner_steps: inner steps in training.
        test_inner_steps: inner steps in evaluation.
        first_order: leave out the second derivatives.
        learn_rates: learn the step sizes, from `inner_lr` on: one for each parameter tensor and inner step in training; inner steps beyond those, in
            evaluation, take the last one's.
        multi_step_loss_until: outer steps in which the queries' losses after every inner step count, the last one more and more; 0: it alone.
        first_order_until: outer steps in which the second derivatives are left out.
        checkpoint_inner: keep each inner step's parameters alone and compute the rest again in the backward pass.
        norm_parameters: the gains and shifts of the normalisation layers are "adapted" in the inner loop like all parameters, "shared" by all
            tasks, so that the outer loop alone learns them, or "per_step": shared likewise, one for each inner step in training; inner steps beyond
            those, in evaluation, take the last one's.
        head_parameters: those of the linear head are "adapted" in the inner loop or "shared" by all tasks, so that the outer loop alone learns them.

    Raises:
        UserError: learn2learn is missing, or the backbone keeps running statistics.
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        inner_lr: float,
        inner_steps: int,
        test_inner_steps: int,
        first_order: bool,
        learn_rates: bool,
        multi_step_loss_until: int,
        first_order_until: int,
        checkpoint_inner: bool,
        norm_parameters: str,
        head_parameters: str,
    ) -> None:
        # allow_nograd takes the branch of learn2learn's adapt that does not swallow a RuntimeError; nothing here lacks a gradient.
        learner = learn2learn_module("algorithms.maml").MAML(
            TaskBatched(linear_classifier(backbone, ways)),
            lr=inner_lr,
            first_order=first_order,
            allow_unused=False,
            allow_nograd=True,
        )
        super().__init__(backbone, ways, learner, inner_steps, test_inner_steps, checkpoint_inner)
        norms = norms_of(self.classifier()) if norm_parameters != "adapted" else {}
        self.shared_norms = tuple(norms)
        # [inner_steps - 1, D] for each of them: the first inner step takes the network's own.
        later = norms.values() if norm_parameters == "per_step" and inner_steps > 1 else ()
        self.later_norms = nn.ParameterList(norm.detach().repeat(inner_steps - 1, 1) for norm in later)
        names = [name for name, _ in self.classifier().named_parameters()]
        self.shared_head = tuple(name for name in names if name.startswith("head.") and head_parameters == "shared")
        self.shared = {*self.shared_norms, *self.shared_head}  # what the inner loop leaves as it is
        tensors = len(names) - len(self.shared)
        self.rates = nn.Parameter(torch.full((inner_steps, tensors), float(inner_lr))) if learn_rates else None
        self.multi_step_loss_until = multi_step_loss_until
        self.first_order_until = first_order_until
        plain = not (learn_rates or self.shared or checkpoint_inner)
        plain &= type(self) is MAML  # a subclass may do more in a step
        self._layers = fully_connected(self.classifier()) if plain else None

    @property
    def repeats(self) -> bool:
        return self.outer_step >= max(self.multi_step_loss_until, self.first_order_until)

    def leaves_out_second_derivatives(self) -> bool:
        return super().leaves_out_second_derivatives() or self.outer_step < self.first_order_until

    def descend(self, x: Tensor, support: Examples) -> Iterator[Adapted]:
        steps = self.inner_steps if self.training else self.test_inner_steps
        layers = self._in_low_rank(x, steps)
        if layers is None:
            yield from super().descend(x, support)
            return
        start = start_for(dict(self.classifier().named_parameters()), support.ways)
        if not self.training:
            start = {name: parameter.detach() for name, parameter in start.items()}
        second_order = self.training and not self.leaves_out_second_derivatives()
        parameters = LowRank(layers, start, x, second_order)
        yield Adapted(parameters, support.x)
        for _ in range(steps):
            parameters = parameters.stepped(support.y, self.learner.lr, self.kind.loss)
            yield Adapted(parameters, support.x)

    def _in_low_rank(self, x: Tensor, steps: int) -> FullyConnected | None:
        """The layers, where steps on x [T, n, ...] are taken without weights for each task: on a CPU, and where that costs less."""
        if self._layers is None or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return None
        return self._layers if self._layers.pays(steps * x.shape[1]) else None

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        (outputs,) = self.predict_each([adapted], query_x)
        return outputs

    def predict_each(self, states: Iterable[Adapted], query_x: Tensor) -> Iterator[Tensor]:
        arrived = None  # behind the first layer, the same in every state
        for adapted in states:
            parameters = adapted.parameters
            if not isinstance(parameters, LowRank) or (self._support_statistics and not self.training):
                yield super().predict(adapted, query_x)
            else:
                arrived = arrived or parameters.arrive(query_x)
                yield parameters.outputs(arrived)

    def queries_loss(self, adapted: Adapted, tasks: TaskBatch) -> MetaLoss:
        if isinstance(adapted.parameters, LowRank):
            return self.query_loss(self.predict(adapted, tasks.query.x), tasks)
        return super().queries_loss(adapted, tasks)

    def begin_step(self, learner: Any, step: int) -> None:
        if step == 0 or not self.later_norms:
            return
        network, entry = learner.module.module, min(step, self.inner_steps - 1) - 1
        parameters = dict(network.named_parameters())
        for name, norms in zip(self.shared_norms, self.later_norms, strict=True):
            norm = norms[entry] if self.training else norms[entry].detach()
            parameters[name] = norm.expand_as(parameters[name])
        with_parameters(network, list(parameters.values()))

    def take_step(self, learner: Any, loss: Tensor, step: int, first_order: bool) -> None:
        # What learn2learn's `adapt` does. Its step size multiplies the loss here, not the gradients: two passes less over parameters of all tasks.
        parameters = dict(learner.module.module.named_parameters())
        adapted = [parameter for name, parameter in parameters.items() if name not in self.shared]
        if self.rates is None:
            updates = torch.autograd.grad(-learner.lr * loss, adapted, create_graph=not first_order)
        else:
            rates = self.rates[min(step, self.inner_steps - 1)]
            if not self.training:
                rates = rates.detach()  # no graph through the steps
            gradients = torch.autograd.grad(loss, adapted, create_graph=not first_order)
            updates = tuple(-rate * gradient for rate, gradient in zip(rates, gradients, strict=True))
        moves = iter(updates)
        of_all = [None if name in self.shared else next(moves) for name in parameters]
        learner.module = learn2learn_module("utils").update_module(learner.module, updates=of_all)

    def resize_head(self, learner: Any, ways: int) -> None:
        # The mean of the rows, from which an adapted head starts, would leave a head that stays with equal scores for all classes.
        resize_head(learner, ways, rows_of_head if self.shared_head else resized_head)

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        """The queries' loss after the last inner step or, until `multi_step_loss_until`, the weighted sum of those after each."""
        if self.outer_step >= self.multi_step_loss_until:
            return super().meta_loss(tasks)
        weights = step_weights(self.inner_steps, self.outer_step / self.multi_step_loss_until)
        states = itertools.islice(self.adapt_stepwise(tasks.support), 1, None)  # without the one before the first step
        outcomes = [self.queries_loss(adapted, tasks) for adapted in states]
        weighted = [weight * outcome.loss for weight, outcome in zip(weights, outcomes, strict=True)]
        return MetaLoss(torch.stack(weighted).sum(0), outcomes[-1].metrics)


def step_weights(steps: int, progress: float) -> list[float]:
    """Weights v_1 .. v_N of the queries' losses after each of N inner steps; from uniform to the last alone as progress p goes from 0 to 1:

    v_i = (1 - p) / N for i < N, and v_N = 1 - (N - 1) (1 - p) / N.
    """
    earlier = (1 - progress) / steps
    return [*[earlier] * (steps - 1), 1 - (steps - 1) * earlier]


def norms_of(network: nn.Module) -> dict[str, nn.Parameter]:
    """The gains and shifts [D] of a network's normalisation layers, by their names in it."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)
    return {
        f"{path}.{name}": parameter
        for path, layer in network.named_modules()
        if isinstance(layer, kinds)
        for name, parameter in layer.named_parameters(recurse=False)
    }
