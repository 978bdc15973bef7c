"""Backbones: shapes, sizes as the papers had them, and what depends on what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metalearn.backbones import MLP, Backbone, Conv4, Koch

IMAGE = (1, 28, 28)


@pytest.mark.parametrize(
    ("downsample", "pool", "feature_dim", "parameters"),
    [
        ("max_pool", "flatten", 64, 111_936),  # Snell et al.: 64 features of 28x28 pixels
        ("max_pool_first_two", "flatten", 3136, 111_936),  # Sung et al., with all convolutions padded: 7x7x64
        ("stride", "mean", 64, 111_936),  # Finn et al.
        ("stride", "flatten", 256, 111_936),  # Nichol et al.: 2x2x64
    ],
)
def test_conv4_has_the_papers_sizes(downsample: str, pool: str, feature_dim: int, parameters: int) -> None:
    backbone = Conv4(IMAGE, 64, downsample, "batch", True, pool)
    assert backbone(torch.rand(3, *IMAGE)).shape == (3, feature_dim)
    assert backbone.feature_dim == feature_dim
    assert sum(p.numel() for p in backbone.parameters()) == parameters


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 37, 16)])
@pytest.mark.parametrize("downsample", ["max_pool", "max_pool_first_two", "stride"])
def test_conv4_knows_the_map_its_features_are(image: tuple[int, int, int], downsample: str) -> None:
    backbone = Conv4(image, 8, downsample, "none", True, "flatten").eval()
    x = torch.rand(2, *image)
    assert backbone.map_shape is not None
    assert torch.equal(backbone(x).unflatten(1, backbone.map_shape), backbone.blocks(x))
    assert Conv4(image, 8, downsample, "none", True, "mean").map_shape is None


def test_koch_has_the_papers_sizes() -> None:
    backbone = Koch((1, 105, 105), 4096)
    assert backbone(torch.rand(1, 1, 105, 105)).shape == (1, backbone.feature_dim) == (1, 4096)
    assert [m.kernel_size[0] for m in backbone.modules() if isinstance(m, nn.Conv2d)] == [10, 7, 4, 4]
    assert (
        sum(p.numel() for p in backbone.parameters()) + 4096 + 1 == 38_951_745
    )  # as reimplementations count them, with alpha and its bias


def test_mlp_has_the_papers_sizes() -> None:
    backbone = MLP(IMAGE, [256, 128, 64, 64], "batch", True)
    assert backbone(torch.rand(3, *IMAGE)).shape == (3, 64)
    linear = sum(a * b + b for a, b in [(784, 256), (256, 128), (128, 64), (64, 64)])
    assert sum(p.numel() for p in backbone.parameters()) == linear + 2 * (256 + 128 + 64 + 64)


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
    with pytest.raises(ValueError, match="halves the image twice: 3x8 pixels are too few"):
        Conv4((1, 3, 8), 8, "max_pool_first_two", "batch", True, "flatten")
    with pytest.raises(ValueError, match=r"koch.*64x105 are too few \(at least 65x65"):
        Koch((1, 64, 105), 16)
    assert Koch((1, 65, 65), 16)(torch.rand(1, 1, 65, 65)).shape == (1, 16)


@pytest.mark.parametrize("hidden", [[], [0], [1.5]])
def test_a_senseless_mlp_is_refused(hidden: list[int]) -> None:
    with pytest.raises(ValueError, match=r"backbone\.hidden"):
        MLP(IMAGE, hidden, "none", True)
