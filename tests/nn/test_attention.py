"""Multi-head attention, beside torch's."""

from __future__ import annotations

import torch
from torch import nn

from metalearn.nn.attention import MultiheadAttention


def torchs(ours: MultiheadAttention, width: int) -> nn.MultiheadAttention:
    """torch's module with the weights of ours."""
    theirs = nn.MultiheadAttention(width, ours.heads, batch_first=True)
    with torch.no_grad():
        inputs = (ours.query, ours.key, ours.value)
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in inputs]))
        theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in inputs]))
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    return theirs


def test_it_is_torch_s_with_and_without_padding() -> None:
    torch.manual_seed(0)
    ours = MultiheadAttention(12, heads=3)
    queries, keys, values = (torch.randn(2, n, 12) for n in (4, 6, 6))
    there = torch.tensor([[True] * 6, [True, True, False, True, False, False]])
    for mask in (None, there):
        hidden = None if mask is None else ~mask
        expected, _ = torchs(ours, 12)(queries, keys, values, key_padding_mask=hidden)
        torch.testing.assert_close(ours(queries, keys, values, mask), expected)
    changed = values.clone()
    changed[1, 2] = 100
    torch.testing.assert_close(ours(queries, keys, changed, there), ours(queries, keys, values, there))
