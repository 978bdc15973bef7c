"""A module whose parameters carry a leading task axis: what lets learn2learn's one-task meta-modules adapt many tasks at once.

With it, what every learner that adapts a network's parameters needs: prediction with them, with and without transduction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metalearn.errors import UserError

_QUERIES_AT_ONCE = (
    25  # of one task, when each is normalised with a copy of the support set: bounds the memory of those copies
)


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


def forward_one_by_one(module: nn.Module, parameters: dict[str, Tensor], support_x: Tensor, query_x: Tensor) -> Tensor:
    """Like `forward_batched` on query_x, but each query is normalised together with its task's support set only.

    Nichol et al. 2018, section 6: prediction without transduction for a network that normalises with the statistics of its batch.
    """
    outputs = []
    for task in range(query_x.shape[0]):
        of_task = {name: parameter[task] for name, parameter in parameters.items()}

        def on_one_query(
            x: Tensor, of_task: dict[str, Tensor] = of_task, support_x: Tensor = support_x[task]
        ) -> Tensor:
            output: Tensor = functional_call(module, of_task, (torch.cat([support_x, x.unsqueeze(0)]),))
            return output[-1]

        outputs.append(vmap(on_one_query, chunk_size=_QUERIES_AT_ONCE)(query_x[task]))
    return torch.stack(outputs)


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


def resized_head(parameter: Tensor, ways: int) -> Tensor:
    """Lets a head trained for another number of ways start on `ways` classes, each from the mean of the trained rows: [T, N, ...] -> [T, ways, ...].

    Labels are permuted in every training task, so the rows' differences carry no meaning (Ye and Chao 2022, "How to Train Your MAML to
    Excel in Few-Shot Classification", section 5).
    """
    return parameter.mean(1, keepdim=True).expand(-1, ways, *parameter.shape[2:])
