"""Checks for algorithms of your own: what every algorithm owes, on a small drawn data set, in seconds.

from metalearn.testing import check_algorithm

def test_my_learner():
    check_algorithm("my_learner", plugins=("my_lab",))
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.compose.composer import composer, explained
from metalearn.config.plugins import trust
from metalearn.data.descriptions import Descriptions
from metalearn.data.images import ImageClasses
from metalearn.engine.able import learners
from metalearn.engine.build import build_algorithm, build_dataset
from metalearn.engine.gradient import together
from metalearn.errors import UserError
from metalearn.kinds import CLASSIFICATION
from metalearn.tasks import TaskBatch, TaskShape, VaryingPoints, VaryingShape

_GLYPHS = (
    *("dataset=glyphs", "dataset.classes=40", "dataset.val_classes=6", "dataset.test_classes=6"),
    "dataset.size=16",
)
_SMALL = ("task.train.ways=5", "task.queries=5", "task.train.queries=5")
_FUNCTIONS = ("dataset=sinusoid", "task.queries=5", "task.train.queries=5")  # for what learns no classes
_SHAPE = TaskShape(ways=5, shots=1, queries=5)
_VARYING = VaryingPoints(1, "varying", 5, min_shots=1, max_shots=9)
_UNEVEN = VaryingShape(
    "varying", "varying", "varying", min_ways=2, max_ways=5, max_shots=3, max_support=9, max_queries=3, imbalance=2.0
)
_TASKS = 3
_NUMBERS = 4  # that describe a class


def check_algorithm(name: str, *overrides: str, plugins: tuple[str, ...] = ()) -> None:
    """Builds `algorithm=NAME` and checks it as the project's own algorithms are checked: on classes or, where it learns none, on functions.

    Args:
        name: of its YAML file.
        overrides: further settings: `"backbone=mlp"`. `"dataset=NAME"` names a data set in the place of the small drawn one; five of its training
            classes have to have six examples or more.
        plugins: packages of your own to trust.

    Raises:
        AssertionError: it breaks a rule; the message says which.
        UserError: its settings are refused.
    """
    trust(plugins)
    classes = name in learners(CLASSIFICATION)
    drawn = () if any(override.startswith("dataset=") for override in overrides) else _GLYPHS
    asked = [f"algorithm={name}", *((*drawn, *_SMALL) if classes else _FUNCTIONS), *overrides]
    with explained(asked, None, None), composer() as composing:
        config, _ = composing.job(asked, 0)
    dataset = build_dataset(config)
    source = dataset.source("train", 0, torch.device("cpu"))
    tasks = source.tasks(0, _TASKS, _SHAPE if classes else _SHAPE._replace(ways=1))
    before = torch.random.get_rng_state()
    first, second = (build_algorithm(config, dataset) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before), "building it moves torch's global random generator"
    if first.trains:
        _check_gradients(first, second, tasks)
    if first.fits:
        _check_fit(first, torch.cat(list(source.every_example())))
    if count := first.tuning_tasks:
        _check_tune(first, second, source.tasks(0, count, _SHAPE))
    _check_prediction(first, tasks)
    _check_two_steps(first, tasks)
    if first.uneven:
        _check_uneven(first, source.tasks(0, _TASKS, _UNEVEN if classes else _VARYING))
    _check_export(first, tasks)
    if first.zero_shot and isinstance(dataset, ImageClasses):  # to which descriptions can be given
        with composer() as composing:
            zero_shot, _ = composing.job([*asked, "task.shots=0"], 0)
        _check_zero_shot(zero_shot, dataset)


def _check_gradients(first: Algorithm, second: Algorithm, tasks: TaskBatch) -> None:
    """Equal seeds give equal losses and gradients; every parameter learns. Of a learner that `trains`."""
    losses = []
    for algorithm in (first.train(), second.train()):
        loss = algorithm.meta_loss(tasks).loss
        assert loss.shape == (tasks.tasks,), f"meta_loss gives {list(loss.shape)}, not one loss per task"
        loss.sum().backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    assert torch.equal(*losses), "two algorithms with one seed have different losses"
    for (name, parameter), (_, twin) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert parameter.grad is not None, f"{name} has no gradient"
        assert bool(torch.isfinite(parameter.grad).all()), f"{name} has a gradient that is not finite"
        assert twin.grad is not None
        assert torch.equal(parameter.grad, twin.grad), f"{name}: two algorithms with one seed have different gradients"


def _check_fit(algorithm: Algorithm, images: Tensor) -> None:
    """What it takes from the training images is kept in buffers alone, does not depend on how they are cut, and is the same from embedded ones."""
    algorithm.eval()
    parameters = {name: tensor.clone() for name, tensor in algorithm.named_parameters()}
    chunks = list(torch.split(images, 7))
    fits = [(algorithm, [images]), (algorithm, chunks)]
    if (parts := algorithm.in_two_steps()) is not None:
        fits.append((parts.learner, [parts.embed(chunk) for chunk in chunks]))
    kept = []
    with torch.no_grad():
        for learner, given in fits:
            learner.fit(iter(given))
            kept.append({name: tensor.clone() for name, tensor in algorithm.named_buffers()})
    for name, parameter in algorithm.named_parameters():
        assert torch.equal(parameter, parameters[name]), f"fit changes {name}, which is a parameter"
    for other in kept[1:]:
        for name, tensor in kept[0].items():
            assert torch.allclose(tensor, other[name], atol=1e-5, rtol=1e-4), (
                f"what fit keeps in {name} depends on how the images are cut, or on whether they are embedded already"
            )


def _check_tune(algorithm: Algorithm, twin: Algorithm, tasks: TaskBatch) -> None:
    """What it chooses by labelled tasks is said, is the same at every call, and is in a checkpoint: in buffers of whole numbers alone, in place."""
    algorithm.eval()
    stored = {name: tensor.clone() for name, tensor in algorithm.state_dict().items()}
    places = {name: buffer.data_ptr() for name, buffer in algorithm.named_buffers()}
    chosen = []
    with torch.no_grad():
        for _ in range(2):
            said = algorithm.tune(tasks)
            assert said, "tune says nothing of what it chose"
            chosen.append((said, {name: tensor.clone() for name, tensor in algorithm.state_dict().items()}))
        (said, state), (again, other) = chosen
        assert said == again, f"tune chooses {said}, then {again} by the same tasks"
        for name, tensor in state.items():
            assert torch.equal(tensor, other[name]), f"a second tune by the same tasks changes {name}"
            changed = not torch.equal(tensor, stored[name])
            assert not (changed and tensor.is_floating_point()), f"tune changes {name}, which holds no whole numbers"
        for name, buffer in algorithm.named_buffers():
            assert buffer.data_ptr() == places.get(name), f"tune makes the buffer {name} anew: change it in place"
        twin.eval().load_state_dict(state)
        answers = [learner.predict(learner.adapt(tasks.support), tasks.query.x) for learner in (algorithm, twin)]
    assert torch.equal(*answers), (
        "a checkpoint does not hold what tune chose: another learner with it answers otherwise"
    )


def _check_prediction(algorithm: Algorithm, tasks: TaskBatch) -> None:
    """Evaluation gives one finite score per query and class, the same at every call, and changes nothing."""
    algorithm.eval()
    stored = {name: tensor.clone() for name, tensor in algorithm.state_dict().items()}
    outputs = [algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x).detach() for _ in range(2)]
    wanted = (*tasks.query.y.shape[:2], tasks.query.ways)
    assert outputs[0].shape == wanted, (
        f"predict gives {list(outputs[0].shape)}, not [tasks, queries, ways] {list(wanted)}"
    )
    assert bool(torch.isfinite(outputs[0]).all()), "predict gives numbers that are not finite"
    assert torch.equal(*outputs), "the same task gets different answers"
    distribution = algorithm.predict_distribution(algorithm.adapt(tasks.support), tasks.query.x)
    if distribution is not None:
        assert torch.equal(distribution.mean, outputs[0]), "predict is not the mean of predict_distribution"
        assert bool((distribution.stds > 0).all()), (
            "predict_distribution gives standard deviations that are not above 0"
        )
    for name, tensor in algorithm.state_dict().items():
        assert torch.equal(tensor, stored[name]), f"evaluation changes {name}"


def _check_two_steps(algorithm: Algorithm, tasks: TaskBatch) -> None:
    """A learner that says it can be taken apart gives the same answers from embedded examples, up to rounding."""
    parts = algorithm.eval().in_two_steps()
    if parts is None:
        return
    embedded = [
        torch.stack([parts.embed(task) for task in examples.x]).detach() for examples in (tasks.support, tasks.query)
    ]
    assert embedded[0].shape[2:] == (parts.dim,), f"embed gives {list(embedded[0].shape[2:])} numbers, not {parts.dim}"
    whole = algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x)
    apart = parts.learner.predict(parts.learner.adapt(tasks.support._replace(x=embedded[0])), embedded[1])
    assert torch.allclose(whole, apart, atol=1e-3, rtol=1e-3), "in_two_steps gives other answers than the whole"


def _check_zero_shot(config: dict[str, Any], dataset: ImageClasses) -> None:
    """A learner that says it learns classes by their descriptions does so from numbers: it learns to, and a class is what its description says."""
    numbers = np.random.default_rng(0).random((len(dataset.class_names), _NUMBERS), np.float32)
    described = replace(dataset, descriptions=Descriptions(dict(zip(dataset.class_names, numbers, strict=True))))
    tasks = described.source("train", 0, torch.device("cpu")).tasks(0, _TASKS, _SHAPE._replace(shots=0))
    first, second = (build_algorithm(config, described) for _ in range(2))
    if first.trains:
        _check_gradients(first, second, tasks)
    _check_prediction(first, tasks)
    whole = _outputs(first, tasks)
    order = torch.arange(_SHAPE.ways).flip(0)
    assert tasks.support.descriptions is not None
    turned = tasks.support._replace(descriptions=tasks.support.descriptions[:, order])
    other = _outputs(first, tasks._replace(support=turned))
    assert torch.allclose(whole[..., order], other, atol=1e-5), "classes do not change places with their descriptions"
    assert not torch.allclose(whole, other, atol=1e-5), "descriptions make no difference"
    alone = torch.cat([_outputs(first, task) for task in tasks.chunks(1)])
    assert torch.allclose(whole, alone, atol=1e-4, rtol=1e-4), "zero-shot tasks influence each other"
    if (parts := first.in_two_steps()) is not None:
        x = torch.stack([parts.embed(task) for task in tasks.query.x]).detach()
        apart = parts.learner.predict(parts.learner.adapt(tasks.support), x)
        assert torch.allclose(whole, apart, atol=1e-3, rtol=1e-3), "in_two_steps gives other answers without examples"


@torch.no_grad()
def _outputs(algorithm: Algorithm, tasks: TaskBatch) -> Tensor:
    return algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x)


def _check_export(algorithm: Algorithm, tasks: TaskBatch) -> None:
    """What `metalearn export` writes gives the answers of `predict`, and the vectors of `in_two_steps`, up to rounding."""
    task = next(iter(tasks.chunks(1)))
    with contextlib.suppress(UserError):  # some are transductive whatever is asked
        algorithm.eval().set_transductive(False)
    if algorithm.transductive:
        return
    with torch.no_grad():
        adapted = algorithm.adapt(task.support)
        whole, alone = algorithm.predict(adapted, task.query.x)[0], algorithm.deployed(adapted)(task.query.x[0])
        assert alone.shape == whole.shape, f"deployed gives {list(alone.shape)}, predict {list(whole.shape)}"
        assert torch.allclose(whole, alone, atol=1e-3, rtol=1e-3), "deployed gives other answers than predict"
        parts, network = algorithm.in_two_steps(), algorithm.embedding()
        if parts is not None and network is not None:
            vectors = network(task.query.x[0])
            assert torch.allclose(parts.embed(task.query.x[0]), vectors, atol=1e-3, rtol=1e-3), (
                "embedding gives other vectors than in_two_steps"
            )


def _check_uneven(algorithm: Algorithm, tasks: TaskBatch) -> None:
    """A learner that says it learns tasks of uneven size gives each the loss and the answers that it has alone, finite ones."""
    if algorithm.trains:
        _check_uneven_losses(algorithm, tasks)
    algorithm.eval()
    alone = [algorithm.predict(algorithm.adapt(task.support), task.query.x).detach() for task in tasks.chunks(1)]
    for task, outputs in zip(tasks.chunks(1), alone, strict=True):
        wanted = (1, task.query.y.shape[1], task.query.ways)
        assert outputs.shape == wanted, f"predict gives {list(outputs.shape)} of an uneven task, not {list(wanted)}"
        assert bool(torch.isfinite(outputs).all()), "predict gives numbers that are not finite of an uneven task"
    if algorithm.masks:
        padded = algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x).detach()
        for outputs, of_padded in zip(alone, torch.split(padded, 1), strict=True):
            part = of_padded[:, : outputs.shape[1], : outputs.shape[2]]
            assert torch.allclose(part, outputs, atol=1e-3, rtol=1e-3), "padding changes the answers of uneven tasks"


def _check_uneven_losses(algorithm: Algorithm, tasks: TaskBatch) -> None:
    algorithm.train()
    stored = {name: tensor.clone() for name, tensor in algorithm.state_dict().items()}
    losses = []
    for size in (1, together(algorithm, tasks, tasks.tasks)):
        losses.append(torch.cat([algorithm.meta_loss(chunk).loss.detach() for chunk in tasks.chunks(size)]))
        algorithm.load_state_dict(stored)
    assert bool(torch.isfinite(losses[0]).all()), "meta_loss of an uneven task is not finite"
    assert torch.allclose(losses[0], losses[1], atol=1e-4, rtol=1e-4), "padding changes the losses of uneven tasks"
