"""Networks in two parts, and fixed layers as one function, beside the networks as they are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from metalearn.nn.division import FixedLayers, divided


class Small(nn.Module):
    """Convolutions with normalisation, a sum around them, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)), inplace=True)
        return (x + self.blocks(x)).flatten(1)


class Choosing(Small):
    """No program can be read of it: what it does depends on the numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class Overwriting(Small):
    """What crosses from the first block to the second is overwritten by a fixed layer, after it was taken."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        taken = self.blocks[1](x)
        return (taken + x.mul_(2)).flatten(1)


def some(network: Small) -> Small:
    """In double precision, with the statistics of a network that was trained."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean, module.running_var = torch.randn(4), torch.rand(4) + 0.5
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network.double().eval()


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(5, 3, 7, 7, dtype=torch.double)


def test_the_two_parts_one_after_the_other_are_the_network(x: Tensor) -> None:
    network = some(Small())
    division = divided(network, [network.blocks[1]], x)
    assert division is not None
    crossing = FixedLayers(network, division.fixed)(x)
    assert [one.shape[1:] for one in crossing] == division.shapes == [(4, 5, 5)] * 2
    torch.testing.assert_close(fx.Interpreter(network, graph=division.behind).run(*crossing), network(x))
    names = {str(node.target) for node in division.behind.nodes if node.op == "call_module"}
    assert names == {"blocks.1"}


def test_a_network_is_divided_only_where_that_changes_nothing(x: Tensor) -> None:
    small = some(Small())
    assert divided(small, [], x) is None
    assert divided(small, [small], x) is None
    assert divided(small, [small.first], x) is None  # nothing stands before it
    for network in (some(Choosing()), some(Overwriting())):
        assert divided(network, [network.blocks[1]], x) is None


def test_fixed_layers_do_without_normalisation(x: Tensor) -> None:
    network = some(Small())
    layers = FixedLayers(network)
    torch.testing.assert_close(layers(x), network(x))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in layers._layers.modules())
    assert not layers(x).requires_grad
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 3


def test_fixed_layers_see_other_weights(x: Tensor) -> None:
    network, other = some(Small()), some(Small())
    layers = FixedLayers(network)
    layers(x)
    network.load_state_dict(other.state_dict())
    torch.testing.assert_close(layers(x), other(x))
    with torch.no_grad():
        network.norm.bias.add_(1)
    torch.testing.assert_close(layers(x), network(x))
    torch.testing.assert_close(layers(x.float().double()), network.float().double()(x.float().double()))


def test_layers_of_which_no_program_can_be_read_stay_as_they_are(x: Tensor) -> None:
    network = some(Choosing())
    assert FixedLayers(network)(x).equal(network(x))


def test_a_normalisation_with_the_batchs_own_statistics_stays(x: Tensor) -> None:
    network = some(Small())
    network.norm = nn.BatchNorm2d(4, track_running_stats=False).double()
    layers = FixedLayers(network)
    torch.testing.assert_close(layers(x), network(x))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in layers._layers.modules()) == 1


def test_one_convolution_that_is_called_twice_stays(x: Tensor) -> None:
    convolution = nn.Conv2d(3, 3, 3, padding=1)
    network = nn.Sequential(convolution, nn.BatchNorm2d(3), convolution).double().eval()
    assert isinstance(network[1], nn.BatchNorm2d)
    network[1].running_mean = torch.randn(3).double()
    torch.testing.assert_close(FixedLayers(network)(x), copy.deepcopy(network)(x))


@pytest.mark.parametrize("edge", [3, 15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.double])
def test_convolutions_of_one_pixel_give_the_same_however_they_are_computed(edge: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    norm.running_mean = torch.randn(6)
    network = nn.Sequential(nn.Conv2d(4, 6, 1, stride=2), norm).to(dtype).eval()
    x = torch.randn(1, 4, edge, edge, dtype=dtype)
    torch.testing.assert_close(FixedLayers(network)(x), network(x).detach())
