"""Low-rank adapters: a trained change of fixed weights (LoRA, Hu et al. 2022, https://arxiv.org/abs/2106.09685, eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from metalearn.errors import UserError


class LowRank(nn.Module):
    """W -> W + B A. A starts at random, B at zero, so that the network starts as it was.

    Args:
        weight: W, [out, ...]; of a convolution, its kernels count as rows of in * k * k numbers.
        rank: r; A is [r, in], B [out, r].
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        out, into = weight.shape[0], weight[0].numel()
        self.a = nn.Parameter(torch.empty(rank, into).normal_(std=into**-0.5))
        self.b = nn.Parameter(torch.zeros(out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.b @ self.a).view_as(weight)


def add_adapters(body: nn.Module, rank: int) -> None:
    """Gives every matrix of a linear, attention or convolution layer (not of a grouped one) of more than `rank` rows and columns an adapter.

    All other parameters stop changing.

    Raises:
        UserError: no matrix is that large.
    """
    body.requires_grad_(False)
    found = [
        (layer, name)
        for layer in body.modules()
        for name in ("weight", "in_proj_weight")
        if _is_matrix(layer)
        and isinstance(weight := getattr(layer, name, None), nn.Parameter)
        and min(weight.shape[0], weight[0].numel()) > rank
    ]
    if not found:
        raise UserError(f"backbone.lora_rank={rank}: no layer of this network has a matrix of a larger rank")
    for layer, name in found:
        parametrize.register_parametrization(layer, name, LowRank(getattr(layer, name), rank))


def _is_matrix(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | nn.MultiheadAttention) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
