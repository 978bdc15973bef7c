from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from metalearn.algorithms.anil import ANIL
from metalearn.backbones.base import Backbone
from metalearn.backbones.from_torchvision import TorchvisionModel
from metalearn.backbones.pretrained import Asked, Pretrained, Recipe
from metalearn.backbones.pretraining_data import UNKNOWN, imagenet1k
from metalearn.config.build import build
from metalearn.errors import UserError
from metalearn.tasks import Examples, TaskBatch
from tests.compose import compose

NAME = "shufflenet_v2_x0_5"  # small, and made in no time
RECIPE = Recipe(8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear")


def of_torchvision(
    image_shape: tuple[int, int, int] = (3, 32, 32), from_weights: bool = True, **settings: Any
) -> TorchvisionModel:
    torch.manual_seed(0)
    node = compose("backbone=torchvision")["backbone"] | {"name": NAME, "weights": "none", "size": 32} | settings
    made = build(
        node, "backbone", Backbone, "metalearn.backbones", {"image_shape": image_shape, "from_weights": from_weights}
    )
    assert isinstance(made, TorchvisionModel)
    return made


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(1)
    return models.get_model(NAME, weights=None).eval()


@pytest.fixture
def file(network: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "some.pth"
    torch.save(network.state_dict(), path)
    return path


def asked(train: str = "none", lora_rank: int = 0) -> Asked:
    return Asked("tiny", "none", None, "auto", train, lora_rank, "auto")


def tiny(train: str = "none", lora_rank: int = 0, body: nn.Module | None = None) -> Pretrained:
    torch.manual_seed(0)
    body = body or nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return Pretrained(asked(train, lora_rank), body, RECIPE, (3, 8, 8), None)


class OnlyLayerNorm(nn.Module):
    """A network that an inner loop can adapt."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(192, 5), nn.LayerNorm(5)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.norm(self.first(x.flatten(1)))
        return features


def test_features_are_those_of_the_library_before_its_last_layer(network: nn.Module, file: Path) -> None:
    backbone = of_torchvision(weights=str(file)).eval()
    x = torch.rand(2, 3, 20, 28)
    bigger = functional.interpolate(x, (32, 32), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    classes = network.fc(backbone(x))
    torch.testing.assert_close(classes, network((bigger - mean) / std), rtol=1e-4, atol=1e-5)


def test_a_file_of_torchvision_is_known_by_its_checksum(mobilenet_weights: Path) -> None:
    backbone = of_torchvision(name="mobilenet_v2", weights=str(mobilenet_weights), size="auto")
    assert (backbone.feature_dim, backbone.recipe.size) == (1280, 224)
    assert backbone.pretrained_on == imagenet1k()
    assert (
        of_torchvision(name="mobilenet_v2", weights="IMAGENET1K_V1").fingerprint()
        == of_torchvision(name="mobilenet_v2", weights=str(mobilenet_weights)).fingerprint()
    )
    with pytest.raises(UserError, match="its sha256 is b0353104"):
        of_torchvision(name="mobilenet_v2", weights=str(mobilenet_weights), sha256="1234")


def test_imagenet_has_a_thousand_classes_each_with_names() -> None:
    classes = imagenet1k().classes
    assert classes is not None
    assert len(classes) == 1000
    assert classes["n01440764"] == ("tench", "Tinca tinca")
    assert all(identity.startswith("n") and names for identity, names in classes.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3},
        lambda state: {"model": state},
    ],
)
def test_what_training_scripts_wrap_around_weights_comes_off(
    wrap: Any, network: nn.Module, file: Path, tmp_path: Path
) -> None:
    wrapped = tmp_path / "wrapped.pt"
    torch.save(wrap(network.state_dict()), wrapped)
    assert of_torchvision(weights=str(wrapped)).fingerprint() == of_torchvision(weights=str(file)).fingerprint()


def test_safetensors_are_read(network: nn.Module, file: Path, tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    path = tmp_path / "some.safetensors"
    save_file(dict(network.state_dict()), path)
    assert of_torchvision(weights=str(path)).fingerprint() == of_torchvision(weights=str(file)).fingerprint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: {name: value for name, value in state.items() if name != "conv1.0.weight"},
            "lacks 1, such as conv1.0.weight",
        ),
        (lambda state: state | {"conv9.weight": torch.zeros(1)}, "has 1 more, such as conv9.weight"),
        (
            lambda state: state | {"conv1.0.weight": torch.zeros(1)},
            r"conv1.0.weight has the shape \[1\], not \[24, 3, 3, 3\]",
        ),
        (lambda state: [1, 2], "holds no tensors by name"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Any, message: str, network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save(change(network.state_dict()), path)
    with pytest.raises(UserError, match=message):
        of_torchvision(weights=str(path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "mobilenet"},
            r"backbone\.name=mobilenet: torchvision has no classification model of this name \(close ones: mobilenet_v2",
        ),
        ({"weights": "nowhere.pth"}, r"backbone\.weights=nowhere\.pth: there is no such file"),
        ({"weights": "IMAGENET1K_V7"}, "is none of default, none, IMAGENET1K_V1, and no path of a file"),
        ({"size": 1, "name": "alexnet"}, r"backbone\.size=1: alexnet cannot take images of 1x1 pixels"),
        ({"lora_rank": 2, "train": "all"}, r"backbone\.lora_rank=2 .* needs backbone\.train=none, not all"),
        ({"lora_rank": 5000}, r"backbone\.lora_rank=5000: no layer"),
        ({"image_shape": (2, 8, 8)}, "takes grey or colour images, these have 2 channels"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        of_torchvision(**settings)
    assert "\n" not in str(raised.value)


def test_features_of_a_large_network_are_measured_by_shapes_alone_and_are_as_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = of_torchvision()
    assert not any(module.num_batches_tracked for module in small.modules() if isinstance(module, nn.BatchNorm2d))
    monkeypatch.setattr("metalearn.backbones.pretrained._LARGE", 0)
    large = of_torchvision()
    assert large.feature_dim == small.feature_dim == 1024
    assert all(weight.device.type == "cpu" for weight in large.parameters())


def test_damaged_weights_are_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a file of weights that can be read"):
        of_torchvision(weights=str(file))


def test_weights_that_run_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "code.pt"
    torch.save(tiny(), path)
    with pytest.raises(UserError, match="not a file of weights that can be read"):
        of_torchvision(weights=str(path))


def test_weights_that_cannot_be_fetched_say_where_to_put_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("METALEARN_DATA", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(UserError, match=rf"cannot be fetched \(no network\); put the file into {tmp_path}/weights"):
        of_torchvision(weights="default")


def test_a_published_file_that_is_another_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: Path
) -> None:
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path))
    (tmp_path / "weights").mkdir()
    published = Path(models.get_model_weights(NAME).IMAGENET1K_V1.url).name
    file.rename(tmp_path / "weights" / published)
    with pytest.raises(UserError, match="not that file, or damaged"):
        of_torchvision(weights="default")


@pytest.mark.parametrize("name", ["googlenet", "squeezenet1_1", "mobilenet_v3_small"])
def test_other_families_lose_their_heads_too(name: str) -> None:
    backbone = of_torchvision(name=name, size=64)
    assert backbone(torch.rand(2, 3, 64, 64)).shape == (2, backbone.feature_dim)


def test_grey_images_are_repeated() -> None:
    grey, colour = of_torchvision((1, 16, 16)).eval(), of_torchvision((3, 16, 16)).eval()
    x = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(grey(x), colour(x.expand(2, 3, 16, 16)))


def test_images_become_smaller_by_averages() -> None:
    x = torch.rand(1, 3, 33, 21)
    small = functional.interpolate(x, (8, 8), mode="bilinear", align_corners=False, antialias=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (RECIPE.mean, RECIPE.std))
    torch.testing.assert_close(tiny().taken(x), (small - mean) / std, rtol=1e-4, atol=1e-5)


def test_a_frozen_network_never_changes() -> None:
    backbone = tiny()
    assert backbone.frozen
    assert backbone.train().training
    before = backbone.fingerprint()
    features = backbone(torch.rand(4, 3, 8, 8))
    assert not features.requires_grad
    assert backbone.fingerprint() == before
    assert not tiny("all").frozen
    assert not tiny(lora_rank=2).frozen


def test_the_whole_network_learns_where_that_is_asked_for() -> None:
    backbone = tiny("all").train()
    before = backbone.fingerprint()
    backbone(torch.rand(4, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    assert backbone.fingerprint() != before  # its running statistics moved


def test_of_the_last_block_alone_statistics_and_weights_change() -> None:
    body = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(2)), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    backbone = tiny("last_block", body=body).train()
    backbone(torch.rand(4, 3, 8, 8)).sum().backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is not None] == [
        "body.1.0.weight",
        "body.1.0.bias",
        "body.1.1.weight",
        "body.1.1.bias",
    ]
    assert [int(body[number][1].num_batches_tracked) for number in (0, 1)] == [0, 1]  # type: ignore[index]


def test_adapters_start_as_nothing_and_are_all_that_learns() -> None:
    plain, adapted = tiny().eval(), tiny(lora_rank=2)
    x = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(adapted.eval()(x), plain(x))
    adapted.train()(x).square().sum().backward()
    learned = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert learned == {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert {name.rpartition(".")[2] for name in learned} == {"a", "b"}
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if name in learned:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    change = adapted.body[1][2].weight - plain.body[1][2].weight  # type: ignore[index,union-attr]
    assert int(torch.linalg.matrix_rank(change.view(8, -1))) == 2


def test_a_checkpoint_stands_for_the_file(network: nn.Module, file: Path) -> None:
    learned = of_torchvision(weights=str(file), size=48)
    file.unlink()
    loaded = of_torchvision(weights=str(file), from_weights=False)
    loaded.load_state_dict(learned.state_dict())
    assert loaded.recipe == learned.recipe
    assert loaded.pretrained_on == learned.pretrained_on == UNKNOWN
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(loaded.eval()(x), learned.eval()(x))


@pytest.mark.parametrize(
    ("stated", "expected"), [("nothing", None), ("imagenet1k", imagenet1k()), ("unknown", UNKNOWN)]
)
def test_the_user_may_say_what_weights_saw(stated: str, expected: object) -> None:
    assert of_torchvision(pretrained_on=stated).pretrained_on == expected


def test_no_inner_loop_over_what_is_fixed_or_keeps_statistics() -> None:
    for settings in ({}, {"lora_rank": 1}, {"train": "last_block"}):
        with pytest.raises(UserError, match=r"leaves weights of the backbone fixed"):
            tiny(**settings).refuse_inner_loop()  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"backbone\.name=tiny has batch normalisation"):
        tiny("all").refuse_inner_loop()
    tiny("all", body=OnlyLayerNorm()).refuse_inner_loop()


def test_a_head_can_be_adapted_on_a_frozen_network() -> None:
    node = compose("algorithm=anil")["algorithm"]
    learner = build(node, "algorithm", ANIL, "metalearn.algorithms", {"backbone": tiny(), "ways": 2}).train()
    examples = Examples(torch.rand(3, 4, 3, 8, 8), torch.arange(2).repeat(3, 2), 2)
    learner.meta_loss(TaskBatch(examples, examples, torch.zeros(3, 2, dtype=torch.long))).loss.sum().backward()
    learned = {name for name, parameter in learner.named_parameters() if parameter.grad is not None}
    assert learned
    assert not any("body" in name for name in learned)


def test_fingerprints_tell_weights_and_recipes_apart() -> None:
    one = of_torchvision()
    assert one.fingerprint() == of_torchvision().fingerprint()
    assert one.fingerprint() != of_torchvision(size=40).fingerprint()
    with torch.no_grad():
        next(one.parameters()).add_(1e-3)
    assert one.fingerprint() != of_torchvision().fingerprint()


def test_timm_needs_its_package_or_makes_its_network() -> None:
    pytest.importorskip("timm")
    from metalearn.backbones.from_timm import TimmModel

    node = compose("backbone=timm")["backbone"] | {"name": "vit_tiny_patch16_224", "weights": "none", "train": "all"}
    backbone = build(node, "backbone", TimmModel, "metalearn.backbones", {"image_shape": (1, 8, 8)})
    assert backbone.recipe.size == 224
    assert backbone.eval()(torch.rand(1, 1, 8, 8)).shape == (1, backbone.feature_dim)
    with pytest.raises(UserError, match=r"backbone\.name=vit_tinny: timm has no model of this name"):
        build(node | {"name": "vit_tinny"}, "backbone", TimmModel, "metalearn.backbones", {"image_shape": (1, 8, 8)})


def test_weights_under_timms_names_give_the_features_that_they_give_in_torchvision(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = models.mobilenet_v2(weights=None)
    for module in network.modules():  # of a network at its start, wrong statistics or another epsilon would hardly show
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.01, 0.1)

    def learned(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}

    theirs = learned(timm.create_model("mobilenetv2_100").state_dict())
    ours, renamed = tmp_path / "ours.pth", tmp_path / "renamed.pth"
    torch.save(network.state_dict(), ours)
    torch.save(dict(zip(theirs, learned(network.state_dict()).values(), strict=True)), renamed)
    node = compose("backbone=timm")["backbone"] | {"name": "mobilenetv2_100", "weights": str(renamed), "size": 32}
    backbone = build(node, "backbone", Pretrained, "metalearn.backbones", {"image_shape": (3, 32, 32)})
    x = torch.rand(3, 3, 32, 32, dtype=torch.double)  # in single precision, 52 such layers make much of rounding
    with torch.no_grad():
        expected = of_torchvision(name="mobilenet_v2", weights=str(ours)).double().eval()(x)
        torch.testing.assert_close(backbone.double().eval()(x), expected, rtol=1e-4, atol=1e-4)
    assert backbone.pretrained_on == UNKNOWN


def test_the_last_block_behind_fixed_layers_is_the_whole_network_in_training_too() -> None:
    backbone = of_torchvision(train="last_block").double()
    x = torch.rand(4, 3, 32, 32, dtype=torch.double)
    statistics = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    assert backbone.in_two_parts() is not None
    assert all(torch.equal(statistics[name], buffer) for name, buffer in backbone.named_buffers())
    for training in (True, False):
        backbone.train(training)
        twin = copy.deepcopy(backbone)
        features, expected = backbone(x), twin.body(twin.taken(x))
        torch.testing.assert_close(features, expected)
        trained = [weight for weight in backbone.parameters() if weight.requires_grad]
        twins = [weight for weight in twin.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(features.square().sum(), trained)
        torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), twins))
        for name, buffer in twin.named_buffers():  # running statistics moved alike
            torch.testing.assert_close(dict(backbone.named_buffers())[name], buffer)


def test_a_copy_of_a_network_and_loaded_weights_have_features_of_their_own() -> None:
    x = torch.rand(2, 3, 32, 32)
    for train in ("none", "last_block"):
        backbone = of_torchvision(train=train).eval()
        with torch.no_grad():
            before = backbone(x)
            copied = copy.deepcopy(backbone)
            torch.testing.assert_close(copied(x), before)
            state = {name: 1.01 * value if value.dim() == 4 else value for name, value in backbone.state_dict().items()}
            copied.load_state_dict(state)
            torch.testing.assert_close(copied(x), copied.body(copied.taken(x)))
            assert not torch.equal(copied(x), before)
            assert backbone(x).equal(before)


def test_a_network_that_changes_as_a_whole_or_not_at_all_has_no_two_parts() -> None:
    assert of_torchvision(train="all").in_two_parts() is None
    assert of_torchvision(train="none").in_two_parts() is None
    assert of_torchvision(train="none", lora_rank=2).in_two_parts() is None
