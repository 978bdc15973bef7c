"""Gradients of tasks by hand and by autograd, and losses that hand them on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metalearn.algorithms.inner_loop import linear_classifier
from metalearn.backbones import Conv4
from metalearn.kinds import cross_entropy
from metalearn.nn.task_gradients import TaskGradients, loss_with_gradients


@pytest.mark.parametrize("downsample", ["max_pool", "stride"])
@pytest.mark.parametrize("examples", [3, 70])  # several tasks pass together; one task alone is more than pass together
def test_gradients_by_hand_are_those_of_autograd(
    downsample: str, examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = linear_classifier(Conv4((1, 18, 16), 10, downsample, "batch", False, "flatten"), 3).double()
    parameters = {name: part + 0.1 * torch.randn(20, *part.shape) for name, part in network.named_parameters()}
    x, y = torch.rand(20, examples, 1, 18, 16).double(), torch.randint(3, (20, examples))
    gradients = TaskGradients(network)
    assert gradients.by_hand(x)
    with torch.no_grad():
        losses, found = gradients(parameters, x, y, cross_entropy)
        monkeypatch.setattr(TaskGradients, "by_hand", lambda self, x: False)
        same, expected = gradients(parameters, x, y, cross_entropy)
    torch.testing.assert_close(losses, same)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
        assert not any(part.requires_grad for part in (losses, found[name], gradient))


def test_what_is_no_row_of_layers_and_what_is_no_image_is_left_to_autograd() -> None:
    images = torch.rand(2, 3, 1, 8, 8)
    assert TaskGradients(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten())).by_hand(images)
    assert not TaskGradients(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten())).by_hand(images)
    assert not TaskGradients(nn.Linear(4, 2)).by_hand(torch.rand(2, 3, 4))


def test_a_loss_hands_on_the_gradients_that_it_is_given() -> None:
    parameters = {name: torch.rand(2, 3, requires_grad=True) for name in ("first", "second", "third")}
    parameters["third"].requires_grad_(False)
    gradients = {name: torch.rand(2, 3) for name in parameters}
    loss = loss_with_gradients(torch.tensor([1.0, 2.0]), parameters, gradients)
    assert loss.item() == 3
    found = torch.autograd.grad(-0.5 * loss, [parameters["first"], parameters["second"]])
    assert torch.equal(found[0], -0.5 * gradients["first"])
    assert torch.equal(found[1], -0.5 * gradients["second"])
