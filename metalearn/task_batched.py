"""A module whose parameters carry a leading task axis: what lets learn2learn's one-task meta-modules adapt many tasks at once."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call, vmap


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
                    owner._parameters[name] = parameter.expand(tasks, *parameter.shape)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return forward_batched(self.module, dict(self.module.named_parameters()), x)


def forward_batched(module: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    """`module` on x [T, n, ...] with parameters [T, ...] -> [T, n, ...]."""
    if x.shape[0] == 1:  # the plain loop's step: dense kernels, no batching rules
        one = {name: parameter[0] for name, parameter in parameters.items()}
        output: Tensor = functional_call(module, one, (x[0],))
        return output.unsqueeze(0)

    def on_one_task(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        batched: Tensor = functional_call(module, parameters, (x,))
        return batched

    return vmap(on_one_task)(parameters, x)
