"""P>M>F and transductive fine-tuning, by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.algorithms.finetune import RATES, FineTune
from metalearn.algorithms.nearest_centroid import NearestCentroid
from metalearn.backbones import Backbone, Conv4
from metalearn.backbones.from_torchvision import TorchvisionModel
from metalearn.backbones.pretrained import Asked
from metalearn.data.base import TaskSource
from metalearn.engine.evaluate import evaluate
from metalearn.errors import UserError
from metalearn.nn.random_changes import changed_at_random
from metalearn.tasks import Examples, TaskBatch, TaskShape
from metalearn.testing import check_algorithm
from tests.algorithms.test_nearest_centroid import Wide

WAYS, SHOTS, QUERIES = 3, 2, 4


def conv4(filters: int = 4) -> Conv4:
    torch.manual_seed(0)
    return Conv4((1, 16, 16), filters, "max_pool", "batch", True, "flatten")


def pretrained(name: str, train: str, lora_rank: int = 0) -> TorchvisionModel:
    """With random weights."""
    return TorchvisionModel((1, 16, 16), Asked(name, "none", None, 32, train, lora_rank, "nothing"))


def learner(backbone: Backbone | None = None, **settings: Any) -> FineTune:
    defaults = {"scale": 10.0, "learn_scale": True, "steps": 2, "lr": 0.01, "prototypes": "recomputed", "augment": 0.9}
    return FineTune(backbone or conv4(), **{**defaults, "entropy": 0.0, **settings}).eval()


def tasks(count: int = 2) -> TaskBatch:
    torch.manual_seed(1)
    support, query = (
        Examples(
            torch.rand(count, WAYS * each, 1, 16, 16),
            torch.arange(WAYS).repeat_interleave(each).expand(count, -1),
            WAYS,
        )
        for each in (SHOTS, QUERIES)
    )
    return TaskBatch(support, query, torch.arange(WAYS).expand(count, -1))


def doubled(given: TaskBatch) -> TaskBatch:
    """In double precision: features of a network that learned nothing are much alike, so that in single precision little is left of them."""
    support, query = (part._replace(x=part.x.double()) for part in (given.support, given.query))
    return given._replace(support=support, query=query)


def cosines(features: Tensor, points: Tensor) -> Tensor:
    return 10 * F.normalize(features, dim=-1) @ F.normalize(points, dim=-1).T


def by_hand(
    backbone: nn.Module, support: Tensor, y: Tensor, queries: Tensor, steps: int, augment: float, entropy: float = 0.0
) -> Tensor:
    """The authors' loop for one task, with torch's own optimiser on a copy of the whole network."""
    network = copy.deepcopy(backbone).eval()
    optimizer = torch.optim.Adam([weight for weight in network.parameters() if weight.requires_grad], lr=0.01)

    def prototypes() -> Tensor:
        return network(support).view(WAYS, SHOTS, -1).mean(1)

    for step in range(steps):
        optimizer.zero_grad()
        changed = changed_at_random(support, step, augment, 0.225 if isinstance(backbone, WholeBody) else 1.0)
        loss = F.cross_entropy(cosines(network(changed), prototypes()), y)
        if entropy:
            p = cosines(network(queries), prototypes()).softmax(-1)
            loss = loss + entropy * torch.distributions.Categorical(p).entropy().mean()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return cosines(network(queries), prototypes())


@pytest.mark.parametrize(("steps", "augment", "entropy"), [(1, 0.0, 0.0), (3, 1.0, 0.0), (2, 0.0, 0.5)])
def test_fine_tuning_is_the_authors_loop(steps: int, augment: float, entropy: float) -> None:
    algorithm, given = learner(steps=steps, augment=augment, entropy=entropy).double(), doubled(tasks())
    with torch.no_grad():
        logits = algorithm.predict(algorithm.adapt(given.support), given.query.x)
    for task in range(2):
        support, query = given.support, given.query
        expected = by_hand(algorithm.backbone, support.x[task], support.y[task], query.x[task], steps, augment, entropy)
        torch.testing.assert_close(logits[task], expected, atol=1e-7, rtol=1e-7)
    untouched = learner(lr=0.0).double()
    assert not torch.allclose(logits, untouched.predict(untouched.adapt(given.support), given.query.x), atol=1e-4)


def partly_fixed(augment: float, entropy: float = 0.0, **settings: Any) -> FineTune:
    """With fixed layers in front of those that are fine-tuned, in double precision."""
    torch.manual_seed(0)
    backbone = pretrained("shufflenet_v2_x0_5", "last_block")
    for module in backbone.modules():  # features of a network at its start are all but equal
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.rand(module.num_features) - 0.5
            module.running_var = torch.rand(module.num_features) / 20
    return learner(backbone, augment=augment, entropy=entropy, **settings).double()


@pytest.mark.thorough
@pytest.mark.parametrize(("steps", "augment", "entropy"), [(3, 1.0, 0.0), (3, 0.5, 0.0), (2, 0.0, 0.5)])
def test_layers_that_are_fixed_change_no_number(steps: int, augment: float, entropy: float) -> None:
    algorithm, given = partly_fixed(augment, entropy, steps=steps), doubled(tasks())
    assert algorithm.backbone.in_two_parts() is not None
    support, query = given.support, given.query
    with torch.no_grad():
        logits = algorithm.predict(algorithm.adapt(support), query.x)
        states = list(algorithm.predict_each(algorithm.adapt_stepwise(support), query.x))
    for task in range(2):
        expected = by_hand(
            WholeBody(algorithm.backbone), support.x[task], support.y[task], query.x[task], steps, augment, entropy
        )
        torch.testing.assert_close(logits[task], expected, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(states[-1], logits, atol=1e-9, rtol=1e-9)
    untouched = algorithm.predict(algorithm._untouched(support), query.x)
    assert not torch.allclose(logits, untouched, atol=1e-4)


class WholeBody(nn.Module):
    """All layers of a pre-trained network, one after the other, whatever training changes."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        assert isinstance(backbone, TorchvisionModel)
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.backbone.body(self.backbone.taken(x))
        return features


