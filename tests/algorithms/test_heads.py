"""The heads that are made for given features: each beside its formula, and on features that tell classes apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor
from torch.nn import functional as F

from metalearn.algorithms.base import Algorithm
from metalearn.algorithms.knn import KNearest
from metalearn.algorithms.laplacianshot import LaplacianShot, bound_updates
from metalearn.algorithms.logistic import Logistic
from metalearn.algorithms.nearest_centroid import NearestCentroid
from metalearn.algorithms.ridge import Ridge, ridge
from metalearn.errors import UserError
from metalearn.tasks import Examples, TaskBatch
from tests.algorithms.test_nearest_centroid import Wide, random_task

SUPPORT = Examples(torch.tensor([[[0.0], [1.0], [4.0], [5.0]]]), torch.tensor([[0, 0, 1, 1]]), 2)


class Line(Wide):
    feature_dim = 1


def probabilities(algorithm: Algorithm, support: Examples, queries: Tensor) -> Tensor:
    algorithm.eval()
    return algorithm.predict(algorithm.adapt(support), queries).softmax(-1)


# --- k nearest neighbours ---------------------------------------------------------------------------------------------


def test_votes_are_weighted_by_nearness_and_a_class_without_one_keeps_its_part() -> None:
    algorithm = KNearest(Line(), "none", "squared_euclidean", neighbours=3, scale=0.1, smoothing=0.2)
    found = probabilities(algorithm, SUPPORT, torch.tensor([[[2.0], [0.0]]]))
    # Of the query at 2: the votes of 1, 0 and 4, at the squared distances 1, 4 and 4.
    votes = np.exp(-0.1 * np.array([1.0, 4.0, 4.0]))
    first = votes[:2].sum() / votes.sum()
    # Of the query at 0: those of 0, 1 and 4.
    votes = np.exp(-0.1 * np.array([0.0, 1.0, 16.0]))
    second = votes[:2].sum() / votes.sum()
    expected = [[0.8 * share + 0.1, 0.8 * (1 - share) + 0.1] for share in (first, second)]
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float32))
    one = KNearest(Line(), "none", "squared_euclidean", neighbours=1, scale=0.1, smoothing=0.2)
    torch.testing.assert_close(probabilities(one, SUPPORT, torch.tensor([[[5.0]]])), torch.tensor([[[0.1, 0.9]]]))


def test_with_one_neighbour_the_label_is_that_of_the_nearest_and_more_than_there_are_are_all() -> None:
    support, queries = random_task(ways=4, shots=3, queries=30)
    one = KNearest(Wide(), "none", "cosine", neighbours=1, scale="auto", smoothing=0.05).eval()
    cosines = F.normalize(queries[0], dim=-1) @ F.normalize(support.x[0], dim=-1).T
    assert torch.equal(one.predict(one.adapt(support), queries).argmax(-1)[0], support.y[0][cosines.argmax(-1)])
    several = [
        probabilities(KNearest(Wide(), "none", "cosine", neighbours, "auto", 0.05), support, queries)
        for neighbours in (12, 1000)
    ]
    torch.testing.assert_close(*several)
    by_class = (cosines / 0.07).softmax(-1).reshape(30, 4, 3).sum(-1)
    torch.testing.assert_close(several[0][0], 0.95 * by_class + 0.05 / 4)


# --- ridge ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("examples", "dim"), [(4, 9), (9, 4), (5, 5)])
def test_both_forms_of_ridge_regression_are_the_normal_equations(examples: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, examples, dim)), rng.normal(size=(2, examples, 3))
    expected = [np.linalg.inv(a.T @ a + 0.7 * np.eye(dim)) @ a.T @ b for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ridge(torch.tensor(x), torch.tensor(y), 0.7), expected, atol=1e-10)


def test_scores_are_scaled_outputs_with_a_bias_that_is_penalised_too() -> None:
    algorithm = Ridge(Line(), "none", "sum", penalty=2.0, scale=3.0, learn_head=False).eval()
    x = np.array([[0.0, 1], [1, 1], [4, 1], [5, 1]])
    w = np.linalg.solve(x.T @ x + 2 * np.eye(2), x.T @ np.array([[1, 0], [1, 0], [0, 1], [0, 1]]))
    logits = algorithm.predict(algorithm.adapt(SUPPORT), torch.tensor([[[2.0], [7.0]]]))
    np.testing.assert_allclose(logits[0], 3 * np.array([[2.0, 1], [7, 1]]) @ w, atol=1e-5)


@pytest.mark.parametrize("padding", [0, 2])
def test_beside_the_mean_of_the_errors_the_head_is_that_of_the_authors_code(padding: int) -> None:
    """fewshots/models/r2d2.py of bertinetto/r2d2: features, ones and labels divided by the root of their number, then the same two formulas."""
    algorithm = Ridge(Wide(), "none", "mean", penalty=0.7, scale=3.0, learn_head=False).eval()
    support, queries = random_task()
    alone, m = support.x[0].double().numpy(), support.y.shape[1]
    root = np.sqrt(m)
    x = np.concatenate([alone, np.ones((m, 1))], axis=1) / root
    labels = np.eye(3)[support.y[0].numpy()] / root
    w = x.T @ np.linalg.inv(x @ x.T + 0.7 * np.eye(m)) @ labels
    if padding:  # and a longer task beside this one
        longer = torch.cat([support.x, support.x[:, :padding]], dim=1)
        y = torch.cat([support.y, support.y[:, :padding]], dim=1)
        shorter = F.pad(support.x, (0, 0, 0, padding)), F.pad(support.y, (0, padding))
        both = (torch.cat(pair) for pair in zip((longer, y), shorter, strict=True))
        support = Examples(*both, 3, (m + padding, m), (3, 3))
        queries = queries.expand(2, -1, -1)
    logits = algorithm.predict(algorithm.adapt(support), queries)[-1]
    expected = 3 * np.concatenate([queries[-1].numpy(), np.ones((queries.shape[1], 1))], axis=1) @ w
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_penalty_and_scale_can_be_learned_and_are_logged() -> None:
    algorithm = Ridge(Wide(), "none", "sum", penalty=2.0, scale=3.0, learn_head=True).double().train()
    support, queries = random_task()
    support, y = support._replace(x=support.x.double()), torch.tensor([[0, 1, 2, 0]])
    tasks = TaskBatch(support, Examples(queries.double(), y, 3), torch.zeros(1, 3, dtype=torch.int64))

    def loss_at(penalty: float, scale: float) -> Tensor:
        other = Ridge(Wide(), "none", "sum", penalty, scale, learn_head=False).double()
        return other.meta_loss(tasks).loss.sum()

    outcome = algorithm.meta_loss(tasks)
    outcome.loss.sum().backward()  # type: ignore[no-untyped-call]
    assert algorithm.log_penalty is not None
    assert algorithm.log_penalty.grad is not None
    by_hand = (loss_at(2 * 1.001, 3.0) - loss_at(2 / 1.001, 3.0)) / (2 * np.log(1.001))
    torch.testing.assert_close(algorithm.log_penalty.grad, by_hand.detach(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(outcome.loss.detach().sum(), loss_at(2.0, 3.0))
    assert {name: round(float(value), 6) for name, value in outcome.metrics.items() if name != "accuracy"} == {
        "scale": 3.0,
        "penalty": 2.0,
    }
    assert not list(Ridge(Wide(), "none", "sum", 2.0, 3.0, learn_head=False).parameters())


# --- logistic ---------------------------------------------------------------------------------------------------------


def test_the_head_is_the_optimum_on_transformed_features() -> None:
    algorithm = Logistic(Wide(), "l2", penalty=0.3, scale=2.0, learn_scale=False).eval()
    support, queries = random_task()
    head = algorithm.adapt(support)
    x = F.normalize(support.x[0], dim=-1)
    weight, bias = (part[0] for part in head)
    error = (x @ weight + bias).softmax(-1) - F.one_hot(support.y[0])
    torch.testing.assert_close(x.T @ error, -0.3 * weight, atol=1e-5, rtol=1e-4)
    scores = F.normalize(queries[0], dim=-1) @ weight + bias
    torch.testing.assert_close(algorithm.predict(head, queries)[0], 2 * scores)


# --- LaplacianShot ----------------------------------------------------------------------------------------------------


def authors_updates(unary: np.ndarray, affinity: np.ndarray, weight: float) -> np.ndarray:
    """Algorithm 1 in numpy, for one task."""
    y, before = softmax(-unary, axis=1), np.inf
    for update in range(20):
        y = softmax(-unary + weight * affinity @ y, axis=1)
        bound = (y * np.log(np.maximum(y, 1e-20)) + unary * y - weight * (affinity @ y) * y).sum()
        if update > 1 and abs(bound - before) <= 1e-6 * abs(before):
            break
        before = bound
    return y


def test_the_updates_are_those_of_the_paper_and_each_task_ends_by_itself() -> None:
    rng = np.random.default_rng(0)
    unary, affinity = rng.random((3, 8, 4)) * 4, np.zeros((3, 8, 8))
    unary[1] *= 30  # is where it stays after the first updates
    neighbours = np.stack([[rng.permutation([p for p in range(8) if p != q])[:2] for q in range(8)] for _ in range(3)])
    for task in range(3):
        for query in range(8):
            affinity[task, query, neighbours[task, query]] = 1
    found = bound_updates(torch.tensor(unary), torch.tensor(neighbours), 1.2).exp()
    for task in range(3):
        np.testing.assert_allclose(found[task], authors_updates(unary[task], affinity[task], 1.2), atol=1e-9)


def test_a_doubtful_query_follows_its_neighbours() -> None:
    support = Examples(torch.tensor([[[0.0], [10.0]]]), torch.tensor([[0, 1]]), 2)
    queries = torch.tensor([[[4.9], [5.2], [5.4], [5.5]]])
    algorithm = LaplacianShot(Line(), "none", neighbours=2, weight=5.0)
    alone = LaplacianShot(Line(), "none", neighbours=2, weight=0.0)
    assert probabilities(alone, support, queries).argmax(-1).tolist() == [[0, 1, 1, 1]]
    assert probabilities(algorithm, support, queries).argmax(-1).tolist() == [[1, 1, 1, 1]]
    # One query alone has no neighbours.
    torch.testing.assert_close(
        probabilities(algorithm, support, queries[:, :1]), probabilities(alone, support, queries[:, :1])
    )


def test_without_neighbours_it_is_the_nearest_centroid() -> None:
    support, queries = random_task()
    laplacian = LaplacianShot(Wide(), "l2", neighbours=2, weight=0.0)
    nearest = NearestCentroid(Wide(), "l2", "squared_euclidean", 1.0, learn_scale=False)
    torch.testing.assert_close(probabilities(laplacian, support, queries), probabilities(nearest, support, queries))


def test_it_is_always_transductive_and_says_so() -> None:
    algorithm = LaplacianShot(Wide(), "l2", neighbours=2, weight=1.0)
    assert algorithm.transductive
    algorithm.set_transductive(True)
    with pytest.raises(
        UserError, match=r"eval\.transductive=false: this algorithm labels the queries of a task together"
    ):
        algorithm.set_transductive(False)


# --- all --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: NearestCentroid(Wide(), "centred_l2", "squared_euclidean", "auto", learn_scale=False),
        lambda: KNearest(Wide(), "none", "cosine", 5, "auto", 0.05),
        lambda: Ridge(Wide(), "l2", "sum", 1.0, 10.0, learn_head=False),
        lambda: Logistic(Wide(), "l2", 1.0, 1.0, learn_scale=False),
        lambda: LaplacianShot(Wide(), "centred_l2", 2, 0.7),
    ],
    ids=["nearest_centroid", "knn", "ridge", "logistic", "laplacianshot"],
)
def test_features_that_tell_classes_apart_are_all_that_is_needed(make: Callable[[], Algorithm]) -> None:
    """Clusters far from the origin and each from another: as features of a pre-trained network are."""
    generator = torch.Generator().manual_seed(0)
    centres = 5 + 2 * torch.randn(20, 5, 1, 7, generator=generator)
    drawn = centres + 0.5 * torch.randn(20, 5, 12, 7, generator=generator)
    support, queries = drawn[:, :, :2].flatten(1, 2), drawn[:, :, 2:].flatten(1, 2)
    labels = [torch.arange(5).repeat_interleave(each).expand(20, -1) for each in (2, 10)]
    algorithm = make()
    algorithm.fit(iter([drawn.reshape(-1, 7)]))
    found = probabilities(algorithm, Examples(support, labels[0], 5), queries)
    assert float((found.argmax(-1) == labels[1]).float().mean()) > 0.85
