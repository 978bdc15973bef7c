"""Causal layers: an end of a sequence gets what it gets as the last position of the whole sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.nn.causal import CausalAttention, CausalLayer, CausalStack, DenseCausal

TASKS, LENGTH, ENDS, CHANNELS = 2, 6, 3, 5


def by_convolution(layer: DenseCausal, x: Tensor) -> Tensor:
    """Two of torch's convolutions on [T, m, C], cut so that none sees what comes later."""
    filters = layer.out_channels - CHANNELS
    outputs = []
    for part in range(2):
        convolution = nn.Conv1d(CHANNELS, filters, 2, padding=layer.dilation, dilation=layer.dilation).double()
        weight = layer.taps.weight[part * filters : (part + 1) * filters].unflatten(1, (2, CHANNELS))
        convolution.weight = nn.Parameter(weight.transpose(1, 2).detach())  # [filters, C, 2]
        convolution.bias = nn.Parameter(layer.taps.bias[part * filters : (part + 1) * filters].detach())
        outputs.append(convolution(x.mT)[..., : x.shape[1]].mT)
    return torch.cat([x, outputs[0].tanh() * outputs[1].sigmoid()], dim=-1)


def by_masked_attention(layer: CausalAttention, x: Tensor) -> Tensor:
    logits = layer.query(x) @ layer.key(x).mT / layer.key.out_features**0.5
    later = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
    read: Tensor = logits.masked_fill(later, -torch.inf).softmax(-1) @ layer.value(x)
    return torch.cat([x, read], dim=-1)


def drawn() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(TASKS, LENGTH, CHANNELS).double(), torch.randn(TASKS, ENDS, CHANNELS).double()


def check(layer: CausalLayer, whole: Tensor, at_the_end: list[Tensor], sequence: Tensor, ends: Tensor) -> None:
    """`whole` [T, m, C'] of the sequence alone; of each end, the outputs of the sequence with it, [T, m + 1, C']."""
    outputs, kept = layer.over_sequence(sequence)
    assert outputs.shape == (TASKS, LENGTH, layer.out_channels)
    torch.testing.assert_close(outputs, whole)
    expected = torch.stack([of_one[:, -1] for of_one in at_the_end], dim=1)
    torch.testing.assert_close(layer.of_ends(ends, kept), expected)


def with_end(sequence: Tensor, ends: Tensor) -> list[Tensor]:
    return [torch.cat([sequence, end.unsqueeze(1)], dim=1) for end in ends.unbind(1)]


def test_a_convolution_is_torchs() -> None:
    sequence, ends = drawn()
    for dilation in (1, 2, 4, 6, 7, 16):  # some reach back beyond the beginning
        layer = DenseCausal(CHANNELS, 4, dilation).double()
        check(
            layer,
            by_convolution(layer, sequence),
            [by_convolution(layer, whole) for whole in with_end(sequence, ends)],
            sequence,
            ends,
        )


def test_attention_is_that_with_a_mask() -> None:
    sequence, ends = drawn()
    layer = CausalAttention(CHANNELS, 3, 7).double()
    check(
        layer,
        by_masked_attention(layer, sequence),
        [by_masked_attention(layer, whole) for whole in with_end(sequence, ends)],
        sequence,
        ends,
    )


def stack() -> CausalStack:
    torch.manual_seed(1)
    layers: list[CausalLayer] = [CausalAttention(CHANNELS, 3, 4)]
    for dilation in (1, 2):
        layers.append(DenseCausal(layers[-1].out_channels, 3, dilation))
    return CausalStack([*layers, CausalAttention(layers[-1].out_channels, 3, 4)]).double()


def test_a_stack_gives_an_end_what_it_gets_as_the_last_of_the_whole_sequence() -> None:
    sequence, ends = drawn()
    layers = stack()
    found = layers.of_ends(ends, layers.over_sequence(sequence))
    for number, whole in enumerate(with_end(sequence, ends)):
        for layer in layers.layers:
            assert isinstance(layer, CausalLayer)
            whole, _ = layer.over_sequence(whole)
        torch.testing.assert_close(found[:, number], whole[:, -1])


def test_an_end_sees_neither_other_ends_nor_does_a_position_see_later_ones() -> None:
    sequence, ends = drawn()
    layers = stack()
    found = layers.of_ends(ends, layers.over_sequence(sequence))
    other = ends + F.pad(torch.ones(TASKS, ENDS - 1, CHANNELS).double(), (0, 0, 1, 0))  # all but the first are moved
    moved = layers.of_ends(other, layers.over_sequence(sequence))
    torch.testing.assert_close(moved[:, 0], found[:, 0])
    assert not torch.allclose(moved[:, 1], found[:, 1])
    later = sequence + F.pad(torch.ones(TASKS, 1, CHANNELS).double(), (0, 0, LENGTH - 1, 0))  # the last is moved
    for layer in layers.layers:
        assert isinstance(layer, CausalLayer)
        sequence, later = layer.over_sequence(sequence)[0], layer.over_sequence(later)[0]
    torch.testing.assert_close(later[:, :-1], sequence[:, :-1])
