"""Siamese networks by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metalearn.algorithms.siamese import Siamese
from metalearn.backbones import Backbone, Conv4
from metalearn.tasks import Examples, TaskBatch


class Flat(Backbone):
    """Embeds an example as itself."""

    uses_batch_statistics = False

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def siamese(alpha: list[float], bias: float, l2: float = 0.0) -> Siamese:
    algorithm = Siamese(Flat(len(alpha)), 0.5, l2).double()
    with torch.no_grad():
        algorithm.alpha.weight.copy_(torch.tensor([alpha]))
        algorithm.alpha.bias.fill_(bias)
    return algorithm


def probability(alpha: list[float], bias: float, a: list[float], b: list[float]) -> float:
    """Section 3.1's p."""
    z = bias + sum(w * abs(i - j) for w, i, j in zip(alpha, a, b, strict=True))
    return 1 / (1 + math.exp(-z))


def task(support: list[list[float]], support_y: list[int], query: list[list[float]], query_y: list[int]) -> TaskBatch:
    def examples(x: list[list[float]], y: list[int]) -> Examples:
        return Examples(torch.tensor([x], dtype=torch.float64), torch.tensor([y]), max(support_y) + 1)

    return TaskBatch(examples(support, support_y), examples(query, query_y), torch.zeros(1, 2, dtype=torch.int64))


ALPHA, BIAS = [-1.5, -0.25, 0.5], 0.75
SUPPORT, SUPPORT_Y = [[0.0, 1.0, 2.0], [1.0, -1.0, 0.0], [0.5, 2.0, 1.0]], [0, 1, 1]
QUERY, QUERY_Y = [[0.2, 1.0, 1.0], [1.0, 1.0, -1.0], [2.0, 0.0, 0.5]], [0, 1, 0]
TASK = task(SUPPORT, SUPPORT_Y, QUERY, QUERY_Y)
PAIRS = [(q, s) for q in range(3) for s in range(3)]
P = {(q, s): probability(ALPHA, BIAS, QUERY[q], SUPPORT[s]) for q, s in PAIRS}
SAME = {(q, s): QUERY_Y[q] == SUPPORT_Y[s] for q, s in PAIRS}


def balanced(values: dict[tuple[int, int], float]) -> float:
    """What a pair is worth on average, half of the pairs being of the same class."""
    same = [values[pair] for pair in PAIRS if SAME[pair]]
    different = [values[pair] for pair in PAIRS if not SAME[pair]]
    return (sum(same) / len(same) + sum(different) / len(different)) / 2


def test_with_one_shot_the_logits_are_the_log_odds_of_the_pairs_probabilities() -> None:
    algorithm = siamese(ALPHA, BIAS).eval()
    tasks = task(SUPPORT[:2], [0, 1], QUERY, QUERY_Y)
    logits = algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x)
    expected = [[P[q, s] for s in range(2)] for q in range(3)]
    torch.testing.assert_close(logits.sigmoid(), torch.tensor([expected], dtype=torch.float64))


