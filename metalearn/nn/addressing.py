"""How a network reads and writes an external memory: least recently used access (Santoro et al. 2016, https://arxiv.org/abs/1605.06065, section 3)
and that of Neural Turing Machines (Graves, Wayne and Danihelka 2014, https://arxiv.org/abs/1410.5401, section 3).

T tasks, M memory slots of width W, R read heads. Both papers index the memory of a read as that of the same step's write: M_t is written from
M_{t-1}, then read (`write_first`). With `write_first=False` a step reads M_{t-1}, then writes.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

_EPSILON = 1e-8  # added to a key's squared length, and to what is taken to a power

Memory = tuple[Tensor, ...]


class Addressing(Protocol):
    """How a memory is accessed."""

    head_size: int  # what a step needs of the controller, the keys first
    similarity: Similarity

    def start_with_images(self, weight: Tensor, bias: Tensor) -> None:
        """Changes the heads' initial weights [head_size, C], whose keys follow the image at hand, so that an image finds what came with its like."""

    def start(self, like: Tensor) -> Memory:
        """The memory before the first step, for as many tasks as `like` [T, ...] has."""

    def step(self, heads: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """heads [T, head_size] -> r_t [T, R*W] and the memory after the step."""


class LRUA:
    """Section 3.2, least recently used access. The memory: M_t [T, M, W], w^r_t [T, R, M], w^u_t [T, M].

    Args:
        slots: M.
        width: W.
        heads: R, of the read heads; each has a write head.
        key_strength, empty_length: as of `Similarity`.
        decay: gamma, of the usage, per step.
        write_first: a step writes and reads what is then there.
        own_vectors: a write head writes a vector of its own; otherwise the key of its read head, which is eq. 8 to the letter.
    """

    def __init__(
        self,
        slots: int,
        width: int,
        heads: int,
        key_strength: float | None,
        empty_length: float,
        decay: float,
        write_first: bool,
        own_vectors: bool,
    ) -> None:
        self.slots, self.width, self.heads, self.decay = slots, width, heads, decay
        self.write_first = write_first
        self.similarity = Similarity(width, heads, key_strength, empty_length)
        self.parts = [self.similarity.head_size, heads, heads * width if own_vectors else 0]
        self.head_size = sum(self.parts)

    def start_with_images(self, weight: Tensor, bias: Tensor) -> None:
        """What a head writes starts as its key."""
        if vectors := self.parts[-1]:
            weight[-vectors:], bias[-vectors:] = weight[:vectors], bias[:vectors]

    def start(self, like: Tensor) -> Memory:
        tasks = like.shape[0]
        content = like.new_zeros(tasks, self.slots, self.width)
        return content, like.new_zeros(tasks, self.heads, self.slots), like.new_zeros(tasks, self.slots)

    def step(self, heads: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        before, last_reads, usage = memory
        addresses, gates, vectors = torch.split(heads, self.parts, dim=-1)
        keys, scaled = self.similarity.keys(addresses)
        written = torch.unflatten(vectors.tanh(), -1, keys.shape[1:]) if vectors.shape[-1] else keys
        # w^lu_{t-1}, eq. 6: one at the n = R least used slots, zero elsewhere; no gradient passes through it, so usage needs none.
        least = usage.topk(self.heads, largest=False).indices
        least_used = torch.zeros_like(usage).scatter_(1, least, 1.0).unsqueeze(1)
        writes = torch.lerp(least_used.expand_as(last_reads), last_reads, gates.sigmoid().unsqueeze(-1))  # w^w, eq. 7
        kept = torch.ones_like(usage).scatter_(1, least[:, :1], 0.0).unsqueeze(-1)  # the least used slot is set to zero
        after = (before * kept).baddbmm_(writes.transpose(1, 2), written)  # eq. 8
        content = after if self.write_first else before
        reads = self.similarity(scaled, content).softmax(-1)  # w^r, eq. 2 and 3
        with torch.no_grad():
            usage = self.decay * usage + (reads + writes).sum(1)  # eq. 5
        return (reads @ content).flatten(1), (after, reads, usage)  # eq. 4


class NTM:
    """Graves et al. 2014, section 3: R read heads and one write head. The memory: M_t [T, M, W], w_t [T, R+1, M], the write head last.

    All weights start on the first slot.
    """

    def __init__(
        self, slots: int, width: int, heads: int, key_strength: float | None, empty_length: float, write_first: bool
    ) -> None:
        self.slots, self.width, self.heads = slots, width, heads + 1
        self.write_first = write_first
        self.similarity = Similarity(width, self.heads, key_strength, empty_length)
        self.parts = [self.similarity.head_size, self.heads, 3 * self.heads, self.heads, width, width]
        self.head_size = sum(self.parts)

    def start_with_images(self, weight: Tensor, bias: Tensor) -> None:
        """The write head starts by going on to the next slot at every step and by writing the key that all read heads have at first.

        Half of the read heads start with the slots that are like it, the others with those after them: there lie the labels, which come a step late.
        """
        _, gates, shifts, *_, add = torch.split(bias, self.parts)
        gates[:-1] += 3  # by content
        gates[-1] -= 3  # by location
        by_head = shifts.view(self.heads, 3)
        half = (self.heads - 1) // 2
        by_head[:half, 1] += 3  # stay
        by_head[half:, 2] += 3  # go on
        width = self.parts[-1]
        keys = weight[: self.heads * width].view(self.heads, width, -1)
        keys[1:-1], weight[-width:], add[:] = keys[0].clone(), keys[0], 0

    def start(self, like: Tensor) -> Memory:
        weights = like.new_zeros(like.shape[0], self.heads, self.slots)
        weights[:, :, 0] = 1
        return like.new_zeros(like.shape[0], self.slots, self.width), weights

    def step(self, heads: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        before, last = memory
        addresses, gates, shifts, exponents, erase, add = torch.split(heads, self.parts, dim=-1)
        _, scaled = self.similarity.keys(addresses)
        every = scaled, gates, torch.unflatten(shifts, -1, (-1, 3)), exponents, last
        write = self._weights(before, *(part[:, -1:] for part in every))
        where = write.transpose(1, 2)  # [T, M, 1]
        after = before * (1 - where * erase.sigmoid().unsqueeze(1)) + where * add.tanh().unsqueeze(1)  # eq. 3 and 4
        content = after if self.write_first else before
        reads = self._weights(content, *(part[:, :-1] for part in every))
        return (reads @ content).flatten(1), (after, torch.cat([reads, write], dim=1))  # eq. 2

    def _weights(
        self, content: Tensor, keys: Tensor, gates: Tensor, shifts: Tensor, exponents: Tensor, last: Tensor
    ) -> Tensor:
        """w_t [T, H, M] of H heads: keys [T, H, W], gates and exponents [T, H], shifts [T, H, 3], w_{t-1} [T, H, M]."""
        gate = gates.sigmoid().unsqueeze(-1)
        gated = gate * self.similarity(keys, content).softmax(-1) + (1 - gate) * last  # eq. 5 and 7
        back, stay, forth = shifts.softmax(-1).unsqueeze(-2).unbind(-1)
        shifted = back * gated.roll(-1, -1) + stay * gated + forth * gated.roll(1, -1)  # eq. 8
        exponent = 1 + F.softplus(exponents).unsqueeze(-1)
        return (exponent * (shifted + _EPSILON).log()).softmax(-1)  # eq. 9


class Similarity:
    """The cosine of a key with every slot (eq. 2), times a strength that the controller sets, around `strength` to begin with.

    Args:
        width: W.
        heads: H, how many keys a step has.
        strength: the factor at first; None: no factor.
        empty_length: added, squared, to a slot's squared length, so that the cosine with a much shorter slot is about 0.
    """

    def __init__(self, width: int, heads: int, strength: float | None, empty_length: float) -> None:
        self.sizes = [heads * width, 0 if strength is None else heads]
        self.head_size = sum(self.sizes)
        self.shape = (heads, width)
        self.empty = empty_length**2
        self.offset = None if strength is None else math.log(math.expm1(strength))

    def keys(self, heads: Tensor) -> tuple[Tensor, Tensor]:
        """heads [T, head_size] -> the keys [T, H, W], and the keys scaled to the length of their strength."""
        keys, strengths = torch.split(heads, self.sizes, dim=-1)
        keys = torch.unflatten(keys.tanh(), -1, self.shape)
        lengths = (keys.square().sum(-1, keepdim=True) + _EPSILON).rsqrt()
        if self.offset is not None:
            lengths = lengths * F.softplus(strengths + self.offset).unsqueeze(-1)  # Graves et al., eq. 5
        return keys, keys * lengths

    def __call__(self, scaled: Tensor, content: Tensor) -> Tensor:
        """Scaled keys [T, H, W], M [T, M, W] -> [T, H, M]."""
        slot_lengths = (content.square().sum(-1) + self.empty).rsqrt().unsqueeze(1)
        return scaled @ content.transpose(1, 2) * slot_lengths
