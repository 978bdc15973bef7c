"""Which networks take their inner steps without weights for each task; that the outcome is the same: tests/algorithms/test_maml_low_rank.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from metalearn.algorithms.inner_loop import linear_classifier
from metalearn.backbones import MLP
from metalearn.kinds import cross_entropy
from metalearn.nn.low_rank_steps import LowRank, fully_connected
from tests.nn.networks import Residual


class _Flattening(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layer(x.flatten(1))
        return features


class _OtherLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).square()


def norm(**how: bool) -> nn.Module:
    return nn.BatchNorm1d(4, **{"track_running_stats": False, **how})


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4), norm(), nn.ReLU(), nn.Identity(), nn.Linear(4, 3, bias=False)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 3)),
        _Flattening(),
        linear_classifier(MLP((1, 2, 2), [4], "batch", running_stats=False), 3),
        linear_classifier(MLP((1, 2, 2), [4, 4], "none", running_stats=False), 3),
    ],
    ids=["sequence", "one layer", "flattening method", "normalised", "without norm"],
)
def test_a_step_is_that_of_autograd(network: nn.Module) -> None:
    torch.manual_seed(0)
    for parameter in network.double().parameters():
        nn.init.normal_(parameter)
    layers = fully_connected(network)
    assert layers is not None
    x, query = torch.rand(2, 5, 1, 2, 2).double(), torch.rand(2, 7, 1, 2, 2).double()
    y = torch.randint(3, (2, 5))
    named = dict(network.named_parameters())
    start = LowRank(layers, named, x, second_order=True)
    after = start.stepped(y, 0.3, cross_entropy)
    for task in range(2):
        torch.testing.assert_close(start.outputs(start.arrive(query))[task], network(query[task]))
        loss = cross_entropy(network(x[task])[None], y[task : task + 1]).sum()
        moved = {
            name: parameter - 0.3 * gradient
            for (name, parameter), gradient in zip(
                named.items(), torch.autograd.grad(loss, list(named.values())), strict=True
            )
        }
        outputs = functional_call(network, moved, (query[task],))
        torch.testing.assert_close(after.outputs(after.arrive(query))[task], outputs, atol=1e-10, rtol=1e-10)
        for name, parameter in moved.items():
            torch.testing.assert_close(after[name][task], parameter, atol=1e-10, rtol=1e-10)


SAME = nn.Linear(4, 4)


@pytest.mark.parametrize(
    "network",
    [
        Residual(),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4), Residual()),
        nn.Sequential(nn.Flatten(), _OtherLinear(4, 4)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Tanh()),
        nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(4, 4)),
        nn.Sequential(nn.Flatten(), norm(), nn.Linear(4, 4)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4), norm(affine=False)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4), norm(track_running_stats=True)),
        nn.Sequential(nn.Flatten(2), nn.Linear(4, 4)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Flatten()),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)),
        nn.Sequential(nn.Linear(4, 4)),
        nn.Sequential(nn.Flatten()),
        nn.Sequential(nn.Flatten(), SAME, nn.ReLU(), SAME),
    ],
    ids=str,
)
def test_other_networks_are_not_known(network: nn.Module) -> None:
    assert fully_connected(network) is None


def test_a_network_with_parameters_that_nothing_passes_is_not_known() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    network.register_parameter("unused", nn.Parameter(torch.zeros(3)))
    assert fully_connected(network) is None


def test_many_rows_do_not_pay() -> None:
    layers = fully_connected(nn.Sequential(nn.Flatten(), nn.Linear(100, 100)))
    assert layers is not None
    assert layers.pays(50)
    assert not layers.pays(150)