def test_with_several_shots_the_mean_log_odds_decide() -> None:
    algorithm = siamese(ALPHA, BIAS).eval()
    logits = algorithm.predict(algorithm.adapt(TASK.support), TASK.query.x)
    log_odds = {pair: math.log(p / (1 - p)) for pair, p in P.items()}
    expected = [[log_odds[q, 0], (log_odds[q, 1] + log_odds[q, 2]) / 2] for q in range(3)]
    torch.testing.assert_close(logits, torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_the_loss_is_the_regularised_cross_entropy_of_as_many_same_as_different_pairs(l2: float) -> None:
    outcome = siamese(ALPHA, BIAS, l2).meta_loss(TASK)
    pair_losses = {pair: -math.log(P[pair] if SAME[pair] else 1 - P[pair]) for pair in PAIRS}
    expected = balanced(pair_losses) + l2 * sum(w * w for w in ALPHA)
    assert outcome.loss.tolist() == pytest.approx([expected], abs=1e-12)


def test_verification_accuracy_counts_right_decisions_on_as_many_same_as_different_pairs() -> None:
    algorithm = siamese(ALPHA, BIAS)
    expected = balanced({pair: float((P[pair] > 0.5) == SAME[pair]) for pair in PAIRS})
    assert 0 < expected < 1
    assert algorithm.meta_loss(TASK).metrics["verification_accuracy"].tolist() == pytest.approx([expected])
    assert algorithm.eval().further_scores(TASK)["verification_accuracy"].tolist() == pytest.approx([expected])


def test_calling_every_pair_the_same_verifies_half_of_them() -> None:
    algorithm = siamese(ALPHA, 100.0).eval()
    assert algorithm.further_scores(TASK)["verification_accuracy"].tolist() == [0.5]


def conv_siamese(running_stats: bool = True, l2: float = 0.0) -> Siamese:
    torch.manual_seed(0)
    return Siamese(Conv4((1, 16, 16), 8, "max_pool", "batch", running_stats, "flatten"), 0.5, l2)


def random_tasks() -> TaskBatch:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat_interleave(2).expand(4, -1)
    support, query = (Examples(torch.rand(4, 6, 1, 16, 16, generator=generator), y, 3) for _ in range(2))
    return TaskBatch(support, query, torch.zeros(4, 3, dtype=torch.int64))


def test_regularisation_is_of_the_weights_of_all_layers_and_of_no_bias_or_norm() -> None:
    tasks = random_tasks()
    free, bound = (conv_siamese(l2=l2).meta_loss(tasks).loss for l2 in (0.0, 0.5))
    algorithm = conv_siamese()
    weights = [m.weight for m in algorithm.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(weights) == 5
    expected = 0.5 * sum(float(weight.detach().square().sum()) for weight in weights)
    torch.testing.assert_close(bound - free, torch.full((4,), expected), atol=1e-4, rtol=1e-4)


def test_labels_and_not_positions_decide() -> None:
    algorithm = siamese([-1.0, -2.0, 0.5, -0.1, -3.0], 1.0).eval()
    x, y = torch.rand(2, 6, 5).double(), torch.tensor([[0, 0, 1, 1, 2, 2], [2, 1, 0, 2, 1, 0]])
    query, order = torch.rand(2, 4, 5).double(), torch.tensor([5, 2, 0, 4, 1, 3])
    torch.testing.assert_close(
        algorithm.predict(algorithm.adapt(Examples(x, y, 3)), query),
        algorithm.predict(algorithm.adapt(Examples(x[:, order], y[:, order], 3)), query),
    )


def test_training_normalises_support_and_query_together_task_by_task() -> None:
    tasks, algorithm = random_tasks(), conv_siamese()
    losses = algorithm.meta_loss(tasks).loss
    same = tasks.query.y[0].unsqueeze(1) == tasks.support.y[0]
    for i in range(4):
        embedded = algorithm.backbone(torch.cat([tasks.support.x[i], tasks.query.x[i]]))
        z = torch.stack([torch.stack([algorithm.alpha((q - s).abs())[0] for s in embedded[:6]]) for q in embedded[6:]])
        expected = (F.softplus(-z[same]).mean() + F.softplus(z[~same]).mean()) / 2
        torch.testing.assert_close(losses[i], expected, atol=1e-5, rtol=1e-4)


def test_running_statistics_make_it_inductive_and_batch_statistics_transductive() -> None:
    tasks = random_tasks()
    for running_stats in (True, False):
        algorithm = conv_siamese(running_stats).eval()
        adapted = algorithm.adapt(tasks.support)
        one, all_ = algorithm.predict(adapted, tasks.query.x[:, :2]), algorithm.predict(adapted, tasks.query.x)
        assert algorithm.transductive is not running_stats
        assert torch.allclose(one, all_[:, :2], atol=1e-5) is running_stats


def test_it_starts_as_a_distance() -> None:
    """An untrained network takes an image to be of the same class as itself rather than as any other."""
    tasks, algorithm = random_tasks(), conv_siamese().eval()
    shots = Examples(tasks.support.x[:, ::2], tasks.support.y[:, ::2], 3)
    logits = algorithm.predict(algorithm.adapt(shots), shots.x)
    assert torch.equal(logits.argmax(-1), shots.y)


def test_before_training_p_is_one_half_at_the_threshold() -> None:
    algorithm = Siamese(Flat(16), 0.3, 0.0).eval()
    support = Examples(torch.zeros(1, 1, 16), torch.zeros(1, 1, dtype=torch.int64), 1)
    queries = torch.tensor([0.3, -0.3, 0.2, 0.4]).view(1, 4, 1).expand(1, 4, 16)
    p = algorithm.predict(algorithm.adapt(support), queries).sigmoid().flatten().tolist()
    assert p[:2] == pytest.approx([0.5, 0.5])
    assert p[2] > 0.55 > 0.45 > p[3]
