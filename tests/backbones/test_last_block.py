"""The last block of networks."""

from __future__ import annotations

import pytest
import torch
from torchvision import models

from metalearn.backbones.from_torchvision import without_head
from metalearn.backbones.last_block import choose_changing, last_block


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("resnet18", "layer4.1"),
        ("mobilenet_v2", "features.18"),
        ("googlenet", "inception5b"),
        ("densenet121", "features.denseblock4"),
        ("convnext_tiny", "features.7"),
        ("vit_b_32", "encoder.layers.encoder_layer_11"),
    ],
)
def test_the_last_block_of_known_networks(name: str, first: str) -> None:
    with torch.device("meta"):
        network = models.get_model(name, weights=None, **({"init_weights": False} if name == "googlenet" else {}))
    body, _ = without_head(network)
    names = {module: name for name, module in body.named_modules()}
    assert names[last_block(body)[0]] == first


@pytest.mark.parametrize(("train", "expected"), [("none", 0), ("last_block", 1), ("all", 2)])
def test_what_is_not_asked_for_stays_as_it_is(train: str, expected: int) -> None:
    body = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    choose_changing(body, train)
    assert [all(own.requires_grad for own in layer.parameters()) for layer in body] == [
        expected == 2,
        expected > 0,
    ]
