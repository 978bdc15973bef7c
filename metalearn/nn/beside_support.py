"""Prediction without transduction for a network that normalises with the statistics of its batch: each query beside its task's support set alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from metalearn.nn.memory_format import channels_last
from metalearn.nn.task_batched import by_task

_IMAGES_AT_ONCE = 250  # each query passes the network with a copy of the support set: bounds the memory of those copies


def forward_one_by_one(
    module: nn.Module, parameters: Mapping[str, Tensor], support_x: Tensor, query_x: Tensor
) -> Tensor:
    """Like `forward_batched` on query_x, but each query is normalised together with its task's support set only.

    Nichol et al. 2018, section 6: prediction without transduction for a network that normalises with the statistics of its batch. Every
    layer after the first sees a support set that depends on the query, so each query needs a pass over the whole support set.

    Args:
        module: [n, ...] -> [n, N]; its batch norms keep no running statistics.
        parameters: of `module`, name -> [T, ...].
        support_x: [T, N*K, ...].
        query_x: [T, N*Q, ...].

    Returns:
        logits [T, N*Q, N].
    """
    at_once = max(1, _IMAGES_AT_ONCE // (support_x.shape[1] + 1))
    outputs = []
    for of_task, support, queries in zip(by_task(parameters, len(query_x)), support_x, query_x, strict=True):
        with_its_own = functools.partial(functional_call, module, of_task)
        outputs += [beside_support(with_its_own, support, some) for some in queries.split(at_once)]
    return torch.cat(outputs).view(*query_x.shape[:2], -1)


def beside_support(network: Callable[[Tensor], Tensor], support: Tensor, queries: Tensor) -> Tensor:
    """What `network` says of each query, normalised together with the support set only: [m, ...], [n, ...] -> [n, N]."""
    n, m = queries.shape[0], support.shape[0]
    together = torch.cat([support.expand(n, *support.shape), queries.unsqueeze(1)], dim=1)  # [n, m + 1, ...]
    with _NormalisedInGroups(n):
        outputs = network(channels_last(together.flatten(0, 1)))
    return outputs.view(n, m + 1, -1)[:, -1]


class BesideSupport(nn.Module):
    """A network that has its task's parameters and support set: queries [n, ...] -> [n, N], each by itself.

    Args:
        network: [n, ...] -> [n, N]; its batch norms keep no running statistics.
        support: [m, ...].
    """

    support: Tensor

    def __init__(self, network: nn.Module, support: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("support", support)

    def forward(self, queries: Tensor) -> Tensor:
        return beside_support(self.network, self.support, queries)


class _NormalisedInGroups(TorchFunctionMode):
    """Lets batch normalisation take the statistics of each of `groups` equal parts of its batch by themselves."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self._groups = groups

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is not functional.batch_norm:
            return func(*args, **(kwargs or {}))
        given = dict(zip(_BATCH_NORM_ARGUMENTS, args, strict=False)) | (kwargs or {})
        return _group_batch_norm(given["input"], self._groups, given.get("weight"), given.get("bias"), given["eps"])


_BATCH_NORM_ARGUMENTS = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


def _group_batch_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Batch normalisation of x [groups * n, C, ...] with statistics of its own for each group of n."""
    parts = x.view(groups, -1, *x.shape[1:])  # [groups, n, C, ...]
    over = [1, *range(3, parts.dim())]
    centred = parts - parts.mean(over, keepdim=True)
    # By two passes: torch.var_mean takes three times as long on a CPU.
    variance = centred.square().mean(over, keepdim=True)
    scale = torch.rsqrt(variance + eps)
    along = (-1, *[1] * (parts.dim() - 3))
    if weight is not None:
        scale = scale * weight.view(along)
    normalised = centred * scale if bias is None else torch.addcmul(bias.view(along), centred, scale)
    return normalised.flatten(0, 1)
