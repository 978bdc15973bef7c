"""`algorithm.class_encoder`: what it becomes, and one line where tasks have no support examples and nothing tells their classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from metalearn.algorithms.base import Algorithm
from metalearn.backbones import MLP, Pixels
from metalearn.backbones.ngrams import Ngrams
from metalearn.compose.composer import composer, explained
from metalearn.data.classes import ClassSplit
from metalearn.data.container import FlatImages
from metalearn.data.descriptions import Descriptions
from metalearn.data.images import ImageClasses
from metalearn.data.text_classes import TextClasses
from metalearn.data.texts import as_bytes, longest
from metalearn.engine.build import build_algorithm, check_tasks
from metalearn.engine.evaluate import evaluate
from metalearn.errors import UserError
from metalearn.nn.texts import texts_of
from metalearn.tasks import TaskShape
from tests.compose import SMALL, compose
from tests.described import ATTRIBUTES, described_classes, with_texts

ZERO_SHOT = ("protonet", "matching", "nearest_centroid")


@pytest.fixture(scope="module")
def dataset() -> ImageClasses:
    return described_classes()


def made(dataset: ImageClasses, *overrides: str, trained_on: ImageClasses | None = None) -> Algorithm:
    config = compose(*SMALL, *overrides)
    return build_algorithm(config, dataset, None if trained_on is None else trained_on.trained_on)


def encoder(algorithm: Algorithm) -> nn.Module | None:
    found = algorithm.class_encoder
    assert found is None or isinstance(found, nn.Module)
    return found


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_auto_is_a_linear_map_of_numbers_where_training_has_no_examples(name: str, dataset: ImageClasses) -> None:
    found = encoder(made(dataset, f"algorithm={name}", "task.shots=0"))
    assert found is not None
    assert found.network is None
    assert isinstance(found.linear, nn.Linear)
    assert found.linear.in_features == ATTRIBUTES
    assert encoder(made(dataset, f"algorithm={name}")) is None, "outer steps would not train it"
    weighted = ("algorithm.class_encoder=linear", "algorithm.description_weight=1")
    assert encoder(made(dataset, f"algorithm={name}", "train.steps=1", *weighted)) is not None


def test_a_backbone_of_numbers_reads_them(dataset: ImageClasses) -> None:
    asked = "algorithm.class_encoder={mlp: {hidden: [7], norm: none}}"
    algorithm = made(dataset, "task.shots=0", asked)
    found = encoder(algorithm)
    assert found is not None
    assert isinstance(found.network, MLP)
    assert isinstance(found.linear, nn.Linear)
    assert found.linear.in_features == 7
    tasks = dataset.source("train", 0, torch.device("cpu")).tasks(0, 2, TaskShape(5, 0, 3))
    algorithm.train().meta_loss(tasks).loss.sum().backward()
    assert all(parameter.grad is not None for parameter in algorithm.parameters())
    pixels = encoder(made(dataset, "task.shots=0", "algorithm.class_encoder=pixels"))
    assert pixels is not None
    assert isinstance(pixels.network, Pixels)


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        ("conv5", r"^algorithm.class_encoder: no backbone named 'conv5'; did you mean 'conv4'\? \(available: conv4, "),
        ("[mlp,pixels]", r"^algorithm.class_encoder: mlp and pixels are two backbones \(allowed: one\)$"),
        (
            "{mlp: {hiden: [3]}}",
            r"no setting 'algorithm.class_encoder.mlp.hiden'; did you mean 'algorithm.class_encoder.mlp.hidden'\?",
        ),
        ("{mlp: {hidden: [0]}}", r"algorithm.class_encoder.mlp.hidden=\[0\] is not allowed"),
        ("3", r"algorithm.class_encoder=3 is not allowed"),
    ],
)
def test_a_name_of_no_backbone_and_a_wrong_setting_of_it_are_told(asked: str, fault: str) -> None:
    with pytest.raises(UserError, match=fault), explained(["algorithm=protonet"], None, None):
        compose("task.shots=0", f"algorithm.class_encoder={asked}")


def test_a_stored_configuration_holds_all_settings_of_the_encoder() -> None:
    config = compose("task.shots=0", "algorithm.class_encoder={mlp: {norm: none}}")
    asked = config["algorithm"]["class_encoder"]
    assert asked == {
        "mlp": {
            "_target_": "metalearn.backbones.MLP",
            "hidden": [256, 128, 64, 64],
            "norm": "none",
            "running_stats": True,
        }
    }
    with composer() as composing:
        again = composing.evaluation(OmegaConf.create(config), ["task.shots=1"])
    assert again["algorithm"]["class_encoder"] == asked


def test_the_initial_backbone_does_not_depend_on_the_class_encoder(dataset: ImageClasses) -> None:
    with_one, without = (made(dataset, *more).state_dict() for more in (("task.shots=0",), ()))
    assert all(torch.equal(with_one[key], value) for key, value in without.items())


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (
            ("task.shots=0", "algorithm.class_encoder=null"),
            "task.shots=0: algorithm.class_encoder=null embeds no numbers, .*linear, mlp",
        ),
        (
            ("task.shots=0", "algorithm.class_encoder=conv4"),
            r"algorithm.class_encoder=conv4 needs images; 6 numbers describe the classes",
        ),
        (
            ("task.train.shots=0", "algorithm.class_encoder=null"),
            "task.train.shots=0: algorithm.class_encoder=null embeds no numbers",
        ),
        (("task.shots=0", "task.train.shots=1"), "task.shots=0: algorithm.class_encoder=auto embeds no numbers"),
        (
            ("task.shots=0", "task.train.shots=1", "algorithm.class_encoder=linear"),
            "algorithm.class_encoder=linear: training tasks with support examples do not train it "
            r"\(needed: task.train.shots=0, or algorithm.description_weight above 0\)",
        ),
        (
            ("task.shots=0", "algorithm=maml"),
            r"algorithm=maml cannot learn without support examples \(task.shots=0\); those that can: .*protonet",
        ),
    ],
)
def test_what_embeds_nothing_is_told(dataset: ImageClasses, overrides: tuple[str, ...], fault: str) -> None:
    with pytest.raises(UserError, match=f"^{fault}") as told:
        made(dataset, *overrides)
    assert "\n" not in str(told.value)


def test_texts_of_images_need_an_encoder_of_texts(dataset: ImageClasses) -> None:
    texts = with_texts(dataset)
    with pytest.raises(
        UserError, match=r"task.shots=0: algorithm.class_encoder=auto embeds no texts, which describe the classes"
    ):
        made(texts, "task.shots=0")
    with pytest.raises(UserError, match=r"algorithm.class_encoder=linear: texts describe the classes"):
        made(texts, "task.shots=0", "algorithm.class_encoder=linear")
    assert encoder(made(texts)) is None


def test_classes_without_descriptions_cannot_be_told(easy: ImageClasses) -> None:
    with pytest.raises(
        UserError, match=r"^task.shots=0: dataset=\w+ has no descriptions of its classes \(allowed: 1 or more\)$"
    ):
        made(easy, "task.shots=0")
    with pytest.raises(
        UserError, match=r"^task.shots=0: easy has no descriptions of its classes \(allowed: 1 or more\)$"
    ):
        check_tasks(easy, compose("task.shots=0")["task"], "test")
    with pytest.raises(
        UserError, match=r"^algorithm.class_encoder=linear: dataset=\w+ has no descriptions of its classes"
    ):
        made(easy, "algorithm.class_encoder=linear")
    assert encoder(made(easy, "algorithm.class_encoder=null")) is None


def test_another_data_set_has_to_describe_its_classes_alike(dataset: ImageClasses) -> None:
    more = replace(dataset, descriptions=Descriptions({name: np.zeros(3, np.float32) for name in dataset.class_names}))
    others = {
        "texts describe": with_texts(dataset),
        "3 numbers describe": more,
        "nothing describes": replace(dataset, descriptions=None),
    }
    for what, other in others.items():
        with pytest.raises(UserError, match=rf"{what} its classes; the class encoder was trained on 6 numbers$"):
            made(other, "task.shots=0", trained_on=dataset)
        few_shot = made(other, "task.train.shots=0", trained_on=dataset)
        assert encoder(few_shot) is not None, "it is there, and examples alone decide"
    made(dataset, "task.shots=0", trained_on=dataset)


def sentences(each: int = 8) -> TextClasses:
    """Sentences that hold the two words of their class's name, among others."""
    rng = np.random.default_rng(0)
    words = ["red", "green", "blue", "cat", "dog", "bird"]
    names = (
        *tuple(f"{first}_{second}" for first in words[:3] for second in words[3:]),
        "old_cat",
        "old_dog",
        "old_bird",
    )
    texts = [
        [f"i {rng.choice(['see', 'have', 'want'])} a {name.replace('_', ' ')} {rng.integers(9)}" for _ in range(each)]
        for name in names
    ]
    length = max(longest(of_class) for of_class in texts)
    stored = FlatImages.of_classes([as_bytes(of_class, length) for of_class in texts])
    split = ClassSplit("fixed", {"train": names[:7], "val": names[7:9], "test": names[9:]})
    return TextClasses("sentences", stored, names, split).with_descriptions("names")


