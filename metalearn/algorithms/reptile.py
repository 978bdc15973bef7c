"""Reptile (Nichol, Achiam and Schulman 2018, https://arxiv.org/abs/1803.02999).

Algorithm 2: every task trains the shared initialisation theta for a few steps on mini-batches of its support set, which ends at theta'; theta
moves towards the mean of the tasks' theta'. `meta_loss` therefore has the gradient theta - theta'; a step of SGD at rate 1 sets theta to
that mean. Its value is the queries' loss after adaptation, for the log alone.

The inner Adam's second moments go on from task to task and into the evaluation, as in the authors' code. It matters: moments that start afresh make
each inner step as long as the first, however small the gradient, and what a well-initialised task then moves by is noise.

Departures from the authors' code: the tasks of an outer step all start with the same second moments, and those of the next with the mean of what
they end with, where theirs pass them on one after another; the order in which the mini-batches take the support set is drawn from the content of each
task (`mini_batches`) and not from a generator, so that adapting twice gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.inner_loop import Adapted, InnerLoopLearner, linear_classifier
from metalearn.backbones import Backbone
from metalearn.nn.hashed_numbers import content_key, hash_32
from metalearn.nn.task_batched import forward_batched, resized_head
from metalearn.tasks import Examples, TaskBatch

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

    def adapt_stepwise(self, support: Examples) -> Iterator[Adapted]:
        """Detached parameters: no gradient flows through the inner loop."""
        for parameters, _ in self._descend(support):
            yield Adapted(parameters, support.x)

    def _descend(self, support: Examples) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """Parameters and second moments, both [T, ...], before the first inner step and after each."""
        tasks = support.y.shape[0]
        parameters = {
            name: parameter.detach().expand(tasks, *parameter.shape)
            for name, parameter in self.network.named_parameters()
        }
        second_moments = {
            name: moment.expand(tasks, *moment.shape) for name, moment in self._by_name(self.second_moments).items()
        }
        if support.ways != self.ways:
            for name in ("head.weight", "head.bias"):
                parameters[name] = resized_head(parameters[name], support.ways)
                second_moments[name] = resized_head(second_moments[name], support.ways)
        steps = self.inner_steps if self.training else self.test_inner_steps
        batches = mini_batches(support.x, self.inner_batch if self.training else self.test_inner_batch, steps)
        task = torch.arange(tasks, device=support.x.device)[:, None]
        yield parameters, second_moments
        for step, batch in enumerate(batches.unbind(1), start=1):
            gradients = self._gradients(parameters, support.x[task, batch], support.y[task, batch])
            updated, moved = {}, {}
            for name, parameter in parameters.items():
                update = gradients[name]
                if self.inner_optimizer == "adam":
                    # Kingma and Ba 2015, the last lines of section 2, as the authors' TensorFlow has it: epsilon counts before the bias correction.
                    # With it, parameters that nothing depends on (biases before batch norm) are moved little by the rounding errors they get.
                    moved[name] = _BETA2 * second_moments[name] + (1 - _BETA2) * update.square()
                    correction = (1 - _BETA2 ** (self.moment_steps + step)).sqrt()
                    update = correction * update / (moved[name].sqrt() + _EPSILON)
                updated[name] = parameter - self.inner_lr * update
            parameters, second_moments = updated, moved
            yield parameters, second_moments

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
        for total, moment in zip(self._by_name(self.moment_sum).values(), second_moments.values(), strict=True):
            total += moment.sum(0)
        self.moment_tasks += next(iter(second_moments.values())).shape[0]

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        self._start_outer_step()
        for parameters, second_moments in self._descend(tasks.support):  # one state in memory at a time
            adapted, moments = Adapted(parameters, tasks.support.x), second_moments
        if self.inner_optimizer == "adam":
            self._sum_moments(moments)
        with torch.no_grad():
            after = self.query_loss(self.predict(adapted, tasks.query.x), tasks)
        inner_products = [
            (theta * (theta.detach() - adapted.parameters[name])).flatten(1).sum(1)
            for name, theta in self.network.named_parameters()
        ]
        surrogate = torch.stack(inner_products).sum(
            0
        )  # [T]: <theta, theta - theta'>, with the second factor held constant
        return MetaLoss(after.loss + (surrogate - surrogate.detach()), after.metrics)

    @torch.enable_grad()
    def _gradients(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The gradient of each task's mean loss on its mini-batch. The loss is the SUM over tasks, so each task's parameters get only their own."""
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
        loss = self.kind.loss(forward_batched(self.network, leaves, x), y).sum()
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


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
