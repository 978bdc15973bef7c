"""Reptile (Nichol, Achiam and Schulman 2018, https://arxiv.org/abs/1803.02999).

Algorithm 2: every task trains the shared initialisation theta for a few steps on mini-batches of its support set, which ends at theta'; theta
moves towards the mean of the tasks' theta'. `meta_loss` therefore has the gradient theta - theta'; a step of SGD at rate 1 sets theta to
that mean. Its value is the queries' loss after adaptation, for the log alone.

The inner Adam's second moments go on from task to task and into the evaluation, as in the authors' code. It matters: moments that start afresh make
each inner step as long as the first, however small the gradient, and what a well-initialised task then moves by is noise.

Departures from the authors' code (docs/algorithms/reptile.md has what they come to): the tasks of an outer step all start with the same second
moments, and those of the next with the mean of what they end with, where theirs pass them on one after another; the loss of a mini-batch is the
mean over its images, theirs the sum; the order in which the mini-batches take the support set is drawn from the content of each task
(`mini_batches`) and not from a generator, so that adapting twice gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.inner_loop import Adapted, InnerLoopLearner, linear_classifier, start_for, towards
from metalearn.backbones import Backbone
from metalearn.nn.chain import chain_of
from metalearn.nn.hashed_numbers import content_key, hash_32
from metalearn.nn.heads import resized_head
from metalearn.nn.rows import Rows
from metalearn.nn.task_batched import forward_batched
from metalearn.tasks import Examples, TaskBatch

_IMAGES = 50  # that pass the network together, of several tasks where a task's mini-batches are smaller; measured: docs/performance.md
_BETA2, _EPSILON = 0.999, 1e-8  # of the inner Adam; its beta1 is 0: no momentum from one mini-batch to the next


class Reptile(InnerLoopLearner):
    """Moves the initialisation towards the parameters that training on each task ends at.

    Args:
        backbone: [n, c, H, W] -> [n, D].
        ways: outputs of the linear head.
        inner_optimizer: "adam" (beta1 = 0) or "sgd".
        inner_lr: its step size, on the mean cross-entropy of the mini-batch.
        inner_steps: inner steps in training.
        inner_batch: support examples per inner step in training; more than there are count some of them twice.
        test_inner_steps: inner steps in evaluation.
        test_inner_batch: support examples per inner step in evaluation.

    Raises:
        UserError: the backbone keeps running statistics.
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        inner_optimizer: str,
        inner_lr: float,
        inner_steps: int,
        inner_batch: int,
        test_inner_steps: int,
        test_inner_batch: int,
    ) -> None:
        super().__init__(backbone, ways)
        self.network = linear_classifier(backbone, ways)
        self.inner_optimizer = inner_optimizer
        self.inner_lr = inner_lr
        self.inner_steps, self.inner_batch = inner_steps, inner_batch
        self.test_inner_steps, self.test_inner_batch = test_inner_steps, test_inner_batch
        self._chain = chain_of(self.network)

        # Of the inner Adam, for all parameters in a row: what an outer step starts with, the number of inner steps behind that, and the sum over
        # the outer step's tasks of what they end with.
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.second_moments: Tensor
        self.moment_steps: Tensor
        self.moment_sum: Tensor
        self.moment_tasks: Tensor
        self.register_buffer("second_moments", torch.zeros(parameters))
        self.register_buffer("moment_steps", torch.zeros(()))
        self.register_buffer("moment_sum", torch.zeros(parameters))
        self.register_buffer("moment_tasks", torch.zeros(()))
        self.summed_step: Tensor  # the outer step that the sum is of
        self.register_buffer("summed_step", torch.tensor(-1), persistent=False)

    def classifier(self) -> nn.Module:
        return self.network

    def adapt(self, support: Examples) -> Adapted:
        *_, (parameters, _) = self._descend(support, stepwise=False)
        return Adapted(parameters, support.x)

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        if (self._support_statistics and not self.training) or not self._by_hand(query_x):
            return super().predict(adapted, query_x)
        assert self._chain is not None
        return self._chain.outputs(adapted.parameters, query_x)

    def _by_hand(self, x: Tensor) -> bool:
        """Whether the network's passes over x [T, n, ...] are made without autograd: images on a CPU, through layers that follow one another."""
        autocast = torch.is_autocast_enabled(x.device.type)
        return self._chain is not None and x.dim() == 5 and x.device.type == "cpu" and not autocast

    def adapt_stepwise(self, support: Examples) -> Iterator[Adapted]:
        """Detached parameters: no gradient flows through the inner loop."""
        for parameters, _ in self._descend(support, stepwise=True):
            yield Adapted(parameters, support.x)

    @torch.no_grad()
    def _descend(self, support: Examples, stepwise: bool) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """Parameters and second moments, both name -> [T, ...], after the last inner step; stepwise, before the first and after each."""
        tasks = support.y.shape[0]
        theta = start_for(dict(self.network.named_parameters()), support.ways)
        rows, moments = (Rows(theta, tasks) for _ in range(2))
        rows.fill(theta)
        moments.fill(start_for(self._by_name(self.second_moments), support.ways))
        steps = self.inner_steps if self.training else self.test_inner_steps
        batches = mini_batches(support.x, self.inner_batch if self.training else self.test_inner_batch, steps)
        by_hand = self._by_hand(support.x)
        # By hand some tasks at a time, so that what they need stays in the processor's cache.
        size = max(1, _IMAGES // batches.shape[-1]) if by_hand else tasks
        groups = [slice(first, first + size) for first in range(0, tasks, size)]
        step_of = self._step_by_hand if by_hand else self._step
        if stepwise:
            yield rows.copy().named, moments.named
            for step in range(steps):
                for group in groups:
                    step_of(rows, moments, support, batches, group, step)
                yield rows.copy().named, moments.named
        else:
            for group in groups:
                for step in range(steps):
                    step_of(rows, moments, support, batches, group, step)
            yield rows.named, moments.named

    def _of_trained_size(self, name: str, part: Tensor) -> Tensor:
        """What belongs to a head of other than the trained ways, [T, N, ...]: the mean over its rows for each of the trained ones."""
        return resized_head(part, self.ways) if name.startswith("head.") and part.shape[1] != self.ways else part

    def _step_by_hand(
        self, rows: Rows, moments: Rows, support: Examples, batches: Tensor, group: slice, step: int
    ) -> None:
        """Inner step number `step`, from 0 on, of a group of tasks, without autograd."""
        assert self._chain is not None
        x, y = _taken(support, batches, group, step)
        gradient = rows.scratch(len(x))
        self._chain.gradient(rows.of(group), x, y, self.kind.loss, into=gradient.named)
        for task, of_task in enumerate(gradient.all, start=group.start):
            self._update(rows.all[task], moments.all[task], of_task, step)

    def _step(self, rows: Rows, moments: Rows, support: Examples, batches: Tensor, group: slice, step: int) -> None:
        """The same with autograd."""
        x, y = _taken(support, batches, group, step)
        gradient = rows.scratch(len(x))
        with torch.enable_grad():
            leaves = {name: parameter.detach().requires_grad_() for name, parameter in rows.of(group).items()}
            # The SUM over tasks, so each task's parameters get only their own gradient.
            loss = self.kind.loss(forward_batched(self.network, leaves, x), y).sum()
            found = torch.autograd.grad(loss, list(leaves.values()))
        for name, part in zip(leaves, found, strict=True):
            gradient.named[name].copy_(part)
        self._update(rows.all[group], moments.all[group], gradient.all, step)

    def _update(self, parameters: Tensor, moments: Tensor, gradient: Tensor, step: int) -> None:
        """Inner step number `step`, from 0 on, in place: all [..., P]; what is in `gradient` is lost."""
        if self.inner_optimizer == "sgd":
            parameters.sub_(gradient, alpha=self.inner_lr)
            return
        # Kingma and Ba 2015, the last lines of section 2, as the authors' TensorFlow has it: epsilon counts before the bias correction.
        # With it, parameters that nothing depends on are moved little by the rounding errors they get.
        moments.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        correction = (1 - _BETA2 ** (self.moment_steps + step + 1)).sqrt()
        parameters.addcdiv_(gradient.mul_(correction), moments.sqrt().add_(_EPSILON), value=-self.inner_lr)

    def _by_name(self, row: Tensor) -> dict[str, Tensor]:
        """Numbers for all parameters in a row, cut into the parameters' shapes."""
        named = dict(self.network.named_parameters())
        parts = torch.split(row, [parameter.numel() for parameter in named.values()])
        return {name: part.view_as(named[name]) for name, part in zip(named, parts, strict=True)}

    @torch.no_grad()
    def _start_outer_step(self) -> None:
        """Takes on the mean of the second moments that the tasks of the outer step before ended with; once, however the tasks are chunked."""
        begins = self.summed_step != self.outer_step  # on the device, as all that follows: nobody waits
        takes_on = begins & (self.moment_tasks > 0)
        mean = self.moment_sum / self.moment_tasks.clamp_min(1e-9)
        self.second_moments.copy_(torch.where(takes_on, mean, self.second_moments))
        self.moment_steps += takes_on * self.inner_steps
        self.moment_sum *= ~begins
        self.moment_tasks *= ~begins
        self.summed_step.fill_(self.outer_step)

    @torch.no_grad()
    def _sum_moments(self, second_moments: dict[str, Tensor]) -> None:
        totals = self._by_name(self.moment_sum)
        for name, moment in second_moments.items():
            totals[name] += self._of_trained_size(name, moment).sum(0)
        self.moment_tasks += next(iter(second_moments.values())).shape[0]

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        self._start_outer_step()
        *_, (parameters, moments) = self._descend(tasks.support, stepwise=False)
        adapted = Adapted(parameters, tasks.support.x)
        if self.inner_optimizer == "adam":
            self._sum_moments(moments)
        with torch.no_grad():
            after = self.query_loss(self.predict(adapted, tasks.query.x), tasks)
        start = start_for(dict(self.network.named_parameters()), tasks.support.ways)
        # <theta, theta - theta'>, with the second factor held constant; of the head, at its trained size.
        way_back = {
            name: self._of_trained_size(name, start[name].detach() - adapted.parameters[name])
            for name, _ in self.network.named_parameters()
        }
        return MetaLoss(after.loss + towards(dict(self.network.named_parameters()), way_back), after.metrics)


def _taken(support: Examples, batches: Tensor, group: slice, step: int) -> tuple[Tensor, Tensor]:
    """The mini-batches of one step, of a group of tasks: x [G, n, ...] and y [G, n, ...]."""
    batch = batches[group, step]
    task = torch.arange(len(batch), device=batch.device)[:, None]
    return support.x[group][task, batch], support.y[group][task, batch]


def mini_batches(support: Tensor, size: int, steps: int) -> Tensor:
    """Positions [T, steps, size] of the examples of support [T, n, ...] in each step's mini-batch: all examples in random order, then all in another,
    and so on.

    A function of a task's examples and of the two numbers: adapting twice gives the same, whatever tasks are beside it.
    """
    tasks, examples = support.shape[:2]
    rounds = -(-steps * size // examples)
    positions = torch.arange(rounds * examples, device=support.device)
    numbers = hash_32(hash_32(positions) ^ content_key(support)[:, None])  # [T, rounds * n]
    orders = numbers.view(tasks, rounds, examples).argsort(dim=-1, stable=True)
    return orders.flatten(1)[:, : steps * size].view(tasks, steps, size)
