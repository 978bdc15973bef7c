"""A module whose parameters carry a leading task axis: what lets learn2learn's one-task meta-modules adapt many tasks at once."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, vmap

from metalearn.errors import UserError
from metalearn.nn.chain import Chain
from metalearn.nn.inference import infer
from metalearn.nn.memory_format import channels_last
from metalearn.nn.twice import TwiceDifferentiable

_MANY = 10  # images of a task: from there on, tasks go one after another on a CPU


Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs [T, n, ...], y [T, n, ...]) -> [T]
WrittenOut = Chain | TwiceDifferentiable


class TaskBatched(nn.Module):
    """Runs `module` on [T, n, ...] with parameters of its own for each task.

    learn2learn's `clone()` and `adapt()` replace a module's parameters by tensors computed from them and never look at their shapes, so
    they work unchanged on a clone whose parameters were expanded to [T, ...]. `adapt` must be given the SUM over tasks of the per-task mean
    losses: then each task's parameters receive just that task's gradient.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def expand(self, tasks: int) -> None:
        """Gives every parameter a leading axis of `tasks`. Only ever on a clone: the original keeps its leaf parameters."""
        for owner in self.module.modules():
            for name, parameter in owner._parameters.items():
                if parameter is not None:
                    # A Tensor where nn.Module declares a Parameter, as learn2learn's clone does: autograd must reach the original.
                    owner._parameters[name] = _expanded(parameter, tasks)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return forward_batched(self.module, dict(self.module.named_parameters()), x)


def _expanded(parameter: Tensor, tasks: int) -> Tensor:
    """[T, ...]. A layer's matrix gets its columns together in memory, as its gradient has them: adding tensors whose orders differ, and summing over
    tasks one whose order is not the sum's, takes several times as long."""
    if parameter.dim() == 2:
        return parameter.t().contiguous().expand(tasks, *parameter.t().shape).transpose(1, 2)
    return parameter.expand(tasks, *parameter.shape)


