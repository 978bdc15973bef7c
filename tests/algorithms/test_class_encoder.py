"""Learners without support examples: what they compute, by numpy, and that they learn from what describes the classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.algorithms.class_encoder import ClassEncoder
from metalearn.algorithms.embedding import Embedded
from metalearn.algorithms.matching import MatchingNet
from metalearn.algorithms.nearest_centroid import NearestCentroid
from metalearn.algorithms.protonet import ProtoNet
from metalearn.backbones import Conv4, Pixels
from metalearn.backbones.base import Stem
from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_algorithm
from metalearn.engine.embedded import embedded_once
from metalearn.engine.evaluate import evaluate
from metalearn.engine.gradient import meta_gradient
from metalearn.errors import UserError
from metalearn.tasks import Examples, TaskBatch, TaskShape, VaryingShape, joined
from tests.compose import SMALL, compose
from tests.described import ATTRIBUTES, described_classes, with_shuffled_descriptions

CPU = torch.device("cpu")
ZERO_SHOT = ("protonet", "matching", "nearest_centroid")
VARYING = VaryingShape("varying", 0, 3, 2, 6, 1, 20, 3, 2.0)


@pytest.fixture(scope="module")
def dataset() -> ImageClasses:
    return described_classes()


def made(name: str, dataset: ImageClasses, *overrides: str) -> Algorithm:
    return build_algorithm(compose(f"algorithm={name}", *SMALL, "task.shots=0", *overrides), dataset)


def tasks_of(dataset: ImageClasses, shots: int = 0, count: int = 3) -> TaskBatch:
    return dataset.source("train", 0, CPU).tasks(0, count, TaskShape(5, shots, 4))


@torch.no_grad()
def outputs(algorithm: Algorithm, tasks: TaskBatch) -> Tensor:
    return algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x)


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def parts_of(algorithm: Any, tasks: TaskBatch) -> tuple[np.ndarray, ...]:
    """By numpy, of each task: g of the descriptions [T, N, D] and f of the queries and the support examples, [T, n, D]."""
    weight, bias = (part.detach().numpy() for part in algorithm.class_encoder.linear.parameters())
    described = tasks.support.descriptions.numpy() @ weight.T + bias
    with torch.no_grad():
        features = [
            algorithm.backbone(x.flatten(0, 1)).view(3, x.shape[1], -1).numpy()
            for x in (tasks.query.x, tasks.support.x)
            if x.shape[1]
        ]
    return described, *features


def squared_distances(queries: np.ndarray, points: np.ndarray) -> np.ndarray:
    return ((queries[:, :, None] - points[:, None]) ** 2).sum(-1)


def test_a_prototype_is_the_embedded_description_divided_by_its_length(dataset: ImageClasses) -> None:
    algorithm, tasks = made("protonet", dataset, "algorithm.scale=0.7").eval(), tasks_of(dataset)
    described, queries = parts_of(algorithm, tasks)
    expected = softmax(-0.7 * squared_distances(queries, unit(described)))
    np.testing.assert_allclose(outputs(algorithm, tasks).softmax(-1).numpy(), expected, atol=1e-5)


def test_without_support_examples_attention_is_on_the_descriptions(dataset: ImageClasses) -> None:
    algorithm, tasks = (
        made("matching", dataset, "algorithm.distance=cosine", "algorithm.scale=3").eval(),
        tasks_of(dataset),
    )
    described, queries = parts_of(algorithm, tasks)
    expected = softmax(3 * unit(queries) @ unit(described).swapaxes(1, 2))
    np.testing.assert_allclose(outputs(algorithm, tasks).exp().numpy(), expected, atol=1e-5)


def test_a_centroid_is_the_transformed_description(dataset: ImageClasses) -> None:
    algorithm, tasks = made("nearest_centroid", dataset, "algorithm.scale=2").eval(), tasks_of(dataset)
    assert isinstance(algorithm, NearestCentroid)
    described, queries = parts_of(algorithm, tasks)
    mean = np.linspace(-0.1, 0.3, queries.shape[-1], dtype=np.float32)
    algorithm.transform.mean.copy_(torch.from_numpy(mean))
    expected = softmax(-2 * squared_distances(unit(queries - mean), unit(described - mean)))
    np.testing.assert_allclose(outputs(algorithm, tasks).softmax(-1).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_a_description_counts_as_so_many_examples(dataset: ImageClasses, weight: float) -> None:
    algorithm = made("protonet", dataset, "algorithm.scale=0.7", f"algorithm.description_weight={weight}").eval()
    tasks = tasks_of(dataset, shots=3)
    described, queries, support = parts_of(algorithm, tasks)
    sums = support.reshape(3, 5, 3, -1).sum(2) + weight * unit(described)
    expected = softmax(-0.7 * squared_distances(queries, sums / (3 + weight)))
    np.testing.assert_allclose(outputs(algorithm, tasks).softmax(-1).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_a_description_has_the_attention_of_so_many_examples(dataset: ImageClasses, weight: float) -> None:
    algorithm = made("matching", dataset, "algorithm.scale=0.7", f"algorithm.description_weight={weight}").eval()
    tasks = tasks_of(dataset, shots=3)
    described, queries, support = parts_of(algorithm, tasks)
    attention = np.exp(-0.7 * squared_distances(queries, support)).reshape(3, 20, 5, 3).sum(-1)
    attention += weight * np.exp(-0.7 * squared_distances(queries, unit(described)))
    np.testing.assert_allclose(
        outputs(algorithm, tasks).exp().numpy(), attention / attention.sum(-1, keepdims=True), atol=1e-5
    )


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_with_examples_and_no_weight_descriptions_have_no_say(name: str, dataset: ImageClasses) -> None:
    algorithm, tasks = made(name, dataset).eval(), tasks_of(dataset, shots=2)
    without = tasks._replace(support=tasks.support._replace(descriptions=None))
    assert torch.equal(outputs(algorithm, tasks), outputs(algorithm, without))


def shared(name: str) -> Algorithm:
    """A learner whose backbone embeds descriptions too, as where examples and descriptions are texts."""
    torch.manual_seed(0)
    backbone = Conv4((1, 16, 16), 8, "max_pool", "batch", True, "flatten")
    encoder = ClassEncoder(None, backbone.feature_dim, None, shared=True)
    if name == "protonet":
        return ProtoNet(backbone, 0.5, False, encoder, unit_descriptions=False)
    if name == "matching":
        return MatchingNet(backbone, "squared_euclidean", False, 5, 0.5, False, encoder, unit_descriptions=False)
    return NearestCentroid(backbone, "l2", "squared_euclidean", 3.0, False, encoder)


def described_by_an_example(tasks: TaskBatch) -> TaskBatch:
    """One-shot tasks -> zero-shot tasks, in which the support example describes the class."""
    x, y, ways = tasks.support.x, tasks.support.y, tasks.support.ways
    return tasks._replace(support=Examples(x[:, :0], y[:, :0], ways, descriptions=x))


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_a_description_that_is_an_example_makes_the_task_one_shot(name: str, dataset: ImageClasses) -> None:
    algorithm, tasks = shared(name).eval(), tasks_of(dataset, shots=1)
    torch.testing.assert_close(outputs(algorithm, described_by_an_example(tasks)), outputs(algorithm, tasks))


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_what_is_shared_embeds_each_class_once_and_is_no_second_module(name: str, dataset: ImageClasses) -> None:
    algorithm, tasks = shared(name).eval(), described_by_an_example(tasks_of(dataset, shots=1))
    parts = algorithm.in_two_steps()
    assert parts is not None
    assert parts.describe is not None
    assert tasks.support.descriptions is not None
    with torch.no_grad():
        x, described = (
            torch.stack([embed(task) for task in of])
            for embed, of in ((parts.embed, tasks.query.x), (parts.describe, tasks.support.descriptions))
        )
        apart = parts.learner.predict(parts.learner.adapt(tasks.support._replace(descriptions=described)), x)
    torch.testing.assert_close(apart, outputs(algorithm, tasks))
    assert len(list(algorithm.parameters())) == len(list(algorithm.backbone.parameters()))  # type: ignore[union-attr]


class Frozen(Pixels):
    """Counts what passes it."""

    frozen = True  # type: ignore[assignment]
    passed = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passed += len(x)
        return super().forward(x)


def test_a_frozen_network_embeds_the_description_of_each_class_once(dataset: ImageClasses) -> None:
    torch.manual_seed(0)
    network, backbone = Frozen((ATTRIBUTES,)), Pixels((1, 16, 16))
    algorithm = ProtoNet(backbone, class_encoder=ClassEncoder(network, ATTRIBUTES, 256)).eval()
    source, shape = dataset.source("test", 0, CPU), TaskShape(5, 0, 3)
    whole = evaluate(algorithm, source, shape, 30, 10, stepwise=False, features="none")
    network.passed = 0
    once = evaluate(algorithm, source, shape, 30, 10, stepwise=False)
    assert network.passed == len(source.classes)
    torch.testing.assert_close(once.loss, whole.loss)


class WithStem(Pixels):
    """A network whose first part stays as it is: it takes six numbers twice, adds 1 and counts what passes. The rest halves them."""

    passed = 0

    @property
    def stem(self) -> Stem:
        return Stem(self._first, 2 * ATTRIBUTES, lambda: "the same")

    def _first(self, x: Tensor) -> Tensor:
        self.passed += x.shape[0]
        return x.flatten(1)[:, :ATTRIBUTES].repeat(1, 2) + 1

    def forward(self, x: Tensor) -> Tensor:
        return (x if x.shape[-1] == 2 * ATTRIBUTES else self._first(x))[:, :ATTRIBUTES] / 2


@pytest.mark.parametrize("is_shared", [False, True])
def test_descriptions_pass_a_stem_once(dataset: ImageClasses, is_shared: bool) -> None:
    torch.manual_seed(0)
    network = WithStem((ATTRIBUTES,))
    if is_shared:
        encoder = ClassEncoder(None, ATTRIBUTES, None, shared=True)
        algorithm: Algorithm = ProtoNet(network, class_encoder=encoder)
    else:
        algorithm = ProtoNet(Pixels((1, 16, 16)), class_encoder=ClassEncoder(network, ATTRIBUTES, 256))
    source = dataset.source("test", 0, CPU)
    learner, once = embedded_once(algorithm.train(), source, "memory", training=True)
    assert learner.class_encoder is algorithm.class_encoder, "what is behind the stem is still to do"
    raw, described = (of.tasks(0, 2, TaskShape(5, 0, 3)).support for of in (source, once))
    again = once.tasks(1, 2, TaskShape(5, 0, 3)).support
    assert described.descriptions is not None
    assert again.descriptions is not None
    if not is_shared:  # else the queries passed it, too
        assert network.passed == len(source.classes)
    torch.testing.assert_close(learner.adapt(described), algorithm.adapt(raw))
    _, twice = embedded_once(learner, once, "memory", training=True)
    assert not twice.has_raw_descriptions
    assert torch.equal(twice.tasks(1, 2, TaskShape(5, 0, 3)).support.descriptions, again.descriptions)  # type: ignore[arg-type]


def test_a_network_that_trains_embeds_descriptions_in_every_task(dataset: ImageClasses) -> None:
    """Where examples come embedded once, in training too, as their backbone is frozen."""
    torch.manual_seed(0)
    trains = Conv4((1, 16, 16), 8, "max_pool", "batch", True, "flatten")
    algorithm = ProtoNet(Frozen((1, 16, 16)), class_encoder=ClassEncoder(trains, trains.feature_dim, 256))
    learner, source = embedded_once(algorithm, dataset.source("train", 0, CPU), "memory", training=True)
    assert isinstance(learner.backbone, Embedded)
    tasks = source.tasks(0, 2, TaskShape(5, 1, 3))
    described = tasks_of(dataset, 1, 2).support.x  # as images, which this network takes
    support = tasks.support._replace(x=tasks.support.x[:, :0], y=tasks.support.y[:, :0], descriptions=described)
    learner.train().meta_loss(tasks._replace(support=support)).loss.sum().backward()
    assert all(parameter.grad is not None for parameter in trains.parameters())


@pytest.mark.parametrize("name", ZERO_SHOT)
@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_padding_changes_nothing_where_classes_are_described(name: str, weight: float, dataset: ImageClasses) -> None:
    algorithm = made(name, dataset, f"algorithm.description_weight={weight}").eval()
    source = dataset.source("train", 0, CPU)
    for shape in (VARYING, VARYING._replace(shots="varying", max_shots=3)):
        single = [source.tasks(i, 1, shape) for i in range(6)]
        together = joined(single)
        assert len({task.support.ways for task in single}) > 1
        padded = outputs(algorithm, together)
        for task, of_padded in zip(single, torch.split(padded, 1), strict=True):
            expected = outputs(algorithm, task)
            torch.testing.assert_close(of_padded[:, : expected.shape[1], : expected.shape[2]], expected)


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_a_task_with_nothing_to_tell_classes_by_is_refused(name: str, dataset: ImageClasses) -> None:
    algorithm, tasks = made(name, dataset), tasks_of(dataset)
    with pytest.raises(UserError, match="needs descriptions of the classes: there are none"):
        algorithm.adapt(tasks.support._replace(descriptions=None))
    algorithm.class_encoder = None
    with pytest.raises(UserError, match="needs a class encoder: there are none"):
        algorithm.adapt(tasks.support)


def test_contexts_read_descriptions_as_they_read_examples(dataset: ImageClasses) -> None:
    algorithm, tasks = made("matching", dataset, "algorithm.full_context=true").eval(), tasks_of(dataset)
    assert outputs(algorithm, tasks).shape == (3, 20, 5)
    assert bool(outputs(algorithm, tasks).isfinite().all())


def trained(name: str, dataset: ImageClasses, shots: int) -> tuple[float, float]:
    """The accuracy in tasks of test classes after 60 outer steps without examples, and the half width of its interval."""
    algorithm, source = made(name, dataset).train(), dataset.source("train", 0, CPU)
    optimizer = torch.optim.Adam(algorithm.parameters(), lr=3e-3)
    for step in range(60):
        optimizer.zero_grad(set_to_none=True)
        meta_gradient(algorithm, source.tasks(4 * step, 4, TaskShape(5, 0, 5)), 4, "fp32")
        optimizer.step()
    scores = evaluate(algorithm, dataset.source("test", 0, CPU), TaskShape(5, shots, 5), 100, 25, stepwise=False)
    return scores.mean, scores.ci95


@pytest.mark.thorough
@pytest.mark.parametrize("name", ZERO_SHOT)
def test_classes_that_training_did_not_see_are_told_by_their_descriptions(name: str, dataset: ImageClasses) -> None:
    """With the descriptions of other classes there is nothing to learn that helps: chance, 0.2. Measured here: 0.84 to 0.87, and 0.16 to 0.21."""
    mean, ci95 = trained(name, dataset, 0)
    assert mean - ci95 > 0.7
    mean, ci95 = trained(name, with_shuffled_descriptions(dataset), 0)
    assert mean - ci95 < 0.25


def test_a_network_trained_on_descriptions_labels_by_examples_too(dataset: ImageClasses) -> None:
    mean, ci95 = trained("protonet", dataset, 5)
    assert mean - ci95 > 0.8


def test_shuffled_descriptions_are_those_of_other_classes(dataset: ImageClasses) -> None:
    before, after = dataset.descriptions, with_shuffled_descriptions(dataset).descriptions
    assert before is not None
    assert after is not None
    same = [np.array_equal(before.of_class[name], after.of_class[name]) for name in dataset.class_names]
    assert sum(same) < 10