@pytest.mark.parametrize(("augment", "images"), [(1.0, 6 + 3 * 6 + 12), (0.0, 6 + 12)])
def test_an_image_passes_the_fixed_layers_once_whatever_is_scored(augment: float, images: int) -> None:
    algorithm, given = partly_fixed(augment, steps=3), doubled(tasks(1))
    passed = []
    assert isinstance(algorithm.backbone, TorchvisionModel)
    taken = algorithm.backbone.taken
    algorithm.backbone.taken = lambda x: (passed.append(len(x)), taken(x))[1]  # type: ignore[method-assign, func-returns-value]
    with torch.no_grad():
        list(algorithm.predict_each(algorithm.adapt_stepwise(given.support), given.query.x))
    assert sum(passed) == images


@pytest.mark.parametrize("entropy", [0.0, 0.5])
def test_unchanged_images_can_be_taken_as_the_fixed_layers_pass_them_on(entropy: float) -> None:
    algorithm, given = partly_fixed(0.0, entropy, steps=3), doubled(tasks())
    parts = algorithm.in_two_steps()
    assert parts is not None
    assert algorithm.heavy
    support, query = (
        part._replace(x=torch.stack([parts.embed(x) for x in part.x])) for part in (given.support, given.query)
    )
    assert support.x.shape[2:] == (parts.dim,)
    with torch.no_grad():
        apart = parts.learner.predict(parts.learner.adapt(support), query.x)
        whole = algorithm.predict(algorithm.adapt(given.support), given.query.x)
    torch.testing.assert_close(apart, whole, atol=1e-9, rtol=1e-9)
    assert partly_fixed(0.9).in_two_steps() is None


