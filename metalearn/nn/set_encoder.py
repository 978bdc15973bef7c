"""A transformer encoder over sets: each token attends to all tokens (not causal), and nothing tells their places.

Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762) with the normalisation before each part, as in vision transformers (Dosovitskiy et al. 2021,
https://arxiv.org/abs/2010.11929).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metalearn.nn.attention import attend


class SetEncoder(nn.Module):
    """Sets of tokens [S, n, W] -> the first token of each, in the light of the others: [S, W].

    Args:
        width: W, a multiple of `heads`.
        layers: how many blocks of attention and a network of two linear layers.
        heads: of the attention.
        hidden: units between those two layers.
    """

    def __init__(self, width: int, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, tokens: Tensor, there: Tensor | None = None) -> Tensor:
        """`there` [S, n]: False where a token is padding; the first one never is."""
        return self.first(tokens, 1, there).squeeze(1)

    def first(self, tokens: Tensor, count: int, there: Tensor | None = None) -> Tensor:
        """As `forward`, but the first `count` tokens: [S, count, W]."""
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens, there, count if number == len(self.blocks) else tokens.shape[1])
        first: Tensor = self.norm(tokens[:, :count])
        return first

    @torch.no_grad()
    def start_as_mean_of_asked(self, last: int, rolled: int) -> None:
        """Sets initial weights with which a token gets the mean of those tokens that it asks for, and nothing else happens.

        The `last` numbers of a token say what it is. It asks for tokens whose last numbers, rolled by `rolled` places, are like its own: so one that
        asks need not be like itself.
        """
        for block in self.blocks:
            assert isinstance(block, Block)
            for layer in (block.output, block.network[-1]):
                assert isinstance(layer, nn.Linear)
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        first = self.blocks[0]
        assert isinstance(first, Block)
        width = first.output.in_features
        asks, is_ = torch.zeros(2, width, width)
        for head in range(first.heads):
            places = torch.arange(min(width // first.heads, last))
            rows = head * (width // first.heads) + places
            is_[rows, width - last + places] = 1.0
            asks[rows, width - last + (places + rolled) % last] = 1.0
        first.query.weight.copy_(asks)
        first.key_value.weight.copy_(torch.cat([is_, torch.eye(width)]))
        nn.init.eye_(first.output.weight)


class Block(nn.Module):
    """Attention between tokens, then a network of two linear layers for each; both are added to the tokens."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_network = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.query, self.key_value, self.output = (nn.Linear(width, size) for size in (width, 2 * width, width))
        self.network = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        for layer in (self.query, self.key_value):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.query, self.key_value, self.output):
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, there: Tensor | None, wanted: int) -> Tensor:
        """The first `wanted` tokens, after attention to all: [S, n, W] -> [S, wanted, W]."""
        normed = self.norm_attention(tokens)
        key, value = torch.chunk(self.key_value(normed), 2, dim=-1)
        read = attend(self.query(normed[:, :wanted]), key, value, self.heads, there)
        tokens = tokens[:, :wanted] + self.output(read)
        after: Tensor = tokens + self.network(self.norm_network(tokens))
        return after


def equiangular(count: int, dim: int) -> Tensor:
    """`count` vectors of length 1 with equal and largest angles, whose cosines are -1 / (count - 1): [count, dim], the same at every call.

    Args:
        count: 2 or more.
        dim: `count` or more.
    """
    simplex = (count / (count - 1)) ** 0.5 * (torch.eye(count, dtype=torch.float64) - 1 / count)
    drawn = torch.rand(dim, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(drawn).Q  # [dim, count], orthonormal columns
    vectors: Tensor = (basis @ simplex).T.float()
    return vectors
