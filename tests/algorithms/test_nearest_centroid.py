"""SimpleShot by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from metalearn.algorithms.nearest_centroid import NearestCentroid
from metalearn.algorithms.protonet import ProtoNet
from metalearn.backbones import Backbone, Conv4
from metalearn.tasks import Examples, TaskBatch
from tests.algorithms.test_protonet import Flat


class Wide(Flat):
    feature_dim = 7


def learner(
    transform: str, distance: str = "squared_euclidean", scale: float | str = 1.0, backbone: Backbone | None = None
) -> NearestCentroid:
    return NearestCentroid(backbone or Wide(), transform, distance, scale, learn_scale=False).eval()


def random_task(ways: int = 3, shots: int = 2, queries: int = 4, dim: int = 7) -> tuple[Examples, torch.Tensor]:
    torch.manual_seed(0)
    y = torch.arange(ways).repeat_interleave(shots)
    return Examples(torch.randn(1, ways * shots, dim) + 1, y[None], ways), torch.randn(1, queries, dim) + 1


@pytest.mark.parametrize("transform", ["none", "l2", "centred_l2"])
def test_distances_are_those_of_the_authors_formula(transform: str) -> None:
    """UN, L2N and CL2N as the authors compute them, in numpy, one query at a time."""
    algorithm, (support, queries) = learner(transform), random_task()
    training = torch.randn(50, 7) + torch.arange(7)
    algorithm.fit(iter(torch.split(training, 8)))
    mean = training.numpy().mean(0)

    def transformed(x: torch.Tensor) -> np.ndarray:
        features = x[0].numpy().astype(np.float64)
        if transform == "centred_l2":
            features = features - mean
        return features if transform == "none" else features / np.linalg.norm(features, axis=1, keepdims=True)

    centroids = transformed(support.x).reshape(3, 2, 7).mean(1)
    expected = [[-((query - centroid) ** 2).sum() for centroid in centroids] for query in transformed(queries)]
    logits = algorithm.predict(algorithm.adapt(support), queries)
    torch.testing.assert_close(
        F.log_softmax(logits, -1),
        F.log_softmax(torch.tensor([expected], dtype=torch.float32), -1),
        atol=1e-4,
        rtol=1e-4,
    )


def test_cosines_by_hand() -> None:
    support = Examples(torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]), torch.tensor([[0, 1]]), 2)
    algorithm = learner("none", "cosine", "auto", Flat())
    logits = algorithm.predict(algorithm.adapt(support), torch.tensor([[[3.0, 4.0]]]))
    torch.testing.assert_close(logits, torch.tensor([[[6.0, 8.0]]]))  # 10 times the cosines


@pytest.mark.parametrize(
    ("transform", "distance", "scale"),
    [("none", "squared_euclidean", 4 / 7), ("l2", "squared_euclidean", 10.0), ("none", "cosine", 10.0)],
)
def test_auto_is_a_scale_for_the_range_of_the_similarities(transform: str, distance: str, scale: float) -> None:
    support, queries = random_task()
    automatic, stated = (learner(transform, distance, value) for value in ("auto", scale))
    torch.testing.assert_close(
        automatic.predict(automatic.adapt(support), queries), stated.predict(stated.adapt(support), queries)
    )


def test_the_mean_gives_every_image_the_same_weight_and_is_taken_anew() -> None:
    algorithm = learner("centred_l2")
    features = torch.rand(10, 7) * 1e4
    algorithm.fit(iter([features[:1], features[1:4], features[4:]]))
    torch.testing.assert_close(algorithm.transform.mean, features.double().mean(0).float())
    algorithm.fit(iter([torch.ones(3, 7)]))
    assert algorithm.transform.mean.tolist() == [1.0] * 7
    assert list(algorithm.state_dict()) == ["transform.mean"]
    assert not learner("l2").state_dict()


def test_trained_untransformed_it_is_protonet() -> None:
    torch.manual_seed(0)
    backbone = Conv4((1, 16, 16), 4, "max_pool", "batch", True, "flatten")
    torch.manual_seed(1)
    y = torch.arange(3).repeat_interleave(2).expand(2, -1)
    examples = [Examples(torch.rand(2, 6, 1, 16, 16), y, 3) for _ in range(2)]
    tasks = TaskBatch(*examples, torch.zeros(2, 3, dtype=torch.int64))
    losses = [
        algorithm.train().meta_loss(tasks).loss
        for algorithm in (learner("none", scale=1.0, backbone=backbone), ProtoNet(backbone))
    ]
    assert torch.equal(*losses)
