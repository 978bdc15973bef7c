"""Pre-trained classifiers against plain loops: torch's own layers and optimizer, one task at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from metalearn.algorithms.pretrain import Pretrain, mini_batches, new_head
from metalearn.backbones import Backbone, Conv4
from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_algorithm
from metalearn.tasks import Examples, TaskBatch
from tests.compose import SMALL, compose

WAYS, SHOTS, QUERIES, TASKS, CLASSES, DIM = 3, 2, 2, 3, 11, 7
SCALE, LR, MOMENTUM, DAMPENING, DECAY, BATCH, PASSES = 3.0, 0.05, 0.9, 0.8, 0.02, 4, 6


class Flat(Backbone):
    """Embeds an example as itself."""

    feature_dim = DIM
    uses_batch_statistics = False

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def pretrain(head: str, train_head: str = "linear", backbone: Backbone | None = None) -> Pretrain:
    torch.manual_seed(1)
    settings = (train_head, head, 10.0, SCALE, LR, MOMENTUM, DAMPENING, DECAY, BATCH, PASSES)
    return Pretrain(backbone or Flat(), CLASSES, *settings).double()


def random_tasks(*shape: int) -> TaskBatch:
    """With labels in an order of their own for each task, so that nothing can go by position."""
    generator = torch.Generator().manual_seed(0)

    def examples(each: int) -> Examples:
        x = torch.randn(TASKS, WAYS * each, *shape, generator=generator, dtype=torch.float64)
        labels = torch.arange(WAYS).repeat_interleave(each)
        y = torch.stack([labels[torch.randperm(WAYS * each, generator=generator)] for _ in range(TASKS)])
        return Examples(x, y, WAYS)

    classes = torch.stack([torch.randperm(CLASSES, generator=generator)[:WAYS] for _ in range(TASKS)])
    return TaskBatch(examples(SHOTS), examples(QUERIES), classes)


def layer(kind: str) -> nn.Module:
    """A new head of a task as torch's own layer, with torch's own weight normalisation for cosines."""
    initial = {
        name: value.double() for name, value in new_head(kind, WAYS, DIM, torch.Generator().manual_seed(0)).items()
    }
    linear = nn.Linear(DIM, WAYS, bias=kind == "linear").double()
    if kind == "linear":
        linear.load_state_dict(initial)
        return linear
    linear.weight.data = initial["direction"]
    normalised = weight_norm(linear)
    normalised.parametrizations.weight.original0.data = initial["length"].unsqueeze(1)
    return normalised


def scores(kind: str, head: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = head(x) if kind == "linear" else SCALE * head(x / x.norm(dim=1, keepdim=True))
    return logits


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_new_head_is_what_torchs_own_sgd_makes_task_by_task(kind: str) -> None:
    tasks, algorithm = random_tasks(DIM), pretrain(kind).eval()
    with torch.no_grad():
        logits = algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x)
    for task in range(TASKS):
        head = layer(kind)
        before = scores(kind, head, tasks.query.x[task])
        optimizer = torch.optim.SGD(head.parameters(), LR, momentum=MOMENTUM, dampening=DAMPENING, weight_decay=DECAY)
        for batch in mini_batches(WAYS * SHOTS, BATCH, PASSES, torch.device("cpu")):
            optimizer.zero_grad()
            F.cross_entropy(scores(kind, head, tasks.support.x[task, batch]), tasks.support.y[task, batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        expected = scores(kind, head, tasks.query.x[task])
        torch.testing.assert_close(logits[task], expected, atol=1e-12, rtol=1e-10)
        assert not torch.allclose(expected, before, atol=0.05), "the fit moves the head"


def test_every_pass_takes_each_example_once() -> None:
    batches = list(mini_batches(examples=7, size=3, passes=2, device=torch.device("cpu")))
    assert [len(batch) for batch in batches] == [3, 3, 1, 3, 3, 1]
    passes = [torch.cat(batches[:3]).tolist(), torch.cat(batches[3:]).tolist()]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert passes[0] != passes[1], "each pass is in an order of its own"
    again = mini_batches(examples=7, size=3, passes=2, device=torch.device("cpu"))
    assert torch.equal(torch.cat(batches), torch.cat(list(again)))


def test_a_new_head_begins_like_torchs_linear_layer() -> None:
    head = new_head("linear", 300, 16, torch.Generator().manual_seed(0))
    assert head["weight"].shape == (300, 16)
    assert 0.249 < float(head["weight"].abs().max()) <= 0.25  # 1 / sqrt(16)
    assert float(head["weight"].std()) == pytest.approx(0.25 / 3**0.5, rel=0.03)
    assert torch.equal(head["bias"], torch.zeros(300))


def test_nearest_centroid_by_hand() -> None:
    algorithm = pretrain("centroid").eval()
    support = Examples(
        torch.tensor([[[3.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 6.0]]]), torch.tensor([[0, 1, 0, 1]]), 2
    )
    adapted = algorithm.adapt(support)
    assert adapted["direction"].tolist() == [[[2.0, 0.0], [0.0, 4.0]]]
    # The cosines of (3, 4) with the two means are 3/5 and 4/5: lengths do not count.
    logits = algorithm.predict(adapted, torch.tensor([[[3.0, 4.0], [0.0, 0.5]]]))
    torch.testing.assert_close(logits, SCALE * torch.tensor([[[0.6, 0.8], [0.0, 1.0]]]))


@pytest.mark.parametrize("train_head", ["linear", "cosine"])
def test_training_classifies_support_and_query_among_all_training_classes(train_head: str) -> None:
    backbone = Conv4((1, 16, 16), 8, "max_pool", "batch", True, "flatten")
    algorithm = pretrain("centroid", train_head, backbone).train()
    tasks = random_tasks(1, 16, 16)
    outcome = algorithm.meta_loss(tasks)
    head = dict(algorithm.classifier)
    for task in range(TASKS):
        features = backbone(torch.cat([tasks.support.x[task], tasks.query.x[task]]))  # normalised together
        ids = [int(tasks.classes[task, y]) for part in (tasks.support, tasks.query) for y in part.y[task]]
        if train_head == "linear":
            logits = F.linear(features, head["weight"], head["bias"])
        else:
            logits = 10 * head["length"] * F.cosine_similarity(features.unsqueeze(1), head["direction"], dim=-1)
        assert logits.shape == (WAYS * (SHOTS + QUERIES), CLASSES)
        target = torch.tensor(ids)
        torch.testing.assert_close(outcome.loss[task], F.cross_entropy(logits, target))
        accuracy = (logits.argmax(-1) == target).float().mean()
        torch.testing.assert_close(outcome.metrics["accuracy"][task], accuracy)


def test_no_gradient_leads_out_of_a_new_head() -> None:
    for head in ("centroid", "linear", "cosine"):
        backbone = Conv4((1, 16, 16), 8, "stride", "none", False, "flatten")
        adapted = pretrain(head, backbone=backbone).train().adapt(random_tasks(1, 16, 16).support)
        assert not any(value.requires_grad for value in adapted.values())


def test_one_checkpoint_serves_every_head() -> None:
    assert len({tuple(pretrain(head).state_dict()) for head in ("centroid", "linear", "cosine")}) == 1


def test_the_classifier_knows_every_training_class(easy: ImageClasses) -> None:
    algorithm = build_algorithm(compose("algorithm=pretrain", *SMALL), easy)
    assert algorithm.classifier["weight"].shape[0] == len(easy.split.classes["train"])


@pytest.mark.parametrize("running_stats", [True, False])
def test_only_batch_statistics_make_it_transductive(running_stats: bool) -> None:
    backbone = Conv4((1, 16, 16), 8, "max_pool", "batch", running_stats, "flatten")
    algorithm, tasks = pretrain("linear", backbone=backbone).eval(), random_tasks(1, 16, 16)
    adapted = algorithm.adapt(tasks.support)
    whole, part = (algorithm.predict(adapted, x) for x in (tasks.query.x, tasks.query.x[:, :2]))
    assert algorithm.transductive is not running_stats
    assert torch.allclose(whole[:, :2], part, atol=1e-6) is running_stats
