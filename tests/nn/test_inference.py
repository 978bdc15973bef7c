"""Forward passes without gradients against the network's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metalearn.algorithms.inner_loop import linear_classifier
from metalearn.algorithms.protomaml import HeadOfTask
from metalearn.backbones import Conv4, Koch, ResNet12
from metalearn.backbones.l2l import Learn2LearnConv4
from metalearn.nn import inference
from metalearn.nn.inference import infer
from metalearn.nn.memory_format import channels_last


class _Called(nn.Module):
    """A network whose forward method calls functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 5, 3), nn.Conv2d(5, 5, (2, 3), stride=(2, 1), dilation=2, bias=False)
        self.norm = nn.BatchNorm2d(5, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(F.leaky_relu(self.norm(self.second(F.max_pool2d(self.first(x), 3))), 0.1), start_dim=1)


def conv4(
    downsample: str = "max_pool", norm: str = "batch", running: bool = False, pool: str = "flatten", channels: int = 1
) -> nn.Module:
    return linear_classifier(Conv4((channels, 21, 18), 10, downsample, norm, running, pool), 3)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "max-pooling": conv4,
    "fixed statistics": lambda: conv4(running=True),
    "strided": lambda: conv4("stride", pool="mean"),
    "strided, fixed statistics": lambda: conv4("stride", running=True),
    "pooling after the first two": lambda: conv4("max_pool_first_two"),
    "no norm": lambda: conv4(norm="none"),
    "groups of channels": lambda: conv4(norm="group"),
    "more numbers to a patch than filters": lambda: conv4(channels=2),
    "learn2learn": lambda: linear_classifier(Learn2LearnConv4((1, 21, 18), 10, "max_pool", False, "flatten"), 3),
    "functions": _Called,
    "pooling last, groups, other padding": lambda: nn.Sequential(
        nn.Conv2d(2, 20, (3, 1), padding=(2, 0)),
        nn.BatchNorm2d(20, track_running_stats=False),
        nn.ReLU(),
        nn.MaxPool2d(2, 2),
        nn.Conv2d(20, 4, 3, groups=2),
        nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect"),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
    ),
    "a strided first layer with holes": lambda: nn.Sequential(
        nn.Conv2d(1, 12, 3, stride=(2, 3), dilation=(1, 2), padding=1),
        nn.Identity(),
        nn.BatchNorm2d(12, track_running_stats=False),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 3, 2),
    ),
}


def case(network: nn.Module) -> tuple[dict[str, Tensor], Tensor]:
    """Parameters of every sign, running statistics of some images, and images."""
    generator = torch.Generator().manual_seed(1)
    network.double()
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    x = torch.rand(7, first.in_channels, 21, 18, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        network.train()(x)
        network.eval()
        parameters = {
            name: parameter + torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            for name, parameter in network.named_parameters()
        }
    return parameters, x


def plain(network: nn.Module, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    outputs: Tensor = functional_call(network, parameters, (x,))
    return outputs


@pytest.mark.parametrize("name", NETWORKS)
def test_the_outputs_are_the_networks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    parameters, x = case(network)
    steps = inference._steps_of(network)
    assert steps is not None
    assert any(isinstance(step, inference._Block) for step in steps)
    for numbers in (inference._MAPS, 1):  # all images on their way at once; one after another
        monkeypatch.setattr(inference, "_MAPS", numbers)
        with torch.no_grad():
            torch.testing.assert_close(infer(network, x, parameters), plain(network, x, parameters))
            torch.testing.assert_close(infer(network, x), network(x))


def test_a_head_that_a_task_gives_is_used() -> None:
    network = nn.Sequential()
    network.add_module("backbone", Conv4((1, 21, 18), 10, "max_pool", "batch", False, "flatten"))
    network.add_module("head", HeadOfTask())
    parameters, x = case(network.get_submodule("backbone"))
    of_task = {f"backbone.{name}": parameter for name, parameter in parameters.items()}
    of_task |= {"head.weight": torch.rand(3, 10).double(), "head.bias": torch.rand(3).double()}
    with torch.no_grad():
        torch.testing.assert_close(infer(network, x, of_task), plain(network, x, of_task))


def test_statistics_of_many_images_are_as_exact_as_single_precision_allows() -> None:
    torch.manual_seed(0)
    network = conv4()
    x = (torch.rand(90, 1, 21, 18) > 0.8).float()
    with torch.no_grad():
        found, exact = infer(network, x), network.double()(x.double())
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


def test_what_is_no_row_of_layers_stays_as_it_is() -> None:
    network = ResNet12((1, 32, 32), [4, 4, 4, 4], "batch", False, "mean", 0.0, 1, 1)
    assert inference._steps_of(network) is None
    x = torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(infer(network, x), network(channels_last(x)))


def test_gradients_running_statistics_and_hooks_are_left_to_torch() -> None:
    network = conv4(running=True)
    x = torch.rand(6, 1, 21, 18)
    seen: list[Tensor] = []
    hook = network.get_submodule("backbone").register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        infer(network.eval(), x)
    assert len(seen) == 1
    hook.remove()
    everywhere = nn.modules.module.register_module_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        infer(network.eval(), x)
    everywhere.remove()
    assert len(seen) > 2
    with torch.no_grad():
        infer(network.train(), x)
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    assert norm.num_batches_tracked == 1
    infer(network.eval(), x).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_one_value_per_channel_has_no_variance() -> None:
    for channels in (1, 2):
        network = nn.Sequential(nn.Conv2d(channels, 9, 3), nn.BatchNorm2d(9, track_running_stats=False))
        with torch.no_grad(), pytest.raises(ValueError, match="no variance"):
            infer(network, torch.rand(1, channels, 3, 3))


def test_koch_passes_block_by_block() -> None:
    network = Koch((1, 105, 105), 16)
    with torch.no_grad():
        x = torch.rand(2, 1, 105, 105)
        torch.testing.assert_close(infer(network, x), network(x), atol=1e-5, rtol=1e-4)
