"""The limit of a step: its dense operators, each by itself."""

from __future__ import annotations

import torch
from torch.nn import functional

from metalearn.bench.limit import Call, DenseCalls


def test_equal_calls_of_dense_operators_are_counted_together() -> None:
    x, kernels, matrix = torch.rand(2, 3, 8, 8), torch.rand(4, 3, 3, 3, requires_grad=True), torch.rand(5, 5)
    with DenseCalls() as calls:
        for _ in range(2):
            functional.conv2d(x, kernels).relu().sum().backward()  # type: ignore[no-untyped-call]
        matrix @ matrix
        matrix + matrix
    found = {(call.operator.__name__, count) for call, count in calls.counts.items()}
    assert found == {("convolution.default", 2), ("convolution_backward.default", 2), ("mm.default", 1)}


def test_a_call_is_made_again_with_operands_in_the_same_order_in_memory() -> None:
    x = torch.rand(2, 3, 8, 8).to(memory_format=torch.channels_last)
    kernels = torch.rand(4, 3, 3, 3)
    with DenseCalls() as calls:
        expected = functional.conv2d(x, kernels, stride=2)
    (call,) = calls.counts
    assert isinstance(call, Call)
    operands = call.operands(torch.device("cpu"))
    assert operands[0].is_contiguous(memory_format=torch.channels_last)
    again = call.operator(*operands)
    assert again.shape == expected.shape
    assert again.stride() == expected.stride()
