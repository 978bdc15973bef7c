"""The gradient without autograd against autograd's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from metalearn.algorithms.inner_loop import linear_classifier
from metalearn.backbones import MLP, Conv4
from metalearn.backbones.l2l import Learn2LearnConv4
from metalearn.kinds import cross_entropy, squared_error
from metalearn.nn.chain import Chain, chain_of
from metalearn.nn.chain_convolutions import Convolution, ConvolutionBySize, DirectConvolution
from metalearn.nn.convolution import Conv2d
from tests.nn.networks import Residual

TASKS, EXAMPLES, WAYS = 2, 6, 3
IMAGE = (1, 20, 20)


def conv4(downsample: str = "stride", norm: str = "batch", pool: str = "flatten", channels: int = 1) -> nn.Module:
    backbone = Conv4((channels, *IMAGE[1:]), 10, downsample, norm, running_stats=False, pool=pool)
    return linear_classifier(backbone, WAYS)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "strided": conv4,
    "max-pooling": lambda: conv4("max_pool"),
    "pooling after the first two": lambda: conv4("max_pool_first_two", pool="mean"),
    "mean": lambda: conv4(pool="mean"),
    "no norm": lambda: conv4(norm="none"),
    "more numbers to a patch than filters": lambda: conv4(channels=3),
    "fully connected": lambda: linear_classifier(MLP(IMAGE, [7, 5], "batch", running_stats=False), WAYS),
    "fully connected, no norm": lambda: linear_classifier(MLP(IMAGE, [7], "none", running_stats=False), WAYS),
    "learn2learn": lambda: linear_classifier(Learn2LearnConv4(IMAGE, 10, "max_pool", False, "flatten"), WAYS),
    "learn2learn, strided": lambda: linear_classifier(Learn2LearnConv4(IMAGE, 10, "stride", False, "mean"), WAYS),
    "larger stride, no bias, no padding": lambda: nn.Sequential(
        nn.Conv2d(1, 4, (5, 3), stride=(3, 2), bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 3, 2, padding=(0, 1)),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(45, WAYS, bias=False),
    ),
    "gaps between patches": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 3, (2, 3), stride=(3, 4), padding=1),
        nn.Flatten(),
        nn.Linear(105, WAYS),
    ),
    "the images through ReLU": lambda: nn.Sequential(nn.ReLU(), nn.Flatten(), nn.ReLU(), nn.Linear(400, WAYS)),
}


def case(network: nn.Module, channels: int = 1) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Parameters [T, ...] of their own for each task, in the order in memory that a chain wants, examples and labels."""
    generator = torch.Generator().manual_seed(0)
    parameters = {}
    for name, parameter in network.double().named_parameters():
        own = parameter.detach() + 0.3 * torch.randn(TASKS, *parameter.shape, generator=generator, dtype=torch.float64)
        parameters[name] = torch.stack([_ordered(one) for one in own]) if own.dim() != 5 else _ordered(own)
    x = torch.rand(TASKS, EXAMPLES, channels, *IMAGE[1:], generator=generator, dtype=torch.float64)
    y = torch.randint(WAYS, (TASKS, EXAMPLES), generator=generator)
    return parameters, x, y


def _ordered(parameter: Tensor) -> Tensor:
    """Kernels [T, o, c, k, k] with their channels last in memory."""
    if parameter.dim() != 5:
        return parameter
    return parameter.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_is_that_of_autograd(name: str, direct: bool) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().double()
    parameters, x, y = case(network, channels=3 if "more numbers" in name else 1)
    x -= 0.1 * (name == "the images through ReLU")
    before = x.clone()
    chain = chain_of(network, direct)
    assert chain is not None
    for examples in (slice(0, 4), slice(0, EXAMPLES), slice(2, EXAMPLES)):  # the chain keeps memory from call to call
        into = {name: torch.full_like(parameter, torch.nan) for name, parameter in parameters.items()}
        losses, found_outputs = chain.gradient(parameters, x[:, examples], y[:, examples], cross_entropy, into)
        for task in range(TASKS):
            leaves = {name: parameter[task].detach().requires_grad_() for name, parameter in parameters.items()}
            outputs = functional_call(network, leaves, (x[task, examples],))
            loss = cross_entropy(outputs.unsqueeze(0), y[task : task + 1, examples]).sum()
            expected = torch.autograd.grad(loss, list(leaves.values()))
            torch.testing.assert_close(losses[task], loss.detach())
            torch.testing.assert_close(found_outputs[task], outputs.detach())
            for (parameter, found), gradient in zip(into.items(), expected, strict=True):
                torch.testing.assert_close(found[task], gradient, atol=1e-10, rtol=1e-8, msg=parameter)
                if gradient.abs().max() > 1e-12:  # not a bias before a norm
                    assert found[task].abs().max() > 1e-6
    assert torch.equal(x, before)


