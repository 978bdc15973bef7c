"""Implicit MAML (Rajeswaran, Finn, Kakade and Levine 2019, Meta-Learning with Implicit Gradients, https://arxiv.org/abs/1909.04630).

A task's parameters phi minimise the loss of its support set plus proximal / 2 |phi - theta|^2 (eq. 4), so that they depend on the initialisation
theta through that term alone. At the minimum the Jacobian is d phi / d theta = (I + H / proximal)^-1, with the Hessian H of the support loss at phi
(Lemma 1): the meta-gradient needs no graph through the inner steps, and its memory does not grow with their number. `meta_loss` gives it by
`towards`; its value is the queries' loss after adaptation.

The minimiser is approached by gradient descent from theta (`adapt_stepwise`), the meta-gradient by conjugate gradients on Hessian-vector products
(`_implicit`), for all tasks of a chunk at once.

Departures from the paper: conjugate gradients invert I + H / (proximal + cg_damping). The minimum that Lemma 1 speaks of does not exist where H has
eigenvalues below -proximal, as networks with batch normalisation have them (-9 beside a proximal weight of 2); there 0 trains badly. The authors'
code (github.com/aravindr93/imaml_dev) inverts 2 I + H / (proximal + 10), which is as a damping of 22 with a proximal weight of 2, but for a factor.
Where a direction still has no positive curvature, that task stops; at once, then its gradient counts as it is. Departures from that code: its inner
steps leave the proximal term out, and one further step along that term follows them, where ours descend eq. 4 itself; its Adam has an epsilon of
1e-3, ours 1e-8. Not here: the Hessian-free inner solver, and a learned proximal weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.inner_loop import (
    Adapted,
    InnerLoopLearner,
    in_rows,
    linear_classifier,
    out_of_rows,
    start_for,
    towards,
)
from metalearn.backbones import Backbone
from metalearn.nn.conjugate_gradients import Solution, conjugate_gradients
from metalearn.nn.task_batched import forward_batched
from metalearn.nn.task_gradients import TaskGradients
from metalearn.tasks import Examples, TaskBatch

Parameters = dict[str, Tensor]  # of the network: name -> [T, ...]


class ImplicitMAML(InnerLoopLearner):
    """Adapts all parameters by gradient descent that a proximal term keeps near the initialisation; learns that by implicit differentiation.

    Args:
        backbone: [n, c, H, W] -> [n, D].
        ways: outputs of the linear head.
        inner_lr: step size of the inner gradient descent, on the mean cross-entropy of the support set plus the proximal term.
        inner_steps: inner steps in training.
        test_inner_steps: inner steps in evaluation.
        proximal: lambda, the weight of the squared distance to the initialisation, in training.
        test_proximal: the same in evaluation.
        cg_steps: steps of conjugate gradients, each with one Hessian-vector product; 0 leaves the queries' gradient as it is.
        cg_damping: what is added to proximal in I + H / proximal, where that is inverted.

    Raises:
        UserError: the backbone keeps running statistics.
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        inner_lr: float,
        inner_steps: int,
        test_inner_steps: int,
        proximal: float,
        test_proximal: float,
        cg_steps: int,
        cg_damping: float,
    ) -> None:
        super().__init__(backbone, ways)
        self.network = linear_classifier(backbone, ways)
        self._gradients = TaskGradients(self.network)
        self.inner_lr = inner_lr
        self.inner_steps, self.test_inner_steps = inner_steps, test_inner_steps
        self.proximal, self.test_proximal = proximal, test_proximal
        self.cg_steps, self.cg_damping = cg_steps, cg_damping

    def classifier(self) -> nn.Module:
        return self.network

    def adapt_stepwise(self, support: Examples) -> Iterator[Adapted]:
        """Detached parameters: no gradient flows through the inner loop."""
        theta = {name: parameter.detach() for name, parameter in self._start(support.ways).items()}
        phi = {name: part.expand(support.y.shape[0], *part.shape) for name, part in theta.items()}
        steps, proximal = self.inner_steps, self.proximal
        if not self.training:
            steps, proximal = self.test_inner_steps, self.test_proximal
        yield Adapted(phi, support.x)
        for _ in range(steps):
            _, gradient = self._gradients(phi, support.x, support.y, self.kind.loss)
            phi = {
                name: part - self.inner_lr * (gradient[name] + proximal * (part - theta[name]))  # of eq. 4
                for name, part in phi.items()
            }
            yield Adapted(phi, support.x)

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        phi = dict(self.adapt(tasks.support).parameters)
        after: list[MetaLoss] = []

        def query_loss(leaves: Parameters) -> Tensor:
            after.append(self.queries_loss(Adapted(leaves, tasks.support.x), tasks))
            return after[0].loss

        gradient = self._gradient(phi, query_loss)
        solution = self._implicit(phi, tasks.support, in_rows(gradient))
        direction = out_of_rows(solution.x, gradient)
        residual = solution.residual / in_rows(gradient).norm(dim=1).clamp_min(torch.finfo(solution.x.dtype).tiny)
        outcome = after[0]
        return MetaLoss(
            outcome.loss.detach() + towards(self._start(tasks.support.ways), direction),
            {**outcome.metrics, "cg_residual": residual},
        )

    def _start(self, ways: int) -> Parameters:
        """theta, without a task axis."""
        return start_for(dict(self.network.named_parameters()), ways)

    def _support_loss(self, parameters: Parameters, support: Examples) -> Tensor:
        return self.kind.loss(forward_batched(self.network, parameters, support.x), support.y)

    @staticmethod
    def _gradient(phi: Parameters, loss_of: Callable[[Parameters], Tensor]) -> Parameters:
        """Each task's gradient of its own loss, name -> [T, ...]."""
        with torch.enable_grad():  # evaluation turns gradients off, the inner loop lives on them
            leaves = {name: part.detach().requires_grad_() for name, part in phi.items()}
            # The SUM over tasks, so each task's parameters get only their own gradient.
            found = torch.autograd.grad(loss_of(leaves).sum(), list(leaves.values()))
        return dict(zip(leaves, found, strict=True))

    def _implicit(self, phi: Parameters, support: Examples, gradient: Tensor) -> Solution:
        """The x of (I + H / (proximal + cg_damping)) x = gradient, all [T, P], roughly: what `cg_steps` steps come to (Lemma 1)."""
        with torch.enable_grad():
            leaves = {name: part.detach().requires_grad_() for name, part in phi.items()}
            loss = self._support_loss(leaves, support).sum()
            # Differentiated once with a graph, which every product passes again.
            slopes = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)

        def product(direction: Tensor) -> Tensor:
            along = list(out_of_rows(direction, leaves).values())
            # A head's bias alone may have no second derivative.
            curved = torch.autograd.grad(
                slopes, list(leaves.values()), along, retain_graph=True, materialize_grads=True
            )
            hessian = in_rows(dict(zip(leaves, curved, strict=True)))
            return direction + hessian / (self.proximal + self.cg_damping)

        solution = conjugate_gradients(product, gradient, self.cg_steps)
        untouched = (solution.x == 0).all(1, keepdim=True)
        return solution._replace(x=torch.where(untouched, gradient, solution.x))
