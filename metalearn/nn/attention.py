"""Multi-head attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2).

Letters: S sets, m queries, n keys and values, W numbers of each.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class MultiheadAttention(nn.Module):
    """Each query reads the values whose keys are like it: queries [S, m, W], keys and values [S, n, W] -> [S, m, W].

    Args:
        width: W, a multiple of `heads`.
        heads: how many readings, each of its own W / heads numbers, are put together.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, there: Tensor | None = None) -> Tensor:
        """`there` [S, n]: False where a key and its value are padding."""
        read = attend(self.query(queries), self.key(keys), self.value(values), self.heads, there)
        output: Tensor = self.output(read)
        return output


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, there: Tensor | None = None) -> Tensor:
    """softmax(query key^T / sqrt(W / heads)) value for each head, side by side: [S, m, W]; `there` [S, n] as above."""

    def by_head(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], heads, -1).transpose(1, 2)  # [S, heads, n, W / heads]

    mask = None if there is None else there[:, None, None, :]
    read = F.scaled_dot_product_attention(by_head(query), by_head(key), by_head(value), mask)
    return read.transpose(1, 2).flatten(2)
