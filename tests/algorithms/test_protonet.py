"""Prototypical Networks by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metalearn.algorithms.protonet import ProtoNet
from metalearn.backbones import Backbone, Conv4
from metalearn.errors import UserError
from metalearn.tasks import Examples, TaskBatch


class Flat(Backbone):
    """Embeds an example as itself."""

    feature_dim = 2
    uses_batch_statistics = False

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def protonet(scale: float | str = 1.0, learn_scale: bool = False, backbone: Backbone | None = None) -> ProtoNet:
    return ProtoNet(backbone or Flat(), scale, learn_scale)


def test_prototypes_and_distances_by_hand() -> None:
    algorithm = protonet().eval()
    support = Examples(
        torch.tensor([[[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [0.0, 6.0]]]), torch.tensor([[0, 0, 1, 1]]), 2
    )
    prototypes = algorithm.adapt(support)
    assert prototypes.tolist() == [[[1.0, 0.0], [0.0, 5.0]]]
    query = torch.tensor([[[1.0, 1.0], [0.0, 3.0]]])
    logits = algorithm.predict(prototypes, query)
    # Squared distances: query 0 to (1,0) is 1, to (0,5) is 1 + 16; query 1 to (1,0) is 1 + 9, to (0,5) is 4.
    expected = F.log_softmax(torch.tensor([[[-1.0, -17.0], [-10.0, -4.0]]]), dim=-1)
    torch.testing.assert_close(F.log_softmax(logits, dim=-1), expected)


def test_labels_and_not_positions_decide() -> None:
    algorithm = protonet().eval()
    x, y = torch.rand(2, 6, 5), torch.tensor([[0, 0, 1, 1, 2, 2], [2, 1, 0, 2, 1, 0]])
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    torch.testing.assert_close(
        algorithm.adapt(Examples(x, y, 3)), algorithm.adapt(Examples(x[:, order], y[:, order], 3))
    )


def conv_protonet(running_stats: bool) -> ProtoNet:
    torch.manual_seed(0)
    return protonet(backbone=Conv4((1, 16, 16), 8, "max_pool", "batch", running_stats, "flatten"))


def random_tasks() -> TaskBatch:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat_interleave(2).expand(4, -1)
    support, query = (Examples(torch.rand(4, 6, 1, 16, 16, generator=generator), y, 3) for _ in range(2))
    return TaskBatch(support, query, torch.zeros(4, 3, dtype=torch.int64))


def test_training_normalises_support_and_query_together_task_by_task() -> None:
    tasks, algorithm = random_tasks(), conv_protonet(True)
    losses = algorithm.meta_loss(tasks).loss
    for task in range(4):
        embedded = algorithm.backbone(torch.cat([tasks.support.x[task], tasks.query.x[task]]))
        prototypes = embedded[:6].view(3, 2, -1).mean(1)
        expected = F.cross_entropy(-torch.cdist(embedded[6:], prototypes).square(), tasks.query.y[task])
        torch.testing.assert_close(losses[task], expected, atol=1e-5, rtol=1e-4)


def test_running_statistics_make_it_inductive_and_batch_statistics_transductive() -> None:
    tasks = random_tasks()
    for running_stats in (True, False):
        algorithm = conv_protonet(running_stats).eval()
        adapted = algorithm.adapt(tasks.support)
        one, all_ = algorithm.predict(adapted, tasks.query.x[:, :2]), algorithm.predict(adapted, tasks.query.x)
        assert algorithm.transductive is not running_stats
        assert torch.allclose(one, all_[:, :2], atol=1e-4) is running_stats


def test_what_it_is_not_cannot_be_asked_for() -> None:
    with pytest.raises(UserError, match=r"eval\.transductive=true"):
        conv_protonet(True).set_transductive(True)
    with pytest.raises(UserError, match=r"eval\.transductive=false"):
        conv_protonet(False).set_transductive(False)


def squared_distances(queries: Tensor, points: Tensor) -> Tensor:
    """[n, D], [m, D] -> [n, m]"""
    return torch.stack([((points - query) ** 2).sum(-1) for query in queries])


@pytest.mark.parametrize("scale", [0.25, 1.0, 3.0])
def test_the_softmax_is_over_squared_distances_times_the_scale(scale: float) -> None:
    prototypes, query = torch.rand(1, 3, 2), torch.rand(1, 4, 2)
    logits = protonet(scale).eval().predict(prototypes, query)
    expected = (-scale * squared_distances(query[0], prototypes[0])).softmax(-1)
    torch.testing.assert_close(logits[0].softmax(-1), expected)


def test_the_automatic_scale_makes_a_mean_over_features_of_the_sum() -> None:
    prototypes, query = torch.rand(1, 3, 2), torch.rand(1, 4, 2)
    expected = (-4 * ((query[0].unsqueeze(1) - prototypes[0]) ** 2).mean(-1)).softmax(-1)
    torch.testing.assert_close(protonet("auto").eval().predict(prototypes, query)[0].softmax(-1), expected)


def test_a_learned_scale_is_learned_by_its_logarithm_from_where_it_starts() -> None:
    algorithm = protonet(0.5, learn_scale=True).double()
    prototypes, query, y = torch.rand(1, 3, 2).double(), torch.rand(1, 4, 2).double(), torch.tensor([0, 1, 2, 0])
    loss = F.cross_entropy(algorithm.predict(prototypes, query)[0], y)
    loss.backward()  # type: ignore[no-untyped-call]

    def loss_at(log: float) -> Tensor:
        return F.cross_entropy(-math.exp(log) * squared_distances(query[0], prototypes[0]), y)

    start, step = math.log(0.5), 1e-5
    torch.testing.assert_close(loss, loss_at(start))
    slope = (loss_at(start + step) - loss_at(start - step)) / (2 * step)
    assert algorithm.scale.log is not None
    torch.testing.assert_close(algorithm.scale.log.grad, slope, atol=1e-8, rtol=1e-6)
    assert abs(float(slope)) > 1e-3


def test_a_fixed_scale_is_no_part_of_the_state_so_that_earlier_checkpoints_fit() -> None:
    assert all(name.startswith("backbone.") for name in conv_protonet(True).state_dict())
    learned = protonet(learn_scale=True).state_dict()
    assert list(learned) == ["scale.log"]
