"""How a network reads and writes an external memory: least recently used access (Santoro et al. 2016, https://arxiv.org/abs/1605.06065, section 3)
and that of Neural Turing Machines (Graves, Wayne and Danihelka 2014, https://arxiv.org/abs/1410.5401, section 3).

T tasks, M memory slots of width W, R read heads, n steps that start from the same memory.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

_EPSILON = 1e-8  # of squared norms: an empty slot has the cosine 0 with every key


class Addressing(Protocol):
    """How a memory is accessed. `read` serves n steps that all start from the same memory, `write` is for one step."""

    head_size: int  # what a step needs of the controller

    def start(self, like: Tensor) -> tuple[Tensor, ...]:
        """The memory before the first step, for as many tasks as `like` [T, ...] has."""

    def read(self, heads: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """heads [T, n, head_size] -> r_t [T, n, R*W] and what `write` needs to know."""

    def write(self, access: tuple[Tensor, ...], memory: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The memory after the step."""


class LRUA:
    """Section 3.2, least recently used access. The memory: M_t [T, M, W], w^r_t [T, R, M], w^u_t [T, M]."""

    def __init__(self, slots: int, width: int, heads: int, key_strength: float | None, decay: float) -> None:
        self.slots, self.width, self.heads, self.decay = slots, width, heads, decay
        self.similarity = Similarity(width, heads, key_strength)
        self.head_size = self.similarity.head_size + heads

    def start(self, like: Tensor) -> tuple[Tensor, ...]:
        tasks = like.shape[0]
        content = like.new_zeros(tasks, self.slots, self.width)
        return content, like.new_zeros(tasks, self.heads, self.slots), like.new_zeros(tasks, self.slots)

    def read(self, heads: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        content = memory[0]
        addresses, gates = torch.split(heads, [self.similarity.head_size, self.heads], dim=-1)
        similarities, keys = self.similarity(addresses, content)
        weights = similarities.softmax(-1)  # w^r, eq. 3
        return read_out(weights, content), (keys, gates, weights)

    def write(self, access: tuple[Tensor, ...], memory: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        keys, gates, read_weights = (part.squeeze(1) for part in access)
        content, last_read, usage = memory
        # w^lu_{t-1}, eq. 6: one at the n = R least used slots, zero elsewhere; no gradient passes through it, so usage needs none.
        least = usage.topk(self.heads, largest=False).indices
        least_used = torch.zeros_like(usage).scatter_(1, least, 1.0).unsqueeze(1)
        weights = torch.lerp(least_used.expand_as(last_read), last_read, gates.sigmoid().unsqueeze(-1))  # w^w, eq. 7
        kept = torch.ones_like(usage).scatter_(1, least[:, :1], 0.0).unsqueeze(-1)  # the least used slot is set to zero
        content = (content * kept).baddbmm_(weights.transpose(1, 2), keys)  # eq. 8
        with torch.no_grad():
            usage = self.decay * usage + (read_weights + weights).sum(1)  # eq. 5
        return content, read_weights, usage


class NTM:
    """Graves et al. 2014, section 3: R read heads and one write head. The memory: M_t [T, M, W], w_t [T, R+1, M], the write head last.

    All weights start on the first slot.
    """

    def __init__(self, slots: int, width: int, heads: int, key_strength: float | None) -> None:
        self.slots, self.width, self.heads = slots, width, heads + 1
        self.similarity = Similarity(width, self.heads, key_strength)
        self.parts = [self.similarity.head_size, self.heads, 3 * self.heads, self.heads, width, width]
        self.head_size = sum(self.parts)

    def start(self, like: Tensor) -> tuple[Tensor, ...]:
        weights = like.new_zeros(like.shape[0], self.heads, self.slots)
        weights[:, :, 0] = 1
        return like.new_zeros(like.shape[0], self.slots, self.width), weights

    def read(self, heads: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        content, last = memory
        addresses, gates, shifts, exponents, erase, add = torch.split(heads, self.parts, dim=-1)
        by_content = self.similarity(addresses, content)[0].softmax(-1)  # eq. 5
        gate = gates.sigmoid().unsqueeze(-1)
        gated = gate * by_content + (1 - gate) * last.unsqueeze(1)  # eq. 7
        back, stay, forth = torch.unflatten(shifts, -1, (-1, 3)).softmax(-1).unsqueeze(-2).unbind(-1)
        shifted = back * gated.roll(-1, -1) + stay * gated + forth * gated.roll(1, -1)  # eq. 8
        exponent = 1 + F.softplus(exponents).unsqueeze(-1)
        weights = (exponent * (shifted + _EPSILON).log()).softmax(-1)  # eq. 9
        return read_out(weights[:, :, :-1], content), (weights, erase, add)  # eq. 2

    def write(self, access: tuple[Tensor, ...], memory: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        weights, erase, add = access
        where = weights[:, 0, -1].unsqueeze(-1)  # [T, M, 1]
        content = memory[0] * (1 - where * erase.sigmoid()) + where * add.tanh()  # eq. 3 and 4
        return content, weights.squeeze(1)


class Similarity:
    """The cosine of a key with every slot (eq. 2), times a strength that the controller sets, around `strength` to begin with."""

    def __init__(self, width: int, heads: int, strength: float | None) -> None:
        self.sizes = [heads * width, 0 if strength is None else heads]
        self.head_size = sum(self.sizes)
        self.shape = (heads, width)
        self.offset = None if strength is None else math.log(math.expm1(strength))

    def __call__(self, heads: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
        """heads [T, n, head_size], M [T, M, W] -> similarities [T, n, H, M] and keys [T, n, H, W]."""
        keys, strengths = torch.split(heads, self.sizes, dim=-1)
        keys = torch.unflatten(keys.tanh(), -1, self.shape)
        products = torch.unflatten(keys.flatten(1, 2) @ content.transpose(1, 2), 1, keys.shape[1:3])
        lengths = (keys.square().sum(-1, keepdim=True) + _EPSILON).rsqrt()
        if self.offset is not None:
            lengths = lengths * F.softplus(strengths + self.offset).unsqueeze(-1)  # Graves et al., eq. 5
        slot_lengths = (content.square().sum(-1) + _EPSILON).rsqrt()[:, None, None]  # [T, 1, 1, M]
        return products * lengths * slot_lengths, keys


def read_out(weights: Tensor, content: Tensor) -> Tensor:
    """Eq. 4: w [T, n, R, M], M [T, M, W] -> [T, n, R*W]."""
    return (weights.flatten(1, 2) @ content).view(*weights.shape[:2], -1)
