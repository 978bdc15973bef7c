"""Backbones: shapes, sizes as the papers had them, and what depends on what."""

from __future__ import annotations

import pytest
import torch

from metalearn.backbones import MLP, Backbone, Conv4, Pixels
from metalearn.build import build_algorithm
from metalearn.data.image_classes import ImageClasses
from metalearn.errors import UserError
from tests.compose import compose

IMAGE = (1, 28, 28)


@pytest.mark.parametrize(
    ("downsample", "pool", "feature_dim", "parameters"),
    [
        ("max_pool", "flatten", 64, 111_936),  # Snell et al.: 64 features of 28x28 pixels
        ("stride", "mean", 64, 111_936),  # Finn et al.
        ("stride", "flatten", 256, 111_936),  # Nichol et al.: 2x2x64
    ],
)
def test_conv4_has_the_papers_sizes(downsample: str, pool: str, feature_dim: int, parameters: int) -> None:
    backbone = Conv4(IMAGE, 64, downsample, "batch", True, pool)
    assert backbone(torch.rand(3, *IMAGE)).shape == (3, feature_dim)
    assert backbone.feature_dim == feature_dim
    assert sum(p.numel() for p in backbone.parameters()) == parameters


def test_mlp_has_the_papers_sizes() -> None:
    backbone = MLP(IMAGE, [256, 128, 64, 64], "batch", True)
    assert backbone(torch.rand(3, *IMAGE)).shape == (3, 64)
    linear = sum(a * b + b for a, b in [(784, 256), (256, 128), (128, 64), (64, 64)])
    assert sum(p.numel() for p in backbone.parameters()) == linear + 2 * (256 + 128 + 64 + 64)


def test_pixels_are_the_image_itself() -> None:
    backbone, x = Pixels((3, 4, 5)), torch.rand(2, 3, 4, 5)
    assert torch.equal(backbone(x), x.reshape(2, 60))
    assert backbone.feature_dim == 60
    assert not backbone.uses_batch_statistics
    assert list(backbone.parameters()) == []


def test_pixels_need_an_algorithm_with_parameters_of_its_own(easy: ImageClasses) -> None:
    with pytest.raises(UserError, match="backbone=pixels has no parameters and algorithm=protonet none"):
        build_algorithm(compose("backbone=pixels", "algorithm=protonet"), easy)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("running_stats", [True, False])
def test_what_uses_batch_statistics_says_so(norm: str, running_stats: bool) -> None:
    torch.manual_seed(0)
    backbone: Backbone = Conv4(IMAGE, 8, "stride", norm, running_stats, "mean").eval()
    x = torch.rand(6, *IMAGE)
    depends = not torch.allclose(backbone(x)[:2], backbone(x[:2]), atol=1e-5)
    assert depends is backbone.uses_batch_statistics is (norm == "batch" and not running_stats)


def test_construction_leaves_running_statistics_at_their_start() -> None:
    backbone = Conv4(IMAGE, 8, "stride", "batch", True, "mean")
    assert backbone.training
    assert all(int(value) == 0 for name, value in backbone.named_buffers() if name.endswith("num_batches_tracked"))


def test_colour_and_larger_images() -> None:
    assert Conv4((3, 84, 84), 32, "max_pool", "batch", True, "flatten").feature_dim == 800  # as in Ravi and Larochelle


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="8x8 pixels are too few"):
        Conv4((1, 8, 8), 8, "max_pool", "batch", True, "flatten")


@pytest.mark.parametrize("hidden", [[], [0], [1.5]])
def test_a_senseless_mlp_is_refused(hidden: list[int]) -> None:
    with pytest.raises(ValueError, match=r"backbone\.hidden"):
        MLP(IMAGE, hidden, "none", True)
