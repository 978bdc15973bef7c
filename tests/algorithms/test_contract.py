"""What every algorithm that learns classes owes, for each YAML in conf/algorithm: a new file is tested the moment it exists."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.data.base import TaskSource
from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_algorithm
from metalearn.engine.evaluate import evaluate
from metalearn.engine.gradient import meta_gradient
from metalearn.errors import UserError
from metalearn.tasks import Examples, TaskBatch, TaskShape
from metalearn.testing import check_algorithm
from tests.compose import SMALL, compose
from tests.each import learners_of_classes

pytestmark = pytest.mark.parametrize("name", learners_of_classes())

Source = Callable[..., TaskSource]

# Learners in which nothing but the outer steps can find out that an example belongs with its label, and a query with the examples that it is like.
LEARN_TO_LEARN_SLOWLY = {"caml", "mann", "snail"}


# How much it adapts in test tasks, where the rule is about one step as much as about a hundred.
FEWER = {"fit_passes": 5, "test_inner_steps": 3, "steps": 3}


@functools.cache  # half of the time of these tests would be spent in composing
def config_of(name: str, *overrides: str) -> dict[str, Any]:
    return compose(f"algorithm={name}", *SMALL, *overrides)


def make(name: str, dataset: ImageClasses, *overrides: str, as_shipped: bool = False) -> Algorithm:
    config = copy.deepcopy(config_of(name, *overrides))
    if not as_shipped:
        node = config["algorithm"]
        node |= {key: min(few, node[key]) for key, few in FEWER.items() if key in node}
    return build_algorithm(config, dataset)


def tasks_of(source: Source, count: int = 4) -> TaskBatch:
    return source("train").tasks(0, count, TaskShape(5, 1, 5))


def make_that_trains(name: str, dataset: ImageClasses, *overrides: str) -> Algorithm:
    """As `make`, of those whose `meta_loss` has a gradient."""
    algorithm = make(name, dataset, *overrides)
    if not algorithm.trains:
        pytest.skip("says that outer steps cannot change it")
    return algorithm


def state(algorithm: Algorithm) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in algorithm.state_dict().items()}


def fewer(name: str) -> list[str]:
    """The overrides of `FEWER`."""
    node = config_of(name)["algorithm"]
    return [f"algorithm.{key}={min(few, node[key])}" for key, few in FEWER.items() if key in node]


def test_keeps_what_ships_for_users_algorithms(name: str) -> None:
    check_algorithm(name, "backbone.filters=8", *fewer(name))


def test_keeps_it_on_images_in_colour(name: str) -> None:
    of_colour = ("dataset.channels=3", "dataset.normalize={mean:[.3,.3,.3],std:[.3,.3,.3]}")
    check_algorithm(name, "backbone.filters=8", *of_colour, *fewer(name))


def test_keeps_it_on_texts(name: str, texts_file: Path) -> None:
    if name == "relation":
        with pytest.raises(UserError, match=r"backbone=\w+ needs images; the examples of dataset=text are texts"):
            check_algorithm(name, "dataset=text", f"dataset.root={texts_file}")
        return
    small = ("backbone=ngrams", "backbone.buckets=64", "backbone.hidden=[16,8]")
    check_algorithm(name, "dataset=text", f"dataset.root={texts_file}", *small, *fewer(name))


def test_is_reproducible(name: str, easy: ImageClasses, source: Source) -> None:
    losses = []
    for _ in range(2):
        algorithm = make_that_trains(name, easy).train()
        meta_gradient(algorithm, tasks_of(source), 4, "fp32")
        torch.optim.SGD(algorithm.parameters(), lr=0.1).step()
        losses.append(algorithm.meta_loss(tasks_of(source)).loss.detach())
    assert torch.equal(losses[0], losses[1])


def test_seeds_differ(name: str, easy: ImageClasses) -> None:
    first, second = (list(make(name, easy, f"seed={seed}").parameters()) for seed in (0, 1))
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_global_generator_is_left_alone(name: str, easy: ImageClasses) -> None:
    before = torch.random.get_rng_state()
    make(name, easy)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_parameter_gets_a_finite_gradient(name: str, easy: ImageClasses, source: Source) -> None:
    algorithm = make_that_trains(name, easy).train()
    meta_gradient(algorithm, tasks_of(source), 4, "fp32")
    for parameter_name, parameter in algorithm.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
    assert any(
        bool(parameter.grad.abs().max() > 0) for parameter in algorithm.parameters() if parameter.grad is not None
    )


def test_what_repeats_does_the_same_in_every_outer_step(name: str, easy: ImageClasses, source: Source) -> None:
    algorithm, tasks = make_that_trains(name, easy).train(), tasks_of(source)
    if not algorithm.repeats:  # as an algorithm may always say; here, one that anneals must
        assert name not in ("anil", "fomaml", "maml", "matching", "metacurvature", "metasgd", "protonet")
        return
    before, gradients = state(algorithm), []
    for step in (0, 10**6):
        algorithm.load_state_dict(before)
        algorithm.zero_grad(set_to_none=True)
        algorithm.outer_step = step
        meta_gradient(algorithm, tasks, 4, "fp32")
        gradients.append([parameter.grad for parameter in algorithm.parameters()])
    for first, later in zip(*gradients, strict=True):
        assert first is not None
        assert later is not None
        assert torch.equal(first, later)


def test_meta_loss_is_per_task(name: str, easy: ImageClasses, source: Source) -> None:
    algorithm, tasks = make(name, easy).train(), tasks_of(source, 3)
    outcome = algorithm.meta_loss(tasks)
    assert outcome.loss.shape == (3,)
    assert all(values.shape == (3,) and not values.requires_grad for values in outcome.metrics.values())


@pytest.mark.parametrize("task_chunk", [1, 3])
def test_chunks_do_not_change_the_gradient(name: str, easy: ImageClasses, source: Source, task_chunk: int) -> None:
    gradients = []
    for size in (task_chunk, 4):
        algorithm = make_that_trains(name, easy).double().train()
        tasks = tasks_of(source)
        support, query = (Examples(part.x.double(), part.y, part.ways) for part in (tasks.support, tasks.query))
        meta_gradient(algorithm, TaskBatch(support, query, tasks.classes), size, "fp32")
        gradients.append([p.grad for p in algorithm.parameters()])
    for a, b in zip(*gradients, strict=True):
        # Not less: an Adam in the inner loop enlarges the rounding errors of gradients that are zero.
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-8)


def test_the_gradient_in_float32_is_that_in_float64_but_for_rounding(
    name: str, easy: ImageClasses, source: Source
) -> None:
    gradients = []
    for exact in (False, True):
        algorithm = make_that_trains(name, easy).train()
        tasks = tasks_of(source)
        if exact:
            algorithm = algorithm.double()
            support, query = (Examples(part.x.double(), part.y, part.ways) for part in (tasks.support, tasks.query))
            tasks = TaskBatch(support, query, tasks.classes)
        meta_gradient(algorithm, tasks, 4, "fp32")
        parts = [p.grad.double().flatten() for p in algorithm.parameters() if p.grad is not None]
        gradients.append(torch.cat(parts))
    rounded, right = gradients
    assert float((rounded - right).norm() / right.norm()) < 0.02


def test_adapt_and_predict_change_nothing(name: str, easy: ImageClasses, source: Source) -> None:
    algorithm, tasks = make(name, easy).eval(), tasks_of(source)
    before = state(algorithm)
    with torch.no_grad():
        first = algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x)
        second = algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x)
    assert torch.equal(first, second)
    assert first.shape == (4, 25, 5)
    after = algorithm.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_evaluation_changes_nothing_and_goes_back_to_training(name: str, easy: ImageClasses, source: Source) -> None:
    algorithm = make(name, easy).train()
    before = state(algorithm)
    scores = evaluate(algorithm, source("val"), TaskShape(5, 1, 5), 6, 4, stepwise=True)
    assert scores.score.shape[1] == scores.loss.numel() == 6
    assert algorithm.training
    assert all(torch.equal(before[key], tensor) for key, tensor in algorithm.state_dict().items())


def test_queries_influence_each_other_only_where_that_is_stated(name: str, easy: ImageClasses, source: Source) -> None:
    algorithm, tasks = make(name, easy).eval(), tasks_of(source)
    with torch.no_grad():
        adapted = algorithm.adapt(tasks.support)
        whole = algorithm.predict(adapted, tasks.query.x)
        part = algorithm.predict(adapted, tasks.query.x[:, :3])
    independent = torch.allclose(whole[:, :3], part, atol=1e-4)
    assert independent is not algorithm.transductive


def test_tasks_do_not_influence_each_other(name: str, easy: ImageClasses, source: Source) -> None:
    algorithm, tasks = make(name, easy).eval(), tasks_of(source)
    alone = tasks.chunks(1)[2]
    with torch.no_grad():
        together = algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x)[2:3]
        by_itself = algorithm.predict(algorithm.adapt(alone.support), alone.query.x)
    torch.testing.assert_close(together, by_itself, atol=1e-4, rtol=1e-4)


def test_other_ways_and_shots_can_be_evaluated(name: str, easy: ImageClasses, source: Source) -> None:
    algorithm = make(name, easy).eval()
    for ways in (3, 9):
        try:
            scores = evaluate(algorithm, source("train"), TaskShape(ways, 3, 2), 3, 3, stepwise=False)
        except UserError as refusal:
            # Only more ways than in training may be refused, and only where a setting of the algorithm's own allows them.
            (setting,) = re.findall(r"(algorithm\.\w+)=5\b", str(refusal))
            assert ways > 5
            algorithm = make(name, easy, f"{setting}={ways}").eval()
            scores = evaluate(algorithm, source("train"), TaskShape(ways, 3, 2), 3, 3, stepwise=False)
        assert scores.score.shape == (1, 3)


def test_beats_chance_after_a_few_dozen_steps(name: str, easy: ImageClasses, source: Source) -> None:
    if name in LEARN_TO_LEARN_SLOWLY:
        pytest.skip("needs hundreds of steps; the algorithm's own tests show that it learns")
    algorithm = make(name, easy, as_shipped=True).train()
    tasks = source("train")
    if algorithm.fits:
        with torch.no_grad():
            algorithm.eval().fit(tasks.every_example())
            algorithm.train()
    optimizer = torch.optim.Adam(algorithm.parameters(), lr=3e-3)
    for steps in (range(6), range(6, 15), range(15, 40)):  # most need no more than the first
        for step in steps if algorithm.trains else ():
            optimizer.zero_grad(set_to_none=True)
            meta_gradient(algorithm, tasks.tasks(4 * step, 4, TaskShape(5, 1, 5)), 4, "fp32")
            optimizer.step()
        scores = evaluate(algorithm, source("test"), TaskShape(5, 1, 5), 50, 25, stepwise=False)
        if (beaten := scores.mean - scores.ci95 > (0.5 if algorithm.trains else 0.3)) or not algorithm.trains:
            break
    assert beaten, "chance is 0.2"


def test_outer_steps_are_refused_where_they_could_not_change_it(name: str, easy: ImageClasses) -> None:
    if make(name, easy).trains:
        make(name, easy, "train.steps=1")
    else:
        with pytest.raises(UserError, match=rf"train.steps=1: algorithm={name} does not train"):
            make(name, easy, "train.steps=1")


def test_bf16_trains(name: str, easy: ImageClasses, source: Source) -> None:
    algorithm = make_that_trains(name, easy).train()
    exact = float(meta_gradient(algorithm, tasks_of(source), 4, "fp32")["loss"])
    algorithm.zero_grad(set_to_none=True)
    rounded = float(meta_gradient(algorithm, tasks_of(source), 4, "bf16")["loss"])
    assert rounded == pytest.approx(exact, rel=0.1)
    assert all(
        p.grad is not None and p.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in algorithm.parameters()
    )
