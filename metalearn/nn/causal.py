"""Layers over sequences in which a position sees itself and what comes before it, for many ends of one common sequence.

T sequences of m positions each have n ends: an end stands at position m + 1, right behind the sequence, and sees the sequence and itself but no
other end. What the sequence leaves for its ends is computed once, however many there are: a layer's `over_sequence` returns it beside its outputs.
Mishra, Rohaninejad, Chen and Abbeel 2018 (https://arxiv.org/abs/1707.03141), section 3.1, describe the layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kept = tuple[Tensor, ...]  # what a layer keeps of a sequence, for its ends


class CausalLayer(nn.Module, ABC):
    """Base of those layers; `out_channels` is C'."""

    out_channels: int

    @abstractmethod
    def over_sequence(self, x: Tensor) -> tuple[Tensor, Kept]:
        """Positions [T, m, C] -> [T, m, C'], and what `of_ends` needs of them."""

    @abstractmethod
    def of_ends(self, ends: Tensor, kept: Kept) -> Tensor:
        """Ends [T, n, C] -> [T, n, C'], each right behind the sequence."""


class DenseCausal(CausalLayer):
    """A gated convolution over this position and the one `dilation` before it, whose outputs are put beside the inputs: C' = C + filters.

    Before the first position there are zeros.
    """

    def __init__(self, channels: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.out_channels = channels + filters
        self.taps = nn.Linear(2 * channels, 2 * filters)  # of the position before and of this one

    def over_sequence(self, x: Tensor) -> tuple[Tensor, Kept]:
        before = F.pad(x, (0, 0, self.dilation, 0))  # [T, m + dilation, C]
        length = x.shape[1]
        return self._beside(x, before[:, :length]), (before[:, length : length + 1],)

    def of_ends(self, ends: Tensor, kept: Kept) -> Tensor:
        return self._beside(ends, kept[0])

    def _beside(self, x: Tensor, before: Tensor) -> Tensor:
        past, now = self.taps.weight.chunk(2, dim=1)
        value, gate = (F.linear(before, past) + F.linear(x, now, self.taps.bias)).chunk(2, dim=-1)
        return torch.cat([x, value.tanh() * gate.sigmoid()], dim=-1)


class CausalAttention(CausalLayer):
    """One head of attention to this position and all before it, whose read-out is put beside the inputs: C' = C + value_size."""

    def __init__(self, channels: int, key_size: int, value_size: int) -> None:
        super().__init__()
        self.out_channels = channels + value_size
        self.query, self.key = (nn.Linear(channels, key_size) for _ in range(2))
        self.value = nn.Linear(channels, value_size)

    def over_sequence(self, x: Tensor) -> tuple[Tensor, Kept]:
        keys, values = self.key(x), self.value(x)
        read = F.scaled_dot_product_attention(self.query(x), keys, values, is_causal=True)
        return torch.cat([x, read], dim=-1), (keys, values)

    def of_ends(self, ends: Tensor, kept: Kept) -> Tensor:
        keys, values = kept
        queries = self.query(ends) * keys.shape[-1] ** -0.5
        own = (queries * self.key(ends)).sum(-1, keepdim=True)  # an end sees itself too
        weights = torch.cat([queries @ keys.mT, own], dim=-1).softmax(-1)  # [T, n, m + 1]
        read = weights[..., :-1] @ values + weights[..., -1:] * self.value(ends)
        return torch.cat([ends, read], dim=-1)


class CausalStack(nn.Module):
    """Causal layers, one after another."""

    def __init__(self, layers: Iterable[CausalLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def over_sequence(self, x: Tensor) -> tuple[Kept, ...]:
        """What every layer keeps of the sequences [T, m, C], for `of_ends`."""
        kept = []
        for layer in self._in_order():
            x, of_layer = layer.over_sequence(x)
            kept.append(of_layer)
        return tuple(kept)

    def of_ends(self, ends: Tensor, kept: tuple[Kept, ...]) -> Tensor:
        """Ends [T, n, C] of the sequences that left `kept` -> [T, n, C'], what the last layer makes of them."""
        for layer, of_layer in zip(self._in_order(), kept, strict=True):
            ends = layer.of_ends(ends, of_layer)
        return ends

    def _in_order(self) -> list[CausalLayer]:
        return [layer for layer in self.layers if isinstance(layer, CausalLayer)]
