"""Random-looking numbers as a function of what is at hand: nothing reads or moves a generator, every device gets the same, nothing waits for it."""

from __future__ import annotations

import torch
from torch import Tensor

_32_BITS = 2**32 - 1


def hash_32(x: Tensor) -> Tensor:
    """32 bits to 32 bits, one to one, in int64, where the products do not overflow; the constants are from C. Wellons's hash-prospector."""
    x = (x ^ (x >> 16)) * 0x21F0AAAD & _32_BITS
    x = (x ^ (x >> 15)) * 0x735A2D97 & _32_BITS
    return x ^ (x >> 15)


def content_key(x: Tensor) -> Tensor:
    """A 32-bit key of every row of float x [T, ...]: int64 [T]. Sums of integers, so it does not depend on the order of summation."""
    bits = x.detach().float().contiguous().flatten(1).view(torch.int32).long()
    weights = 2 * hash_32(torch.arange(bits.shape[1], device=x.device)) + 1
    total = (bits * weights).sum(1)  # modulo 2**64
    return hash_32(hash_32(total & _32_BITS) ^ (total >> 32 & _32_BITS))


def standard_normal(keys: Tensor, n: int) -> Tensor:
    """n standard normal numbers for each 32-bit key: int64 [T] -> float32 [T, n]."""
    places = hash_32(torch.arange(1, n + 1, device=keys.device))
    bits = hash_32(hash_32(keys.unsqueeze(1) ^ places) ^ places)
    # 24 bits, the mantissa of float32; the middle of each step, but for the last, which would be rounded to 1: no number is infinite.
    uniform = (((bits >> 8).float() + 0.5) / 2**24).clamp_max(1 - 2**-24)
    return torch.erfinv(2 * uniform - 1) * 2**0.5


def shuffled(seeds: Tensor, n: int, draw: int) -> Tensor:
    """Permutations of 0..n-1 that are functions of integers alone, made on their device: seeds [T, m] -> [T, n].

    Every draw is another one.
    """

    def mixed(x: Tensor) -> Tensor:
        # An integer hash: shifts and odd multipliers spread every bit; 32 bits, so that products stay within 63. Another than `hash_32`, since
        # results of MANN rest on it.
        for _ in range(2):
            x = ((x >> 16) ^ x) * 0x45D9F3B & 0xFFFFFFFF
        return (x >> 16) ^ x

    def numbered(count: int) -> Tensor:
        return torch.arange(1, count + 1, device=seeds.device)

    task = (
        mixed(mixed(seeds + 0x10001 * draw) ^ mixed(numbered(seeds.shape[1]) << 16)).sum(1, keepdim=True) & 0xFFFFFFFF
    )
    return mixed(mixed(task) ^ mixed(numbered(n))).argsort(dim=1, stable=True)


def uniforms(seeds: Tensor, count: int, draw: int) -> Tensor:
    """Numbers between 0 and 1, never either, that look evenly drawn: integers seeds [T] -> float32 [T, count]. Every draw is another one."""
    numbered = hash_32(torch.arange(1, count + 1, device=seeds.device))
    # 23 bits, so that float32 holds a half more than the largest of them and stays below 1.
    return ((hash_32(_of_draw(seeds, draw)[:, None] ^ numbered) >> 9).float() + 0.5) / 2**23


def normals(seeds: Tensor, count: int, draw: int) -> Tensor:
    """Standard normal numbers as `standard_normal` gives them: integers seeds [T] -> float32 [T, count]. Every draw is another one."""
    return standard_normal(_of_draw(seeds, draw), count)


def _of_draw(seeds: Tensor, draw: int) -> Tensor:
    """A 32-bit key for each seed and draw."""
    return hash_32(hash_32(seeds & _32_BITS) ^ (2 * draw + 1 & _32_BITS))
