"""Relation Networks by loops over pairs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metalearn.algorithms.relation import RelationModule, RelationNet
from metalearn.backbones import MLP, Backbone, Conv4
from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_algorithm
from metalearn.errors import UserError
from metalearn.tasks import Examples, TaskBatch
from tests.compose import compose

SHAPE = (3, 5, 4)  # of feature maps: C, h, w


class Maps(Backbone):
    """Examples that are feature maps already."""

    uses_batch_statistics = False
    feature_dim = 60
    map_shape = SHAPE

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def relation(shots: str = "sum", loss: str = "squared_error") -> RelationNet:
    torch.manual_seed(0)
    return RelationNet(Maps(), 4, 6, shots, loss).double()


def map_tasks(shots: int, ways: int = 3, tasks: int = 2) -> TaskBatch:
    generator = torch.Generator().manual_seed(1)

    def examples(each: int) -> Examples:
        x = torch.randn(tasks, ways * each, *SHAPE, generator=generator, dtype=torch.float64)
        return Examples(x, torch.arange(ways).repeat_interleave(each).expand(tasks, -1), ways)

    return TaskBatch(examples(shots), examples(2), torch.zeros(tasks, ways, dtype=torch.int64))


def plain_scores(module: RelationModule, class_maps: list[Tensor], queries: Tensor) -> Tensor:
    """Eq. 1 for each query and class: g of the two maps concatenated in depth, [n, N]. In training, all pairs form one batch."""
    pairs = torch.stack([torch.cat([class_map, query]) for query in queries for class_map in class_maps])
    return module.rest(module.first(pairs)).sigmoid().view(len(queries), len(class_maps))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shots", [1, 3])
def test_relation_scores_are_those_of_the_concatenated_maps(shots: int, training: bool) -> None:
    tasks, algorithm = map_tasks(shots), relation()
    algorithm.meta_loss(tasks)  # so that running statistics are no longer those they start with
    algorithm.train(training)
    scores = algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x).sigmoid()
    for i in range(2):
        x, y = tasks.support.x[i], tasks.support.y[i]
        class_maps = []
        for label in range(3):
            of_class = [x[j] for j in range(len(y)) if int(y[j]) == label]
            class_maps.append(sum(of_class[1:], of_class[0]))  # "element-wise sum over the embedding module outputs"
        torch.testing.assert_close(scores[i], plain_scores(algorithm.relation, class_maps, tasks.query.x[i]))


def test_the_loss_is_the_squared_error_of_the_scores() -> None:
    tasks, algorithm = map_tasks(1), relation()
    outcome = algorithm.meta_loss(tasks)
    for i in range(2):
        scores = plain_scores(algorithm.relation, list(tasks.support.x[i]), tasks.query.x[i]).detach()
        errors = [
            (float(scores[j, label]) - float(label == int(tasks.query.y[i, j]))) ** 2
            for j in range(6)
            for label in range(3)
        ]
        assert float(outcome.loss[i].detach()) == pytest.approx(sum(errors) / len(errors), abs=1e-12)  # eq. 2
        right = scores.argmax(-1) == tasks.query.y[i]
        assert float(outcome.metrics["accuracy"][i]) == pytest.approx(float(right.double().mean()))


def test_the_other_loss_is_the_cross_entropy_of_the_log_odds() -> None:
    tasks, algorithm = map_tasks(1), relation(loss="cross_entropy")
    outcome = algorithm.meta_loss(tasks)
    squared = relation().meta_loss(tasks)
    for i in range(2):
        odds = plain_scores(algorithm.relation, list(tasks.support.x[i]), tasks.query.x[i]).logit()
        torch.testing.assert_close(outcome.loss[i], F.cross_entropy(odds, tasks.query.y[i]))
    assert torch.equal(outcome.metrics["accuracy"], squared.metrics["accuracy"])
    assert not torch.allclose(outcome.loss, squared.loss)


def test_a_stored_configuration_without_a_loss_has_the_papers(easy: ImageClasses) -> None:
    config = compose("algorithm=relation", "backbone.filters=8")
    del config["algorithm"]["loss"]
    built = build_algorithm(config, easy)
    assert isinstance(built, RelationNet)
    assert built.loss == "squared_error"


def test_the_mean_over_shots_does_not_depend_on_their_number() -> None:
    tasks, algorithm = map_tasks(1), relation("mean").eval()
    once = tasks.support
    twice = Examples(once.x.repeat_interleave(2, dim=1), once.y.repeat_interleave(2, dim=1), 3)
    torch.testing.assert_close(
        algorithm.predict(algorithm.adapt(once), tasks.query.x),
        algorithm.predict(algorithm.adapt(twice), tasks.query.x),
    )


def test_labels_and_not_positions_decide() -> None:
    algorithm, tasks = relation().eval(), map_tasks(2)
    support, order = tasks.support, torch.tensor([5, 2, 0, 4, 1, 3])
    torch.testing.assert_close(
        algorithm.adapt(support), algorithm.adapt(Examples(support.x[:, order], support.y[:, order], 3))
    )


def conv_relation(running_stats: bool = True) -> RelationNet:
    torch.manual_seed(0)
    return RelationNet(
        Conv4((1, 16, 16), 8, "max_pool_first_two", "batch", running_stats, "flatten"), 8, 8, "sum", "squared_error"
    )


def image_tasks() -> TaskBatch:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat_interleave(2).expand(4, -1)
    support, query = (Examples(torch.rand(4, 6, 1, 16, 16, generator=generator), y, 3) for _ in range(2))
    return TaskBatch(support, query, torch.zeros(4, 3, dtype=torch.int64))


def test_training_embeds_support_and_query_together_task_by_task() -> None:
    tasks, algorithm = image_tasks(), conv_relation()
    losses = algorithm.meta_loss(tasks).loss
    for i in range(4):
        maps = algorithm.backbone(torch.cat([tasks.support.x[i], tasks.query.x[i]])).view(12, 8, 4, 4)
        class_maps = [maps[0] + maps[1], maps[2] + maps[3], maps[4] + maps[5]]
        scores = plain_scores(algorithm.relation, class_maps, maps[6:])
        expected = F.mse_loss(scores, F.one_hot(tasks.query.y[i]).float())
        torch.testing.assert_close(losses[i], expected, atol=1e-6, rtol=1e-4)


def test_the_relation_module_keeps_running_statistics_where_the_backbone_does() -> None:
    tasks = image_tasks()
    for running_stats in (True, False):
        algorithm = conv_relation(running_stats)
        algorithm.meta_loss(tasks)
        algorithm.eval()
        # With the classes held fast, what one query gets depends on the others through the relation module's norms alone.
        classes, queries = algorithm.adapt(tasks.support)[0], torch.rand(6, 8, 4, 4)
        one, all_ = algorithm.relation(classes, queries[:2]), algorithm.relation(classes, queries)
        assert torch.allclose(one, all_[:2], atol=1e-5) is running_stats
        assert algorithm.transductive is not running_stats


def test_with_batch_statistics_tasks_still_do_not_meet() -> None:
    tasks, algorithm = image_tasks(), conv_relation(running_stats=False).eval()
    together = algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x)
    for i, alone in enumerate(tasks.chunks(1)):
        torch.testing.assert_close(
            together[i : i + 1], algorithm.predict(algorithm.adapt(alone.support), alone.query.x), atol=1e-5, rtol=1e-4
        )


def test_a_backbone_without_maps_is_refused() -> None:
    for backbone in (MLP((1, 16, 16), [8], "none", True), Conv4((1, 64, 64), 8, "max_pool", "batch", True, "mean")):
        with pytest.raises(UserError, match=r"compares feature maps.*backbone=conv4_relation"):
            RelationNet(backbone, 8, 8, "sum", "squared_error")


def test_too_small_maps_are_refused() -> None:
    with pytest.raises(UserError, match=r"are 3x3 \(at least 4x4"):
        RelationNet(Conv4((1, 63, 63), 8, "max_pool", "batch", True, "flatten"), 8, 8, "sum", "squared_error")


def test_the_algorithm_brings_its_backbone_and_the_user_may_choose_another(easy: ImageClasses) -> None:
    assert compose("algorithm=relation")["names"]["backbone"] == "conv4_relation"
    assert compose("algorithm=protonet")["names"]["backbone"] == "conv4"
    config = compose("algorithm=relation", "backbone=conv4")
    assert config["names"]["backbone"] == "conv4"
    with pytest.raises(UserError, match="backbone's are 1x1"):
        build_algorithm(config, easy)
