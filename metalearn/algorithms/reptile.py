"""Reptile (Nichol, Achiam and Schulman 2018, https://arxiv.org/abs/1803.02999).

Algorithm 2: every task trains the shared initialisation theta for a few steps on mini-batches of its support set, which ends at theta'; theta
moves towards the mean of the tasks' theta'. `meta_loss` therefore has the gradient theta - theta'; a step of SGD at rate 1 sets theta to
that mean. Its value is the queries' cross-entropy after adaptation, for the log alone.

Departures from the authors' code: Adam's second moments start afresh in every task, theirs go on from task to task and into the evaluation;
the mini-batches take the support set in an order drawn once and for all for its size (a task's examples are in random order as they come), so
that adapting twice gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from metalearn import objective
from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.inner_loop import Adapted, InnerLoopLearner, linear_classifier
from metalearn.backbones import Backbone
from metalearn.task_batched import forward_batched, resized_head
from metalearn.tasks import Examples, TaskBatch

_BETA2, _EPSILON = 0.999, 1e-8  # of the inner Adam; its beta1 is 0: no momentum from one mini-batch to the next


class Reptile(InnerLoopLearner):
    """Args:
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

    def classifier(self) -> nn.Module:
        return self.network

    def adapt_stepwise(self, support: Examples) -> Iterator[Adapted]:
        """Detached parameters: no gradient flows through the inner loop."""
        tasks, examples = support.y.shape
        parameters = {
            name: parameter.detach().expand(tasks, *parameter.shape)
            for name, parameter in self.network.named_parameters()
        }
        if support.ways != self.ways:
            for name in ("head.weight", "head.bias"):
                parameters[name] = resized_head(parameters[name], support.ways)
        second_moments = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        steps = self.inner_steps if self.training else self.test_inner_steps
        batches = mini_batches(examples, self.inner_batch if self.training else self.test_inner_batch, steps)
        yield Adapted(parameters, support.x)
        for step, batch in enumerate(batches.to(support.x.device), start=1):
            gradients = self._gradients(parameters, support.x[:, batch], support.y[:, batch])
            updated = {}
            for name, parameter in parameters.items():
                update = gradients[name]
                if self.inner_optimizer == "adam":
                    # Kingma and Ba 2015, the last lines of section 2, as the authors' TensorFlow has it: epsilon counts before the bias correction.
                    # With it, parameters that nothing depends on (biases before batch norm) are moved little by the rounding errors they get.
                    second_moments[name] = _BETA2 * second_moments[name] + (1 - _BETA2) * update.square()
                    update = (1 - _BETA2**step) ** 0.5 * update / (second_moments[name].sqrt() + _EPSILON)
                updated[name] = parameter - self.inner_lr * update
            parameters = updated
            yield Adapted(parameters, support.x)

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        adapted = self.adapt(tasks.support)
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
        """Of each task's mean loss on its mini-batch: the SUM over tasks gives each task's parameters just that."""
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
        loss = objective.cross_entropy(forward_batched(self.network, leaves, x), y).sum()
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def mini_batches(examples: int, size: int, steps: int) -> Tensor:
    """Positions [steps, size] of the examples in each step's mini-batch: all examples in random order, then all in another, and so on.

    A function of the three numbers alone.
    """
    generator = torch.Generator().manual_seed(0)
    rounds = -(-steps * size // examples)
    orders = [torch.randperm(examples, generator=generator) for _ in range(rounds)]
    return torch.cat([torch.empty(0, dtype=torch.int64), *orders])[: steps * size].view(steps, size)