SMALL_TEXTS = ("dataset=clinc150", "backbone.buckets=64", "backbone.hidden=[16]", "task.queries=2", "task.train.ways=5")


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_texts_that_describe_texts_pass_the_backbone(name: str) -> None:
    dataset = sentences()
    algorithm = build_algorithm(compose(f"algorithm={name}", *SMALL_TEXTS, "task.shots=0"), dataset).eval()
    found = encoder(algorithm)
    assert found is not None
    assert found.shared
    assert not list(found.parameters())
    tasks = dataset.source("train", 0, torch.device("cpu")).tasks(0, 2, TaskShape(4, 0, 2))
    assert tasks.support.descriptions is not None
    assert texts_of(tasks.support.descriptions[0])[0].count(" ") == 1, "the words of a name"
    with torch.no_grad():
        whole = algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x)
    few_shot = build_algorithm(compose(f"algorithm={name}", *SMALL_TEXTS), dataset).eval()
    # It was not trained on descriptions, and has all that it needs for them.
    few_shot.load_state_dict(algorithm.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(few_shot.predict(few_shot.adapt(tasks.support), tasks.query.x), whole)
    scores = [
        evaluate(
            algorithm,
            dataset.source("test", 0, torch.device("cpu")),
            TaskShape(3, 0, 2),
            5,
            5,
            False,
            features=features,
        )
        for features in ("none", "auto")
    ]
    torch.testing.assert_close(scores[0].loss, scores[1].loss)


def test_a_backbone_of_texts_reads_what_describes_images(dataset: ImageClasses) -> None:
    texts = with_texts(dataset)
    algorithm = made(texts, "task.shots=0", "algorithm.class_encoder={ngrams: {hidden: [7], buckets: 32}}")
    found = encoder(algorithm)
    assert found is not None
    assert isinstance(found.network, Ngrams)
    tasks = texts.source("train", 0, torch.device("cpu")).tasks(0, 2, TaskShape(5, 0, 3))
    algorithm.train().meta_loss(tasks).loss.sum().backward()
    assert all(parameter.grad is not None for parameter in algorithm.parameters())
    with pytest.raises(
        UserError,
        match=r"algorithm.class_encoder=mlp needs images or numbers; texts describe the classes \(allowed: .*ngrams",
    ):
        made(texts, "task.shots=0", "algorithm.class_encoder=mlp")