def forward_batched(module: nn.Module, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """`module` on x [T, n, ...] with parameters [T, ...] -> [T, n, ...]."""
    if better_task_by_task(x):
        outputs = [
            infer(module, task, of_task) for of_task, task in zip(by_task(parameters, x.shape[0]), x, strict=True)
        ]
        return torch.stack(outputs)

    def on_one_task(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        batched: Tensor = functional_call(module, parameters, (x,))
        return batched

    return vmap(on_one_task)(dict(parameters), x)


def better_task_by_task(x: Tensor) -> bool:
    """Whether tasks x [T, n, ...] go through a network faster one after another than together.

    Tasks with parameters of their own make a convolution a grouped one, which cannot have its channels last. Of few images that does not matter as
    much as the number of calls; on a GPU calls are what counts.
    """
    return x.shape[0] == 1 or (x.device.type == "cpu" and x.dim() == 5 and x.shape[1] >= _MANY)


def by_task(parameters: Mapping[str, Tensor], tasks: int) -> list[dict[str, Tensor]]:
    """Parameters [T, ...] of T tasks -> those of each. By unbind: its backward pass stacks once, where indexing fills T tensors of zeros."""
    parts = {name: parameter.unbind() for name, parameter in parameters.items()}
    return [{name: part[task] for name, part in parts.items()} for task in range(tasks)]


def loss_task_by_task(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    loss_of: Loss,
    written_out: WrittenOut | None = None,
    at_once: int = 1,
) -> tuple[Tensor, Tensor]:
    """`loss_of` [T] of `module` on x [T, n, ...] with parameters [T, ...], and the outputs [T, n, ...], detached.

    Each task is differentiated as soon as its loss is known, while what its forward pass left is still in the processor's cache and before the next
    task needs the memory. So the loss can be differentiated once only, by the parameters alone.

    Args:
        written_out: the layers of `module` (`chain_of`, `twice_differentiable`), which then make its passes without autograd.
        at_once: tasks that pass these layers together.
    """
    outcome: tuple[Tensor, Tensor] = _LossTaskByTask.apply(
        written_out or module, at_once, tuple(parameters), x, y, loss_of, *parameters.values()
    )
    return outcome


class _LossTaskByTask(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        network: nn.Module | WrittenOut,
        at_once: int,
        names: tuple[str, ...],
        x: Tensor,
        y: Tensor,
        loss_of: Loss,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        gradient_of = functools.partial(_gradient, network) if isinstance(network, nn.Module) else network.gradient
        gradients = [torch.empty_like(parameter) for parameter in parameters]
        losses, outputs = [], []
        for first in range(0, x.shape[0], at_once):
            tasks = slice(first, first + at_once)
            of_tasks, into = (
                {name: part[tasks] for name, part in zip(names, parts, strict=True)}
                for parts in (parameters, gradients)
            )
            loss, logits = gradient_of(of_tasks, x[tasks], y[tasks], loss_of, into)
            losses.append(loss)
            outputs.append(logits)
        ctx.save_for_backward(*gradients)
        loss, logits = torch.cat(losses), torch.cat(outputs)
        ctx.mark_non_differentiable(logits)
        return loss, logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [
            gradient * loss_gradient.view(-1, *[1] * (gradient.dim() - 1)).to(gradient.dtype)
            for gradient in ctx.saved_tensors
        ]
        return (None, None, None, None, None, None, *scaled)


def _gradient(
    module: nn.Module, parameters: dict[str, Tensor], x: Tensor, y: Tensor, loss_of: Loss, into: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """As `Chain.gradient`, of one task, by autograd."""
    leaves = {name: parameter[0].detach().requires_grad_() for name, parameter in parameters.items()}
    with torch.enable_grad():
        logits = functional_call(module, leaves, (channels_last(x[0]),)).unsqueeze(0)
        loss = loss_of(logits, y)  # [1]
        found = torch.autograd.grad(loss, list(leaves.values()))
    for part, gradient in zip(into.values(), found, strict=True):
        part[0] = gradient
    return loss.detach(), logits.detach()


def with_parameters(module: nn.Module, parameters: Sequence[Tensor]) -> None:
    """Gives a clone `parameters` for its own, in their order."""
    names = [name for name, _ in module.named_parameters()]
    for path, parameter in zip(names, parameters, strict=True):
        owner, _, name = path.rpartition(".")
        module.get_submodule(owner)._parameters[name] = parameter  # type: ignore[assignment]


Step = Callable[[Sequence[Tensor], bool], list[Tensor]]  # (parameters, without second derivatives) -> parameters


def recomputed(step: Step, parameters: Sequence[Tensor], shared: Sequence[Tensor]) -> list[Tensor]:
    """`step(parameters, False)`, keeping its input alone: the backward pass takes the step once more (Chen et al. 2016, arXiv:1604.06174).

    torch.utils.checkpoint cannot do it for a step that itself asks for gradients.

    Args:
        step: differentiable in its parameters and in `shared`.
        parameters: what it starts from.
        shared: further leaves that its outcome may depend on.
    """
    outcome: tuple[Tensor, ...] = _Recomputed.apply(step, len(parameters), *parameters, *shared)
    return list(outcome)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Step, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.step, ctx.shared = step, tensors[count:]
        ctx.save_for_backward(*tensors[:count])
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in tensors[:count]]
            return tuple(parameter.detach() for parameter in step(leaves, True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            outcome = ctx.step(leaves, False)
        inputs = torch.autograd.grad(outcome, [*leaves, *ctx.shared], gradients, allow_unused=True)
        return (None, None, *inputs)


def with_parameters_of_first(module: nn.Module, parameters: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `module` whose own parameters are the first task's of `parameters`, name -> [T, ...]; what is not named there stays."""
    copied = copy.deepcopy(module).requires_grad_(False)
    for path, parameter in parameters.items():
        owner, _, name = path.rpartition(".")
        of_task = parameter[0].detach().clone(memory_format=torch.contiguous_format)
        setattr(copied.get_submodule(owner), name, nn.Parameter(of_task, requires_grad=False))
    return copied


def refuse_running_statistics(backbone: nn.Module) -> None:
    """Raises UserError where `backbone` keeps running statistics."""
    if any(getattr(module, "track_running_stats", False) for module in backbone.modules()):
        raise UserError(
            "backbone.running_stats=true: an inner loop cannot use running statistics, they fit no task's own parameters "
            "(false normalises with the task at hand)"
        )


def refuse_dropping(backbone: nn.Module) -> None:
    """Raises UserError where `backbone` drops features in training."""
    rate = max(getattr(module, "drop_rate", 0.0) for module in backbone.modules())
    if rate > 0:
        raise UserError(
            f"backbone.drop_rate={rate}: an inner loop cannot drop features, as what it drops would depend on train.task_chunk "
            "(0 drops nothing)"
        )
