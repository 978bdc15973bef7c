"""DropBlock (Ghiasi, Lin and Le 2018, https://arxiv.org/abs/1810.12890): dropout of square regions of each channel of a feature map.

What is dropped is a function of two buffers, a key drawn at construction and the number of passes in training, hashed with the position. So a
run repeats to the bit, the saved state is enough to resume, every device drops the same, no generator is read or moved, and nothing waits for
the device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.nn.hashed_numbers import hash_32


class DropBlock(nn.Module):
    """Drops square regions of feature maps in training; the regions depend on two saved buffers and on no generator.

    Args:
        drop_rate: share of a feature map that is dropped in training; 0 changes nothing.
        block_size: side of a dropped region; a smaller map is dropped whole.
        ramp: passes in training over which the share rises from 0 to `drop_rate`.
    """

    key: Tensor
    passes: Tensor

    def __init__(self, drop_rate: float, block_size: int, ramp: int) -> None:
        super().__init__()
        self.drop_rate, self.block_size, self.ramp = drop_rate, block_size, ramp
        self.register_buffer("key", torch.randint(2**32, ()))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_rate == 0:
            return x
        self.passes += 1
        kept = self._kept(x)
        # Algorithm 1, line 8: what is kept makes up for the rest of this pass.
        return x * (kept * (kept.numel() / kept.sum().clamp(min=1))).to(x.dtype)

    def _kept(self, x: Tensor) -> Tensor:
        """Algorithm 1, lines 5 and 6: a region around every centre is dropped, centres lie where the whole region is inside; bool [n, c, h, w]."""
        n, channels, height, width = x.shape
        tall, wide = min(self.block_size, height), min(self.block_size, width)
        rows, columns = height - tall + 1, width - wide + 1
        rate = self.drop_rate * (self.passes / self.ramp).clamp(max=1)
        gamma = rate / (tall * wide) * (height * width) / (rows * columns)  # eq. 1
        bits = self._bits(n * channels * rows * columns).view(n, channels, rows, columns)
        centres = (bits < (gamma * 2**32).long()).float()
        around = F.pad(centres, (wide - 1, wide - 1, tall - 1, tall - 1))
        return F.max_pool2d(around, (tall, wide), stride=1) == 0

    def _bits(self, count: int) -> Tensor:
        """`count` numbers from 0 to 2**32 - 1, int64, others in every pass."""
        stream = hash_32(self.key ^ hash_32(self.passes))
        return hash_32(hash_32(torch.arange(count, device=self.key.device)) ^ stream)