@pytest.mark.parametrize(("instructions", "expected"), [("AVX2", Convolution), ("AVX512", DirectConvolution)])
def test_strided_convolutions_of_middling_size_go_by_what_the_processor_has(
    instructions: str, expected: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    found = {}
    for stride, side in ((1, 5), (1, 20), (2, 20), (2, 80)):  # 25, 400, 100 and 1,600 outputs
        layer = ConvolutionBySize(nn.Conv2d(2, 3, 3, stride, padding=1), "conv", before_norm=False)
        parameters = {"conv.weight": torch.rand(1, 3, 3, 3, 2).permute(0, 1, 4, 2, 3), "conv.bias": torch.rand(1, 3)}
        layer.forward(torch.rand(1, 1, side, side, 2), parameters)
        found[stride, side] = type(layer._chosen)
    direct = DirectConvolution
    assert found == {(1, 5): Convolution, (1, 20): direct, (2, 20): expected, (2, 80): direct}


def test_any_loss_will_do() -> None:
    network = NETWORKS["fully connected"]().double()
    parameters, x, _ = case(network)
    chain = chain_of(network)
    assert chain is not None
    y = torch.rand(TASKS, EXAMPLES, WAYS, dtype=torch.float64)
    into = {name: torch.empty_like(parameter) for name, parameter in parameters.items()}
    chain.gradient(parameters, x, y, squared_error, into)
    leaves = {name: parameter[1].detach().requires_grad_() for name, parameter in parameters.items()}
    loss = squared_error(functional_call(network, leaves, (x[1],)).unsqueeze(0), y[1:]).sum()
    for found, expected in zip(into.values(), torch.autograd.grad(loss, list(leaves.values())), strict=True):
        torch.testing.assert_close(found[1], expected)


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * self.layer(x)  # type: ignore[no-any-return]


class _Deciding(Residual):
    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layer(x if x.sum() > 0 else -x)
        return features


class _Unused(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class _OtherConv(Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).square()


@pytest.mark.parametrize(
    "network",
    [
        Residual(),
        _Twice(),
        _Deciding(),
        _Unused(),
        _OtherConv(1, 2, 3),
        nn.Sequential(nn.Linear(4, 4), nn.Tanh()),
        nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten()),
        nn.Conv2d(1, 2, 3, padding="same"),
        nn.Conv2d(1, 2, 3, dilation=2),
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(2),
        nn.BatchNorm2d(3),
        nn.Sequential(nn.Conv2d(1, 9, 3), nn.BatchNorm2d(9)),
        nn.Sequential(nn.Conv2d(1, 9, 3), nn.BatchNorm2d(9, affine=False, track_running_stats=False)),
        conv4(norm="group"),
    ],
    ids=lambda network: type(network).__name__,
)
def test_what_is_not_known_is_left_to_autograd(network: nn.Module) -> None:
    assert chain_of(network) is None


def test_one_value_per_channel_has_no_variance() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).double()
    chain = chain_of(network)
    assert isinstance(chain, Chain)
    parameters = {name: parameter.detach().unsqueeze(0) for name, parameter in network.named_parameters()}
    into = {name: torch.empty_like(parameter) for name, parameter in parameters.items()}
    with pytest.raises(ValueError, match="no variance"):
        chain.gradient(
            parameters, torch.rand(1, 1, 4).double(), torch.zeros(1, 1, dtype=torch.int64), cross_entropy, into
        )
