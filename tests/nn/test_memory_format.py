"""The order of an image's numbers in memory: another one, and the same numbers."""

from __future__ import annotations

import pytest
import torch

from metalearn.backbones import Conv4
from metalearn.nn.memory_format import channels_last


@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_numbers_in_another_order(channels: int) -> None:
    x = torch.rand(2, 5, channels, 6, 4)[1]
    moved = channels_last(x)
    assert torch.equal(moved, x)
    assert moved.stride() == (channels * 24, 1, channels * 4, channels)
    assert channels_last(x.flatten(1)) is not None
    assert channels_last(x.flatten(1)).stride() == x.flatten(1).stride()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_layers_after_it_keep_the_order(channels: int) -> None:
    backbone = Conv4((channels, 16, 16), 8, "max_pool", "batch", False, "flatten")
    x = channels_last(torch.rand(3, channels, 16, 16))
    for layer in backbone.blocks[:12]:  # the last block's map is one pixel, where both orders are the same
        x = layer(x)
        assert x.is_contiguous(memory_format=torch.channels_last), layer
