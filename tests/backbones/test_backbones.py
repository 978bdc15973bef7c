"""Backbones: shapes, sizes as the papers had them, and what depends on what."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from metalearn.algorithms.anil import ANIL
from metalearn.algorithms.maml import MAML
from metalearn.algorithms.protonet import ProtoNet
from metalearn.backbones import MLP, Backbone, Conv4, Koch, Learn2LearnConv4, Pixels, ResNet12
from metalearn.config.build import build
from metalearn.config.files import choices
from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_algorithm
from metalearn.engine.gradient import meta_gradient
from metalearn.errors import UserError
from metalearn.nn.l2l import learn2learn
from metalearn.tasks import Examples, TaskBatch
from tests.compose import compose

IMAGE = (1, 28, 28)
WIDTHS = (64, 160, 320, 640)  # of MetaOptNet
NARROW = (4, 6, 8, 10)


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


@pytest.mark.parametrize("downsample", ["max_pool", "stride"])
def test_conv4_takes_a_width_for_each_block(downsample: str) -> None:
    backbone = Conv4((3, 32, 32), NARROW, downsample, "batch", True, "flatten").eval()
    assert [layer.out_channels for layer in backbone.blocks if isinstance(layer, nn.Conv2d)] == list(NARROW)
    assert backbone.map_shape == (NARROW[-1], 2, 2)
    assert backbone(torch.rand(2, 3, 32, 32)).shape == (2, backbone.feature_dim) == (2, 4 * NARROW[-1])


def test_one_width_is_that_of_all_four_blocks() -> None:
    states = []
    for filters in (8, [8, 8, 8, 8]):
        torch.manual_seed(0)
        states.append(Conv4(IMAGE, filters, "max_pool", "batch", True, "flatten").state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_conv4_refuses_other_than_four_widths() -> None:
    with pytest.raises(UserError, match=r"backbone\.filters=\[8, 8\]: one number is needed, or four"):
        Conv4(IMAGE, [8, 8], "max_pool", "batch", True, "flatten")


def test_resnet12_knows_the_map_its_features_are() -> None:
    backbone = resnet12((3, 84, 70), pool="flatten").eval()
    x = torch.rand(2, 3, 84, 70)
    assert backbone.map_shape == (NARROW[-1], 5, 4)
    assert torch.equal(backbone(x).unflatten(1, backbone.map_shape), backbone.blocks(x))
    assert resnet12(pool="mean").map_shape is None


def test_koch_has_the_papers_sizes() -> None:
    backbone = Koch((1, 105, 105), 4096)
    assert backbone(torch.rand(1, 1, 105, 105)).shape == (1, backbone.feature_dim) == (1, 4096)
    assert [m.kernel_size[0] for m in backbone.modules() if isinstance(m, nn.Conv2d)] == [10, 7, 4, 4]
    # As reimplementations count them, with alpha and its bias.
    assert sum(p.numel() for p in backbone.parameters()) + 4096 + 1 == 38_951_745


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
    with pytest.raises(UserError, match="backbone=pixels has no parameters to train and algorithm=protonet none"):
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


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in choices("backbone") if name not in ("ngrams", "sentence")])
def test_every_colour_counts(name: str) -> None:
    image = (3, 84, 84)
    if name == "timm":
        pytest.importorskip("timm")
    node, shapes = compose(f"backbone={name}")["backbone"], {"input_shape": image, "image_shape": image}
    node |= {"weights": "none", "size": 32, "train": "all"} if "weights" in node else {}
    backbone = build(node, "backbone", Backbone, "metalearn.backbones", optional=shapes)
    x = torch.rand(4, *image, requires_grad=True)
    features = backbone(x)
    assert features.shape == (4, backbone.feature_dim)
    features.square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()


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


def resnet12(
    image: tuple[int, int, int] = IMAGE,
    filters: tuple[int, ...] = NARROW,
    running_stats: bool = True,
    pool: str = "flatten",
    drop_rate: float = 0.0,
) -> ResNet12:
    torch.manual_seed(0)
    return ResNet12(image, filters, "batch", running_stats, pool, drop_rate, drop_block=5, drop_ramp=2)


@pytest.mark.parametrize(
    ("image", "pool", "feature_dim"),
    [
        ((1, 28, 28), "flatten", 10),  # 28 -> 14 -> 7 -> 3 -> 1
        ((3, 84, 84), "flatten", 250),  # 5x5: the paper's 16,000 features with 640 filters
        ((3, 84, 84), "mean", 10),
        ((3, 32, 48), "flatten", 60),
    ],
)
def test_resnet12_halves_four_times(image: tuple[int, int, int], pool: str, feature_dim: int) -> None:
    backbone = resnet12(image, pool=pool, drop_rate=0.1)
    assert backbone(torch.rand(2, *image)).shape == (2, feature_dim)
    assert backbone.feature_dim == feature_dim


def test_resnet12_has_metaoptnets_size() -> None:
    backbone = resnet12((3, 28, 28), WIDTHS)
    expected = sum(
        9 * (before * after + 2 * after * after)  # three 3x3 convolutions without bias
        + before * after  # the 1x1 shortcut
        + 4 * 2 * after  # scale and shift of four norms
        for before, after in zip((3, *WIDTHS), WIDTHS, strict=False)
    )
    assert sum(p.numel() for p in backbone.parameters()) == expected == 12_424_320


@pytest.mark.parametrize("training", [True, False])
def test_resnet12_is_learn2learns_copy_of_metaoptnets(training: bool) -> None:
    theirs = learn2learn().vision.models.ResNet12Backbone(avg_pool=False, dropblock_dropout=0.0, channels=1)
    ours = resnet12(IMAGE, WIDTHS)
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.copy_(b)
    x = torch.rand(3, *IMAGE)
    for network in (ours, theirs):
        network.train()(x)  # so that the running statistics are no longer those of the start
        network.train(training)
    torch.testing.assert_close(ours(x), theirs(x))


def test_resnet12_drops_in_training_only() -> None:
    x = torch.rand(4, *IMAGE)
    with_drop, without = resnet12(drop_rate=0.3), resnet12()
    with_drop.load_state_dict(without.state_dict())
    assert torch.equal(with_drop.eval()(x), without.eval()(x))
    first, second = with_drop.train()(x), with_drop(x)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, without.train()(x))
    assert all(int(value) == 2 for name, value in with_drop.named_buffers() if name.endswith("passes"))


def test_what_is_dropped_does_not_depend_on_how_tasks_are_grouped() -> None:
    x, y = torch.rand(4, 6, *IMAGE, dtype=torch.float64), torch.tensor([[0, 0, 1, 1, 2, 2]] * 4)
    tasks = TaskBatch(Examples(x, y, 3), Examples(1 - x, y, 3), torch.zeros(4, 3, dtype=torch.int64))
    gradients = []
    for task_chunk in (1, 4):
        algorithm = ProtoNet(resnet12(drop_rate=0.3)).double().train()
        meta_gradient(algorithm, tasks, task_chunk, "fp32")
        gradients.append([p.grad for p in algorithm.parameters()])
    for one, all_ in zip(*gradients, strict=True):
        assert isinstance(one, Tensor)
        torch.testing.assert_close(one, all_, atol=1e-10, rtol=1e-8)


def test_resnet12_drops_points_after_the_first_two_blocks_and_regions_after_the_last_two() -> None:
    backbone = resnet12(drop_rate=0.3)
    settings = [(m.drop_rate, m.block_size, m.ramp) for m in backbone.modules() if hasattr(m, "drop_rate")]
    assert settings == [(0.3, 1, 1), (0.3, 1, 1), (0.3, 5, 2), (0.3, 5, 2)]


@pytest.mark.parametrize("filters", [(64,), (1, 2, 3, 4, 5)])
def test_resnet12_needs_four_widths(filters: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"backbone\.filters=.* four numbers are needed"):
        resnet12(filters=filters)


def cnn4(downsample: str = "max_pool", running_stats: bool = True, pool: str = "flatten") -> Learn2LearnConv4:
    torch.manual_seed(0)
    return Learn2LearnConv4(IMAGE, 8, downsample, running_stats, pool)


def test_l2l_cnn4_is_learn2learns_backbone_and_the_body_of_its_omniglot_network() -> None:
    models = learn2learn().vision.models
    torch.manual_seed(0)
    backbone = models.CNN4Backbone(hidden_size=8, channels=1)
    torch.manual_seed(0)
    omniglot = models.OmniglotCNN(hidden_size=8).features
    x = torch.rand(3, *IMAGE)
    assert torch.equal(cnn4()(x), backbone(x))
    ours = cnn4("stride", pool="mean")
    assert torch.equal(ours(x), omniglot(x))
    assert ours.feature_dim == 8


def test_l2l_cnn4_keeps_no_statistics_where_none_are_wanted() -> None:
    assert not list(cnn4(running_stats=False).buffers())
    assert len(list(cnn4().buffers())) == 12


@pytest.mark.parametrize("make", [resnet12, cnn4])
@pytest.mark.parametrize("running_stats", [True, False])
def test_the_others_say_so_too(make: type[Backbone], running_stats: bool) -> None:
    backbone = make(running_stats=running_stats).eval()
    x = torch.rand(6, *IMAGE)
    depends = not torch.allclose(backbone(x)[:2], backbone(x[:2]), atol=1e-5)
    assert depends is backbone.uses_batch_statistics is not running_stats


@pytest.mark.parametrize("make", [resnet12, cnn4])
def test_inner_loops_take_them_without_statistics_for_any_number_of_tasks_at_once(make: type[Backbone]) -> None:
    x, y = torch.rand(2, 6, *IMAGE, dtype=torch.float64), torch.tensor([[0, 0, 1, 1, 2, 2]] * 2)
    tasks = TaskBatch(Examples(x, y, 3), Examples(1 - x, y, 3), torch.zeros(2, 3, dtype=torch.int64))
    gradients = []
    for task_chunk in (1, 2):
        algorithm = (
            MAML(make(running_stats=False), 3, 0.1, 1, 1, False, False, 0, 0, False, "adapted", "adapted")
            .double()
            .train()
        )
        meta_gradient(algorithm, tasks, task_chunk, "fp32")
        gradients.append([p.grad for p in algorithm.parameters()])
    for one, both in zip(*gradients, strict=True):
        assert isinstance(one, Tensor)
        torch.testing.assert_close(one, both, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("make", [resnet12, cnn4])
def test_inner_loops_refuse_running_statistics(make: type[Backbone]) -> None:
    with pytest.raises(UserError, match=r"backbone\.running_stats"):
        MAML(make(running_stats=True), 3, 0.1, 1, 1, False, False, 0, 0, False, "adapted", "adapted")


def test_inner_loops_refuse_to_drop() -> None:
    with pytest.raises(UserError, match=r"backbone\.drop_rate=0\.1"):
        MAML(
            resnet12(running_stats=False, drop_rate=0.1), 3, 0.1, 1, 1, False, False, 0, 0, False, "adapted", "adapted"
        )
    with pytest.raises(UserError, match=r"backbone\.drop_rate=0\.1"):
        ANIL(resnet12(running_stats=True, drop_rate=0.1), 3, 0.1, 1, 1, first_order=False)


def test_without_learn2learn_its_network_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    with pytest.raises(UserError, match="needs learn2learn"):
        cnn4()


@pytest.mark.parametrize("network", [ResNet12, Learn2LearnConv4])
def test_too_small_an_image_is_refused_by_the_others(network: type[nn.Module]) -> None:
    settings = (NARROW, "batch", True, "mean", 0.0, 5, 1) if network is ResNet12 else (8, "max_pool", True, "mean")
    with pytest.raises(ValueError, match="8x8 pixels are too few"):
        network((1, 8, 8), *settings)
