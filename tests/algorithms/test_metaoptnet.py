"""MetaOptNet-SVM: its head beside the solver, label smoothing beside torch's, and what learning through the optimum brings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metalearn.algorithms.metaoptnet import MetaOptNet, smoothed_cross_entropy
from metalearn.tasks import Examples, TaskBatch
from tests.algorithms.test_nearest_centroid import Wide, random_task
from tests.nn.test_multiclass_svm import by_scipy


def learner(transform: str = "none", label_smoothing: float = 0.0, learn_scale: bool = True) -> MetaOptNet:
    return MetaOptNet(
        Wide(),
        transform,
        cost=0.1,
        diagonal=1.0,
        scale=2.0,
        learn_scale=learn_scale,
        label_smoothing=label_smoothing,
    )


def labelled(queries: Tensor) -> TaskBatch:
    support, _ = random_task()
    y = torch.arange(queries.shape[1]).remainder(3)[None]
    return TaskBatch(support, Examples(queries, y, 3), torch.zeros(1, 3, dtype=torch.int64))


@pytest.mark.parametrize("transform", ["none", "l2"])
def test_scores_are_those_of_the_dual_solution_that_scipy_finds(transform: str) -> None:
    algorithm = learner(transform).eval()
    support, queries = random_task()
    x, q = (
        (F.normalize(part[0], dim=-1) if transform == "l2" else part[0]).double().numpy()
        for part in (support.x, queries)
    )
    weight = by_scipy(x, np.eye(3)[support.y[0].numpy()], 0.1, 1.0)
    np.testing.assert_allclose(
        algorithm.predict(algorithm.adapt(support), queries)[0].detach(), 2 * q @ weight, atol=1e-5
    )


@pytest.mark.parametrize("ways", [2, 5])
def test_smoothed_labels_are_those_of_the_authors(ways: int) -> None:
    """Theirs share the part among the wrong classes, torch's among all."""
    logits, y = torch.randn(3, 8, ways), torch.randint(ways, (3, 8))
    expected = torch.stack(
        [F.cross_entropy(*task, label_smoothing=0.1 * ways / (ways - 1)) for task in zip(logits, y, strict=True)]
    )
    torch.testing.assert_close(smoothed_cross_entropy(logits, y, 0.1), expected)
    torch.testing.assert_close(smoothed_cross_entropy(logits, y, 0.0)[0], F.cross_entropy(logits[0], y[0]))


def test_smoothing_changes_the_loss_of_training_tasks_and_nothing_else() -> None:
    _, queries = random_task()
    plain, smoothed = (learner(label_smoothing=part).train().meta_loss(labelled(queries)) for part in (0.0, 0.2))
    assert abs(float((plain.loss - smoothed.loss).detach())) > 1e-3
    assert torch.equal(plain.metrics["accuracy"], smoothed.metrics["accuracy"])
    assert round(float(plain.metrics["scale"]), 6) == 2.0
    assert not list(learner(learn_scale=False).parameters())


def test_learning_through_the_optimum_finds_the_features_that_matter() -> None:
    """Two of twelve features tell classes apart, the others are large noise: with one support example the machine cannot know, the outer loop can."""
    generator = torch.Generator().manual_seed(0)

    class Weighted(Wide):
        feature_dim = 12

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(12))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    def drawn(count: int) -> TaskBatch:
        centres = torch.randn(count, 3, 1, 12, generator=generator)
        centres[..., 2:] = 0
        noise = torch.randn(count, 3, 6, 12, generator=generator) * torch.tensor([0.1] * 2 + [1.0] * 10)
        x, y = centres + noise, torch.arange(3).repeat_interleave(5).expand(count, -1)
        support = Examples(x[:, :, :1].flatten(1, 2), torch.arange(3).expand(count, -1), 3)
        return TaskBatch(support, Examples(x[:, :, 1:].flatten(1, 2), y, 3), torch.zeros(count, 3, dtype=torch.int64))

    def accuracy() -> float:
        return float(algorithm.meta_loss(test).metrics["accuracy"].mean())

    algorithm, test = MetaOptNet(Weighted(), "none", 0.1, 1.0, 1.0, True, 0.0), drawn(200)
    before = accuracy()
    optimizer = torch.optim.Adam(algorithm.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        algorithm.meta_loss(drawn(8)).loss.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert accuracy() > before + 0.15
    weight = algorithm.backbone.weight.detach().abs()  # type: ignore[operator, union-attr]
    assert weight[:2].min() > 2 * weight[2:].max()
