"""Matching Networks by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metalearn.algorithms.matching import MatchingNet, QueryContext, SupportContext
from metalearn.algorithms.protonet import ProtoNet
from metalearn.backbones import Backbone, Conv4
from metalearn.engine.build import build_algorithm
from metalearn.engine.evaluate import evaluate
from metalearn.engine.gradient import meta_gradient
from metalearn.errors import UserError
from metalearn.tasks import Examples, TaskBatch, TaskShape
from tests.compose import SMALL, compose
from tests.conftest import easy_classes


class Flat(Backbone):
    """Embeds an example as itself."""

    uses_batch_statistics = False

    def __init__(self, feature_dim: int = 2) -> None:
        super().__init__()
        self.feature_dim = feature_dim

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def matching(
    distance: str = "squared_euclidean",
    full_context: bool = False,
    steps: int = 3,
    backbone: Backbone | None = None,
    scale: float | str = 1.0,
    learn_scale: bool = False,
) -> MatchingNet:
    torch.manual_seed(0)
    return MatchingNet(backbone or Flat(), distance, full_context, steps, scale, learn_scale)


def softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in values]
    return [value / sum(exponentials) for value in exponentials]


# One query at (0, 1); the support examples' labels are 0, 1, 0.
SUPPORT = Examples(torch.tensor([[[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]]), torch.tensor([[0, 1, 0]]), 2)
QUERY = torch.tensor([[[0.0, 1.0]]])
SIMILARITIES = {
    "cosine": [0.0, 1.0, 1 / math.sqrt(2)],
    "squared_euclidean": [-(4.0 + 1), -4.0, -1.0],  # minus the squared distances
}


@pytest.mark.parametrize("distance", SIMILARITIES)
def test_attention_and_probabilities_by_hand(distance: str) -> None:
    algorithm = matching(distance).eval()
    attention = softmax(SIMILARITIES[distance])
    ours = algorithm.similarities(SUPPORT.x, QUERY).softmax(-1)
    assert ours.flatten().tolist() == pytest.approx(attention, abs=1e-6)
    logits = algorithm.predict(algorithm.adapt(SUPPORT), QUERY)
    assert logits.shape == (1, 1, 2)
    assert logits.exp().flatten().tolist() == pytest.approx([attention[0] + attention[2], attention[1]], abs=1e-6)


def test_the_loss_is_that_of_the_label_probabilities() -> None:
    query = Examples(QUERY, torch.tensor([[1]]), 2)
    outcome = matching().meta_loss(TaskBatch(SUPPORT, query, torch.zeros(1, 2, dtype=torch.int64)))
    expected = -math.log(softmax(SIMILARITIES["squared_euclidean"])[1])
    assert float(outcome.loss) == pytest.approx(expected, abs=1e-6)
    assert float(outcome.metrics["accuracy"]) == 0


def test_classes_whose_attention_underflows_keep_finite_logits_and_gradients() -> None:
    algorithm = matching()
    support = torch.tensor([[[0.0, 0.0], [1e3, 0.0]]], requires_grad=True)
    logits = algorithm.predict(algorithm.adapt(Examples(support, torch.tensor([[0, 1]]), 2)), torch.zeros(1, 1, 2))
    assert logits.flatten().tolist() == [0, -1e6]
    F.cross_entropy(logits[0], torch.tensor([1])).backward()  # type: ignore[no-untyped-call]
    assert support.grad is not None
    assert torch.isfinite(support.grad).all()
    assert float(support.grad.abs().max()) > 0


@pytest.mark.parametrize("distance", SIMILARITIES)
def test_labels_and_not_positions_decide(distance: str) -> None:
    algorithm = matching(distance).eval()
    x, y, query = torch.rand(2, 6, 5), torch.tensor([[0, 0, 1, 1, 2, 2], [2, 1, 0, 2, 1, 0]]), torch.rand(2, 4, 5)
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    torch.testing.assert_close(
        algorithm.predict(algorithm.adapt(Examples(x, y, 3)), query),
        algorithm.predict(algorithm.adapt(Examples(x[:, order], y[:, order], 3)), query),
    )


@pytest.mark.parametrize("distance", SIMILARITIES)
def test_attention_is_over_similarities_times_the_scale(distance: str) -> None:
    for setting, scale in ((0.25, 0.25), ("auto", 10.0 if distance == "cosine" else 4 / 2)):
        algorithm = matching(distance, scale=setting).eval()
        attention = softmax([scale * similarity for similarity in SIMILARITIES[distance]])
        probabilities = algorithm.predict(algorithm.adapt(SUPPORT), QUERY).exp().flatten().tolist()
        assert probabilities == pytest.approx([attention[0] + attention[2], attention[1]], abs=1e-6)


def test_a_learned_scale_starts_where_it_is_set_and_gets_a_gradient() -> None:
    query = Examples(QUERY, torch.tensor([[1]]), 2)
    tasks, losses = TaskBatch(SUPPORT, query, torch.zeros(1, 2, dtype=torch.int64)), []
    for learned in (False, True):
        algorithm = matching(scale=0.3, learn_scale=learned)
        outcome = algorithm.meta_loss(tasks)
        losses.append(outcome.loss.sum())
        assert ("scale" in outcome.metrics) is learned
    torch.testing.assert_close(outcome.metrics["scale"], torch.tensor([0.3]))
    torch.testing.assert_close(losses[1], losses[0])
    losses[1].backward()  # type: ignore[no-untyped-call]
    assert algorithm.scale.log is not None
    assert algorithm.scale.log.grad is not None
    assert abs(float(algorithm.scale.log.grad)) > 1e-3


@pytest.mark.parametrize("shots", [1, 3])
def test_with_one_shot_and_squared_distances_it_is_protonet(shots: int) -> None:
    algorithm, proto = matching(scale=0.3), ProtoNet(Flat(), 0.3, learn_scale=False)
    y = torch.arange(4).repeat_interleave(shots).unsqueeze(0)
    support, query = Examples(torch.randn(1, 4 * shots, 2), y, 4), torch.randn(1, 9, 2)
    ours, theirs = (made.predict(made.adapt(support), query).softmax(-1) for made in (algorithm, proto))
    assert torch.allclose(ours, theirs, atol=1e-5) is (shots == 1)


@pytest.mark.thorough
@pytest.mark.parametrize("distance", SIMILARITIES)
def test_the_scale_helps_to_learn(distance: str) -> None:
    """Measured on 10-way tasks, the mean of two seeds: cosines 62.6 -> 71.9 %, squared distances 74.1 -> 78.9 % (with one shot, this is ProtoNet)."""
    dataset, accuracies = easy_classes(classes=60, noise=0.6), []
    for scale in ("1", "auto"):
        scores = []
        for seed in (0, 1):
            asked = (f"algorithm.distance={distance}", f"algorithm.scale={scale}", f"seed={seed}")
            algorithm = build_algorithm(compose("algorithm=matching", *SMALL, *asked), dataset).train()
            optimizer = torch.optim.Adam(algorithm.parameters(), lr=3e-3)
            tasks = dataset.source("train", seed, torch.device("cpu"))
            for step in range(60):
                optimizer.zero_grad(set_to_none=True)
                meta_gradient(algorithm, tasks.tasks(4 * step, 4, TaskShape(5, 1, 5)), 4, "fp32")
                optimizer.step()
            test = dataset.source("test", 0, torch.device("cpu"))
            scores.append(evaluate(algorithm, test, TaskShape(10, 1, 5), 100, 25, stepwise=False).mean)
        accuracies.append(sum(scores) / 2)
    assert accuracies[1] > accuracies[0] + 0.02


def lstm_step(x: Tensor, h: Tensor, c: Tensor, w_x: Tensor, w_h: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """One step of one LSTM on vectors."""
    i, f, g, o = (w_x @ x + w_h @ h + b).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_query_context_is_the_papers_attention_lstm(steps: int) -> None:
    """Eq. 3 to 6 for one query after another, with the hidden state [h, r] of the paper."""
    torch.manual_seed(2)
    tasks, examples, queries, dim = 2, 6, 3, 4
    module = QueryContext(dim, steps).double()
    f_, g = torch.randn(tasks, queries, dim).double(), torch.randn(tasks, examples, dim).double()
    ours = module(f_, g)
    weights, bias = module.cell.weight_ih, module.cell.bias_ih + module.cell.bias_hh
    w_x, w_hidden_and_read = weights[:, :dim], torch.cat([module.cell.weight_hh, weights[:, dim:]], dim=1)
    for task in range(tasks):
        for query in range(queries):
            x = f_[task, query]
            h = c = torch.zeros(dim).double()
            for _ in range(steps):
                scores = torch.stack([h @ example for example in g[task]])
                attention = scores.exp() / scores.exp().sum()
                read = sum((a * example for a, example in zip(attention, g[task], strict=True)), torch.zeros(dim))
                h_hat, c = lstm_step(x, torch.cat([h, read]), c, w_x, w_hidden_and_read, bias)
                h = h_hat + x
            torch.testing.assert_close(ours[task, query], h, atol=1e-12, rtol=1e-12)


def test_support_context_is_the_papers_bidirectional_lstm() -> None:
    torch.manual_seed(3)
    examples, dim = 5, 4
    module = SupportContext(dim).double()
    g_ = torch.randn(2, examples, dim).double()
    ours = module(g_)
    for task in range(2):
        expected = list(g_[task])
        for suffix, order in (("", range(examples)), ("_reverse", reversed(range(examples)))):
            weights = {name: getattr(module.lstm, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh")}
            bias = getattr(module.lstm, f"bias_ih_l0{suffix}") + getattr(module.lstm, f"bias_hh_l0{suffix}")
            h = c = torch.zeros(dim).double()
            for i in order:
                h, c = lstm_step(g_[task, i], h, c, weights["weight_ih"], weights["weight_hh"], bias)
                expected[i] = expected[i] + h
        torch.testing.assert_close(ours[task], torch.stack(expected), atol=1e-12, rtol=1e-12)


def test_full_context_embeds_the_support_set_and_then_the_queries_with_it() -> None:
    algorithm = matching(full_context=True).eval()
    adapted = algorithm.adapt(SUPPORT)
    assert algorithm.support_context is not None
    assert algorithm.query_context is not None
    torch.testing.assert_close(adapted.embedded, algorithm.support_context(SUPPORT.x))
    query = algorithm.query_context(QUERY, adapted.embedded)
    distances = torch.cdist(query, adapted.embedded).square()
    attention = (-distances).softmax(-1).flatten()
    probabilities = algorithm.predict(adapted, QUERY).exp().flatten()
    torch.testing.assert_close(probabilities, torch.stack([attention[0] + attention[2], attention[1]]))


def conv_matching(running_stats: bool = True, full_context: bool = False) -> MatchingNet:
    torch.manual_seed(0)
    backbone = Conv4((1, 16, 16), 8, "max_pool", "batch", running_stats, "flatten")
    return MatchingNet(backbone, "squared_euclidean", full_context, 2)


def random_tasks() -> TaskBatch:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat_interleave(2).expand(4, -1)
    support, query = (Examples(torch.rand(4, 6, 1, 16, 16, generator=generator), y, 3) for _ in range(2))
    return TaskBatch(support, query, torch.zeros(4, 3, dtype=torch.int64))


def test_full_context_trains_every_parameter_and_each_task_by_itself() -> None:
    tasks, gradients = random_tasks(), []
    tasks = TaskBatch(*(part._replace(x=part.x.double()) for part in tasks[:2]), tasks.classes)  # type: ignore[arg-type]
    for task_chunk in (1, 4):
        algorithm = conv_matching(full_context=True).double().train()
        meta_gradient(algorithm, tasks, task_chunk, "fp32")
        gradients.append([parameter.grad for parameter in algorithm.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients[0] if gradient is not None)
    assert None not in gradients[0]


def test_full_context_predicts_each_query_by_itself() -> None:
    tasks, algorithm = random_tasks(), conv_matching(full_context=True).eval()
    adapted = algorithm.adapt(tasks.support)
    whole = algorithm.predict(adapted, tasks.query.x)
    torch.testing.assert_close(algorithm.predict(adapted, tasks.query.x[:, :1]), whole[:, :1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(whole, conv_matching().eval().predict(adapted, tasks.query.x), atol=1e-3)


def test_without_full_context_there_is_nothing_but_the_backbone() -> None:
    algorithm = conv_matching()
    assert len(list(algorithm.parameters())) == len(list(algorithm.backbone.parameters()))


def test_training_normalises_support_and_query_together_task_by_task() -> None:
    tasks, algorithm = random_tasks(), conv_matching()
    losses = algorithm.meta_loss(tasks).loss
    for task in range(4):
        embedded = algorithm.backbone(torch.cat([tasks.support.x[task], tasks.query.x[task]]))
        attention = (-torch.cdist(embedded[6:], embedded[:6]).square()).softmax(-1)
        probabilities = attention @ F.one_hot(tasks.support.y[task], 3).float()
        expected = F.nll_loss(probabilities.log(), tasks.query.y[task])
        torch.testing.assert_close(losses[task], expected, atol=1e-5, rtol=1e-4)


def test_running_statistics_make_it_inductive_and_batch_statistics_transductive() -> None:
    assert not conv_matching(True).transductive
    assert conv_matching(False).transductive
    with pytest.raises(UserError, match=r"eval\.transductive=true"):
        conv_matching(True).set_transductive(True)