@pytest.mark.thorough
@pytest.mark.parametrize("entropy", [0.0, 0.5])
def test_all_rates_at_once_are_those_one_by_one(entropy: float) -> None:
    algorithm, given = partly_fixed(0.9, entropy, steps=2, lr="auto"), doubled(tasks(1))
    with torch.no_grad():
        for number, adapted in enumerate(algorithm._at_each_rate(given)):
            algorithm.chosen.fill_(number)
            expected = algorithm.predict(algorithm.adapt(given.support), given.query.x)
            torch.testing.assert_close(algorithm.predict(adapted, given.query.x), expected, atol=1e-9, rtol=1e-9)
    assert number == len(RATES) - 1


def test_learned_prototypes_are_fine_tuned_too() -> None:
    """One step of transductive fine-tuning on given features: Adam's first step is the sign of the gradient times its size."""
    support = Examples(torch.randn(1, 6, 7), torch.arange(3).repeat_interleave(2)[None], 3)
    queries = torch.randn(1, 5, 7)
    algorithm = learner(Wide(), prototypes="learned", steps=1, augment=0.0, entropy=1.0)
    logits = algorithm.predict(algorithm.adapt(support), queries)
    weights = F.normalize(support.x[0].view(3, 2, 7).mean(1), dim=-1).requires_grad_()
    log_p = cosines(queries[0], weights).log_softmax(-1)
    loss = F.cross_entropy(cosines(support.x[0], weights), support.y[0]) - (log_p.exp() * log_p).sum(-1).mean()
    (gradient,) = torch.autograd.grad(loss, weights)
    torch.testing.assert_close(logits[0], cosines(queries[0], weights - 0.01 * gradient.sign()), atol=1e-4, rtol=1e-4)


def test_without_a_step_it_is_prototypes_with_cosines() -> None:
    given = tasks()
    nearest = NearestCentroid(conv4(), "none", "cosine", 10.0, learn_scale=True).eval()
    expected = nearest.predict(nearest.adapt(given.support), given.query.x)
    for lr in (0.0, "auto"):
        algorithm = learner(lr=lr)
        torch.testing.assert_close(algorithm.predict(algorithm.adapt(given.support), given.query.x), expected)
    torch.testing.assert_close(learner().train().meta_loss(given).loss, nearest.train().meta_loss(given).loss)


def test_tasks_do_not_touch_each_other_or_the_network() -> None:
    algorithm, given = learner(), tasks(3)
    before = {name: tensor.clone() for name, tensor in algorithm.state_dict().items()}
    with torch.no_grad():
        together = algorithm.predict(algorithm.adapt(given.support), given.query.x)
        alone = [algorithm.predict(algorithm.adapt(one.support), one.query.x) for one in given.chunks(1)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in algorithm.state_dict().items())


