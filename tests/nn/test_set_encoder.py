"""The encoder of sets, and label vectors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metalearn.nn.set_encoder import SetEncoder, equiangular


@pytest.mark.parametrize(("count", "dim"), [(2, 2), (5, 5), (5, 32), (20, 256)])
def test_label_vectors_have_length_one_and_the_largest_equal_angles(count: int, dim: int) -> None:
    vectors = equiangular(count, dim)
    assert vectors.shape == (count, dim)
    expected = torch.full((count, count), -1 / (count - 1)).fill_diagonal_(1.0)
    torch.testing.assert_close(vectors @ vectors.T, expected, atol=1e-6, rtol=0)
    assert torch.equal(vectors, equiangular(count, dim))


def encoder() -> SetEncoder:
    torch.manual_seed(0)
    return SetEncoder(16, 3, 2, 24).double()


def test_it_is_torchs_encoder_without_a_mask() -> None:
    """The first token of nn.TransformerEncoder with the same weights."""
    ours, tokens = encoder(), torch.randn(4, 6, 16, dtype=torch.float64)
    expected = tokens
    for block in ours.blocks:
        layer = nn.TransformerEncoderLayer(
            16, 2, 24, dropout=0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        ).double()
        state = {
            "self_attn.in_proj_weight": torch.cat([block.query.weight, block.key_value.weight]),
            "self_attn.in_proj_bias": torch.cat([block.query.bias, block.key_value.bias]),
        }
        for theirs, own in (
            ("self_attn.out_proj", block.output),
            ("linear1", block.network[0]),
            ("linear2", block.network[2]),
            ("norm1", block.norm_attention),
            ("norm2", block.norm_network),
        ):
            state |= {f"{theirs}.weight": own.weight, f"{theirs}.bias": own.bias}
        layer.load_state_dict(state)
        expected = layer(expected)
    torch.testing.assert_close(ours(tokens), ours.norm(expected[:, 0]))


def test_the_order_of_the_others_does_not_matter_and_the_first_one_does() -> None:
    ours, tokens = encoder(), torch.randn(4, 6, 16, dtype=torch.float64)
    torch.testing.assert_close(ours(tokens[:, [0, 4, 2, 1, 5, 3]]), ours(tokens))
    assert not torch.allclose(ours(tokens[:, [1, 0, 2, 3, 4, 5]]), ours(tokens))


def test_padding_is_not_seen() -> None:
    ours, tokens = encoder(), torch.randn(2, 6, 16, dtype=torch.float64)
    there = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    padded = ours(tokens, there)
    torch.testing.assert_close(padded[:1], ours(tokens[:1]))
    torch.testing.assert_close(padded[1:], ours(tokens[1:, :4]))


def test_the_first_tokens_are_those_of_a_pass_for_each() -> None:
    ours, tokens = encoder(), torch.randn(4, 6, 16, dtype=torch.float64)
    found = ours.first(tokens, 3)
    for place in range(3):
        others = [other for other in range(6) if other != place]
        torch.testing.assert_close(found[:, place], ours(tokens[:, [place, *others]]))


def test_it_can_start_as_the_mean_of_the_tokens_that_are_asked_for() -> None:
    torch.manual_seed(0)
    ours = SetEncoder(16, 2, 1, 24).double()
    ours.start_as_mean_of_asked(4, rolled=1)
    kinds = 8 * torch.eye(4).double()[[0, 0, 0, 1, 1]]  # of five tokens
    asks = kinds[:1].roll(1, dims=1)  # for the first kind
    starts = torch.randn(6, 12).double()
    starts[0] = 0
    tokens = torch.cat([starts, torch.cat([asks, kinds])], -1).unsqueeze(0)
    first = ours.blocks[0]
    assert isinstance(first, nn.Module)
    expected = ours.norm(tokens[:, 0] + first.norm_attention(tokens)[:, 1:4].mean(1))
    torch.testing.assert_close(ours(tokens), expected, atol=0.05, rtol=0.05)
