"""The comparison is fair: for the same tasks and initial parameters, learn2learn's loops and ours have the same meta-gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from metalearn.bench import peer, steps
from metalearn.bench.ours import Ours
from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_dataset
from metalearn.tasks import TaskBatch
from tests.compose import compose

SMALL = (
    *("dataset=glyphs", "dataset.classes=40", "dataset.val_classes=5", "dataset.test_classes=5", "device=cpu"),
    *("train.meta_batch_size=3", "train.task_chunk=2", "task.train.queries=3"),
)
NARROW = "backbone.filters=4"
# What makes a case small, or its draws the same on both sides; nothing changes which loop it is.
CHANGES = {
    "MAML, fully connected": ("backbone.hidden=[16,8]",),
    "MAML, strided conv": (NARROW,),
    "MAML, max-pool conv": (NARROW,),
    "ANIL": (NARROW,),
    "Reptile": (NARROW, "algorithm.inner_optimizer=sgd", "algorithm.inner_batch=50"),  # all of the support set
    "ProtoNet": (NARROW, "task.train.ways=6"),
}
CASES = [case for case in steps.CASES if "1 query" not in case.label]


def one_by_one(tasks: TaskBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """Each task as learn2learn's tasksets hand it out: the images of each class in a row."""
    for task in tasks.chunks(1):
        (support, query), ways = (task.support, task.query), task.support.ways
        parts = [
            (examples.x[0].unflatten(0, (ways, -1)), examples.y[0].view(ways, -1)) for examples in (support, query)
        ]
        x, y = (torch.cat(both, dim=1).flatten(0, 1) for both in zip(*parts, strict=True))
        yield x, y


def in_double(tasks: TaskBatch) -> TaskBatch:
    support, query = (examples._replace(x=examples.x.double()) for examples in (tasks.support, tasks.query))
    return tasks._replace(support=support, query=query)


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES, ids=[case.label for case in CASES])
def test_equal_meta_gradients(case: steps.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = next(changes for name, changes in CHANGES.items() if case.label.startswith(name))
    config = compose(*case.overrides, *SMALL, *changes)
    monkeypatch.setattr(peer.ReptileLoop, "mini_batch", lambda self, examples: torch.arange(examples))
    ours = Ours(config)
    ours.algorithm.double()  # else a rounding error that turns a ReLU or picks another maximum is all one sees
    tasks = in_double(ours.tasks(0))
    sample = peer.replayed(one_by_one(tasks))
    theirs: peer.Loop = getattr(peer, case.loop)(config, ours.algorithm, sample, ours.device)
    for module in vars(theirs).values():
        if isinstance(module, torch.nn.Module):
            module.double()
    ours.loop.gradient(tasks)
    theirs.gradient()
    assert len(theirs.pairs) == len(theirs.parameters)
    assert all(torch.equal(our, their) for our, their in theirs.pairs), "the same initial parameters"
    # As one vector: biases before a normalisation have a gradient of rounding errors alone.
    our_gradient, their_gradient = (
        torch.cat([parameter.grad.flatten() for parameter in side if parameter.grad is not None])
        for side in zip(*theirs.pairs, strict=True)
    )
    assert len(our_gradient) == len(their_gradient) == sum(parameter.numel() for parameter in theirs.parameters)
    difference = float((our_gradient - their_gradient).norm() / our_gradient.norm())
    assert difference < 1e-9


@pytest.mark.parametrize("label", ["MAML, fully connected, 1 query, second order", "Reptile"])
def test_both_take_whole_steps_and_count_their_data(label: str) -> None:
    (case,) = (case for case in steps.CASES if case.label.startswith(label))
    narrow = "backbone.hidden=[16,8]" if "fully" in label else NARROW
    config = compose(*case.overrides, *SMALL, narrow, "task.train.queries=1")
    ours, task = Ours(config), config["task"]["train"]
    sample = peer.from_memory(build_dataset(config), task["ways"], task["shots"] + task["queries"])
    theirs: peer.Loop = getattr(peer, case.loop)(config, ours.algorithm, sample, ours.device)
    before = [parameter.clone() for parameter in theirs.parameters]
    for side in (ours, theirs):
        side.step()
        side.step()
        assert side.data_seconds > 0
    assert ours.loop.outcome.steps == 2
    assert any(not torch.equal(was, now) for was, now in zip(before, theirs.parameters, strict=True))


def test_learn2learns_tasks_are_of_the_training_classes() -> None:
    config = compose(*SMALL)
    dataset = build_dataset(config)
    x, y = peer.from_memory(dataset, ways=5, each=4)()
    assert x.shape == (20, *dataset.input_shape)
    assert y.view(5, 4).unique(dim=1).shape == (5, 1), "the images of each class in a row"
    assert sorted(y[::4].tolist()) == list(range(5))
    assert isinstance(dataset, ImageClasses)
    known: Any = torch.from_numpy(dataset.images.select(dataset.numbers("train")).images).float().flatten(1).div(255)
    assert all((known == image.flatten()).all(1).any() for image in x)