def test_steps_can_be_watched() -> None:
    algorithm, given = learner(steps=3), tasks()
    with torch.no_grad():
        states = [algorithm.predict(state, given.query.x) for state in algorithm.adapt_stepwise(given.support)]
        last = algorithm.predict(algorithm.adapt(given.support), given.query.x)
        first = learner(lr=0.0).predict(learner(lr=0.0).adapt(given.support), given.query.x)
    assert len(states) == 4
    torch.testing.assert_close(states[0], first, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(states[-1], last)
    assert not torch.equal(states[1], states[2])


@pytest.mark.parametrize(
    "settings",
    [
        ("algorithm.lr=0.01", "algorithm.steps=2"),
        ("algorithm.lr=0.01", "algorithm.steps=2", "algorithm.prototypes=learned"),
        ("algorithm.lr=0.01", "algorithm.steps=2", "algorithm.entropy=0.5"),
    ],
    ids=["recomputed", "learned", "entropy"],
)
def test_keeps_the_contract_while_it_fine_tunes(settings: tuple[str, ...]) -> None:
    check_algorithm("finetune", "backbone.filters=4", *settings)


@pytest.mark.parametrize(("train", "lora_rank"), [("last_block", 0), ("all", 0), ("none", 2), ("none", 0)])
def test_pre_trained_networks_change_only_where_they_may(train: str, lora_rank: int) -> None:
    torch.manual_seed(0)
    backbone = pretrained("resnet18", train, lora_rank)
    algorithm, given = learner(backbone, steps=1, prototypes="learned"), tasks(1)
    with torch.no_grad():
        adapted = algorithm.adapt(given.support)
        logits = algorithm.predict(adapted, given.query.x)
        alone = algorithm.deployed(adapted)(given.query.x[0])
    torch.testing.assert_close(logits[0], alone, atol=1e-4, rtol=1e-4)
    trained = {name for name, weight in backbone.named_parameters() if weight.requires_grad}
    assert set(adapted.parameters) == trained
    assert (train, lora_rank) == ("none", 0) or trained
    own = dict(backbone.named_parameters())
    moved = {name for name in trained if not torch.equal(adapted.parameters[name][0], own[name])}
    assert moved if trained else not adapted.parameters


def test_a_frozen_backbone_needs_learned_prototypes() -> None:
    backbone = pretrained("resnet18", "none")
    with pytest.raises(
        UserError, match=r"backbone.train=none leaves nothing to fine-tune: .*algorithm.prototypes=learned"
    ):
        learner(backbone)
    assert learner(backbone, prototypes="learned").in_two_steps() is None  # changed images have other features
    assert learner(backbone, prototypes="learned", augment=0.0).in_two_steps() is not None


def test_entropy_is_transductive_and_says_so() -> None:
    algorithm = learner(entropy=1.0)
    assert algorithm.transductive
    with pytest.raises(UserError, match=r"eval.transductive=false: algorithm.entropy=1.0"):
        algorithm.set_transductive(False)
    assert not learner().transductive


class Misled(Backbone):
    """One weight; the true classes are told apart by the second number, which it lets through the more the smaller the weight is."""

    feature_dim = 2
    uses_batch_statistics = False

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) * torch.stack([self.weight, torch.ones_like(self.weight)])


@pytest.mark.thorough
def test_auto_takes_the_smallest_of_the_best_rates_and_keeps_it_in_the_checkpoint() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 16, 2, generator=generator) * torch.tensor([1.5, 0.3])
    y = torch.tensor([0, 1]).repeat_interleave(8).expand(5, -1)
    x[..., 1] += 2.0 * y - 1
    support = Examples(x[:, ::2], y[:, ::2], 2)
    given = TaskBatch(support, Examples(x[:, 1::2], y[:, 1::2], 2), torch.arange(2).expand(5, -1))
    algorithm = learner(Misled(), lr="auto", steps=60, augment=0.0)
    assert algorithm.rate == 0
    with torch.no_grad():
        said = algorithm.tune(given)
        scores = []
        for rate in RATES:
            fixed = learner(Misled(), lr=rate, steps=60, augment=0.0)
            outputs = fixed.predict(fixed.adapt(given.support), given.query.x)
            scores.append(round(float((outputs.argmax(-1) == given.query.y).float().mean()), 5))
    assert scores[-1] > scores[0]
    assert said == f"algorithm.lr={algorithm.rate:g}"
    assert algorithm.rate == RATES[scores.index(max(scores))]
    other = learner(Misled(), lr="auto", steps=60, augment=0.0)
    other.load_state_dict(algorithm.state_dict())
    assert other.rate == algorithm.rate


@pytest.mark.thorough
def test_fine_tuning_helps_a_network_that_learned_nothing(source: Callable[..., TaskSource]) -> None:
    shape, scores = TaskShape(5, 5, 5), []
    for lr in (0.0, 0.01):
        algorithm = learner(conv4(8), lr=lr, steps=30, augment=0.0)
        scores.append(evaluate(algorithm, source("test"), shape, 20, 4, stepwise=False).mean)
    assert scores[1] > scores[0] + 0.02
