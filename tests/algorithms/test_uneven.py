"""Tasks of uneven size, for each YAML in conf/algorithm: learned task by task or padded together, to the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metalearn.algorithms.base import Algorithm
from metalearn.algorithms.protonet import ProtoNet
from metalearn.algorithms.reptile import Reptile
from metalearn.data.base import TaskSource
from metalearn.data.container import FlatImages
from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_algorithm
from metalearn.engine.classes import ClassCounts
from metalearn.engine.evaluate import Scores, evaluate
from metalearn.engine.gradient import meta_gradient
from metalearn.errors import UserError
from metalearn.tasks import Examples, TaskBatch, VaryingShape, shape_of
from tests.algorithms.test_contract import LEARN_TO_LEARN_SLOWLY, fewer
from tests.compose import compose
from tests.conftest import easy_classes
from tests.each import learners_of_classes

SHAPE = VaryingShape("varying", "varying", "varying", 2, 5, 4, 12, 3, 2.0)
SMALL = (
    *(
        "task=varying",
        "task.min_ways=2",
        "task.max_ways=5",
        "task.max_shots=4",
        "task.max_support=12",
        "task.max_queries=3",
    ),
    "backbone.filters=8",
)
every = pytest.mark.parametrize("name", learners_of_classes())


@pytest.fixture(scope="module")
def dataset() -> ImageClasses:
    """Classes of 4 to 20 images."""
    whole = easy_classes(classes=40, size=16)
    counts = np.random.default_rng(1).integers(4, 21, size=40)
    images = FlatImages.of_classes([whole.images.of_class(c)[:count] for c, count in enumerate(counts)])
    return ImageClasses("easy", images, whole.class_names, whole.split, whole.rotations)


def source(dataset: ImageClasses, split: str = "train") -> TaskSource:
    return dataset.source(split, 0, torch.device("cpu"))


def make(name: str, dataset: ImageClasses, *overrides: str) -> Algorithm:
    return build_algorithm(compose(f"algorithm={name}", *SMALL, *overrides), dataset)


def double(tasks: TaskBatch) -> TaskBatch:
    support, query = (part._replace(x=part.x.double()) for part in (tasks.support, tasks.query))
    return tasks._replace(support=support, query=query)


@pytest.mark.thorough
@every
def test_a_task_alone_has_the_score_that_it_has_among_others(name: str, dataset: ImageClasses) -> None:
    algorithm = make(name, dataset)
    with torch.no_grad():  # statistics that are not those of an untrained network
        for _ in range(2):
            algorithm.train().meta_loss(source(dataset).tasks(0, 1, SHAPE))
    together, alone = (evaluate(algorithm, source(dataset, "test"), SHAPE, 7, size, stepwise=True) for size in (7, 1))
    assert len(set(together.about["ways"])) > 1, "the test needs tasks of several sizes"
    torch.testing.assert_close(together.loss, alone.loss, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.score, alone.score)
    assert torch.equal(together.classes, alone.classes) if together.classes is not None else False
    assert together.about == alone.about


@every
def test_chunks_do_not_change_the_gradient(name: str, dataset: ImageClasses) -> None:
    gradients, losses = [], []
    for size in (1, 4):
        algorithm = make(name, dataset).double().train()
        if not algorithm.trains:
            return
        sums = meta_gradient(algorithm, double(source(dataset).tasks(3, 4, SHAPE)), size, "fp32")
        losses.append(sums["loss"])
        gradients.append([parameter.grad for parameter in algorithm.parameters()])
    torch.testing.assert_close(*losses, atol=1e-9, rtol=1e-8)
    for parameter, one, other in zip(dict(algorithm.named_parameters()), *gradients, strict=True):
        assert one is not None, f"{parameter} has no gradient"
        assert bool(one.isfinite().all()), f"{parameter} has a gradient that is not finite"
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-8)


@every
def test_what_stands_in_the_padding_is_never_looked_at(name: str, dataset: ImageClasses) -> None:
    algorithm = make(name, dataset)
    tasks = source(dataset).tasks(0, 4, SHAPE)
    assert all(part.support.mask is None and part.query.mask is None for part in tasks.chunks(1))

    def spoiled(part: Examples) -> Examples:
        assert part.mask is not None
        return part._replace(x=part.x.masked_fill(~part.mask[:, :, None, None, None], torch.nan))

    dirty = tasks._replace(support=spoiled(tasks.support), query=spoiled(tasks.query))
    if algorithm.train().masks and algorithm.trains:
        state = {key: value.clone() for key, value in algorithm.state_dict().items()}
        outcomes = []
        for batch in (tasks, dirty):
            algorithm.load_state_dict(state)
            algorithm.zero_grad()
            loss = algorithm.meta_loss(batch).loss
            loss.sum().backward()
            outcomes.append([loss, *(parameter.grad for parameter in algorithm.parameters())])
        for one, other in zip(*outcomes, strict=True):
            torch.testing.assert_close(one, other)
    if algorithm.eval().masks:  # the queries' padding does pass, each example by itself, and its outputs are cut away
        losses = []
        for batch in (tasks, dirty):
            with torch.no_grad():
                outputs = algorithm.predict(algorithm.adapt(batch.support), batch.query.x)
            losses.append(batch.query.by_task(algorithm.kind.loss, outputs))
        torch.testing.assert_close(*losses)


@every
def test_it_beats_chance_after_a_few_steps(name: str, dataset: ImageClasses) -> None:
    if name in LEARN_TO_LEARN_SLOWLY:
        pytest.skip("needs hundreds of steps")
    quicker = [override for override in fewer(name) if "fit_passes" not in override]  # so few passes fit no head
    algorithm = make(name, dataset, *quicker).train()
    optimizer = torch.optim.Adam(algorithm.parameters(), lr=3e-3)
    for steps in (range(5), range(5, 14)):  # most need no more than the first
        for step in steps if algorithm.trains else ():
            optimizer.zero_grad(set_to_none=True)
            meta_gradient(algorithm, source(dataset).tasks(3 * step, 3, SHAPE), 3, "fp32")
            optimizer.step()
        scores = evaluate(algorithm, source(dataset, "test"), SHAPE, 30, 8, stepwise=False)
        assert scores.chance is not None
        if beaten := scores.mean - scores.ci95 > scores.chance:
            break
    assert beaten


def test_an_algorithm_that_cannot_is_refused_in_one_line(
    dataset: ImageClasses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProtoNet, "uneven", False)
    with pytest.raises(
        UserError,
        match=r"^algorithm=protonet cannot learn tasks of uneven size \(task.train.ways=varying\); those that can: .*maml",
    ):
        make("protonet", dataset)
    config = compose("algorithm=protonet", *SMALL, *(f"task.train.{size}=2" for size in ("ways", "shots", "queries")))
    with pytest.raises(UserError, match=r"\(task.ways=varying\)"):
        build_algorithm(config, dataset)


def test_batch_statistics_are_those_of_single_tasks(dataset: ImageClasses) -> None:
    """A network that normalises with the examples at hand must not see padding: such tasks come one by one."""
    algorithm = make("protonet", dataset, "backbone.running_stats=false")
    assert not algorithm.masks
    together, alone = (evaluate(algorithm, source(dataset, "test"), SHAPE, 5, size, stepwise=False) for size in (5, 1))
    torch.testing.assert_close(together.loss, alone.loss)


def test_a_head_of_other_ways_moves_by_the_mean_of_its_rows(dataset: ImageClasses) -> None:
    """Reptile's outer step ends where the mean row of a task's head ends, whatever the task's ways."""
    algorithm = make("reptile", dataset, "algorithm.inner_optimizer=sgd", "algorithm.inner_lr=0.1")
    assert isinstance(algorithm, Reptile)
    tasks = next(one for one in source(dataset).tasks(0, 9, SHAPE).chunks(1) if one.support.ways < 5)
    adapted = algorithm.train().adapt(tasks.support).parameters
    head = algorithm.network.get_submodule("head").weight
    start = head.detach().clone()
    algorithm.meta_loss(tasks).loss.sum().backward()
    moved = start - head.grad
    torch.testing.assert_close(moved.mean(0), adapted["head.weight"][0].mean(0))


def test_answers_are_counted_by_the_real_queries(dataset: ImageClasses) -> None:
    tasks = source(dataset, "test")
    algorithm, counted = make("protonet", dataset), []
    for size in (6, 1):
        counts = ClassCounts(tasks.class_names)
        evaluate(algorithm, tasks, SHAPE, 6, size, stepwise=False, answers=counts.add)
        counted.append(counts.record())
    assert counted[0] == counted[1]
    queries = sum(len(one.query.y[0]) for one in tasks.tasks(0, 6, SHAPE).chunks(1))
    assert sum(entry["n"] for entry in counted[0].values()) == queries


def test_chance_is_that_of_the_tasks(dataset: ImageClasses) -> None:
    scores: Scores = evaluate(make("protonet", dataset), source(dataset, "test"), SHAPE, 9, 3, stepwise=False)
    assert scores.chance == pytest.approx(np.mean([1 / ways for ways in scores.about["ways"]]))
    assert shape_of(compose(*SMALL)["task"]) == SHAPE
