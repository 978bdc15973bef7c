"""CAML by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metalearn.algorithms.caml import CAML
from metalearn.errors import UserError
from metalearn.kinds import accuracy
from metalearn.tasks import Examples, TaskBatch
from tests.algorithms.test_nearest_centroid import Wide

DIM = 7  # of Wide


def caml(ways: int = 3, **settings: Any) -> CAML:
    torch.manual_seed(0)
    defaults = {"transform": "none", "width": 32, "label_width": 8, "layers": 2, "heads": 2, "hidden": 64}
    return CAML(Wide(), ways, **{**defaults, "most_ways": "auto", **settings})


def clusters(tasks: int, seed: int, ways: int = 3, shots: int = 1, queries: int = 4) -> TaskBatch:
    """Tasks of classes that are far from each other."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(tasks, ways, 1, DIM, generator=generator)
    drawn = 2 * centres + 0.3 * torch.randn(tasks, ways, shots + queries, DIM, generator=generator)
    parts = drawn.split([shots, queries], dim=2)
    support, query = (
        Examples(part.flatten(1, 2), torch.arange(ways).repeat_interleave(part.shape[2]).expand(tasks, -1), ways)
        for part in parts
    )
    return TaskBatch(support, query, torch.zeros(tasks, ways, dtype=torch.int64))


def logits(algorithm: CAML, tasks: TaskBatch) -> Tensor:
    with torch.no_grad():
        return algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x)


def test_each_query_has_a_sequence_of_its_own() -> None:
    """One query at a time, each token put together by hand."""
    algorithm, tasks = caml().double().eval(), clusters(2, 0, shots=2)
    support, query = (part._replace(x=part.x.double()) for part in (tasks.support, tasks.query))
    with torch.no_grad():
        algorithm.unknown.normal_()
        algorithm.label_scale.fill_(1.5)
        found = algorithm.predict(algorithm.adapt(support), query.x)
        for task in range(2):
            tokens = [
                torch.cat([algorithm.project(x), 1.5 * algorithm.labels[y]])
                for x, y in zip(support.x[task], support.y[task], strict=True)
            ]
            for one, answer in zip(query.x[task], found[task], strict=True):
                first = torch.cat([algorithm.project(one), algorithm.unknown])
                read = algorithm.read(algorithm.encoder(torch.stack([first, *tokens])[None]))
                torch.testing.assert_close(answer, read[0])


def test_the_order_of_the_support_set_does_not_matter() -> None:
    algorithm, tasks = caml().eval(), clusters(2, 0, shots=2)
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    moved = tasks.support._replace(x=tasks.support.x[:, order], y=tasks.support.y[:, order])
    torch.testing.assert_close(
        logits(algorithm, tasks._replace(support=moved)), logits(algorithm, tasks), atol=1e-5, rtol=1e-5
    )


def trained(algorithm: CAML, steps: int, **shape: int) -> CAML:
    optimizer = torch.optim.Adam(algorithm.parameters(), lr=2e-3)
    algorithm.train()
    for step in range(steps):
        optimizer.zero_grad()
        algorithm.meta_loss(clusters(16, step + 1, **shape)).loss.mean().backward()
        optimizer.step()
    return algorithm.eval()


@pytest.mark.thorough
def test_it_learns_to_learn_and_labels_can_be_exchanged() -> None:
    algorithm, tasks = trained(caml(most_ways=4), 250), clusters(100, 10**6)
    found = logits(algorithm, tasks)
    assert float(accuracy(found, tasks.query.y).mean()) > 0.8
    exchange = torch.tensor([2, 0, 1])  # class c is labelled exchange[c]
    other = logits(algorithm, tasks._replace(support=tasks.support._replace(y=exchange[tasks.support.y])))
    agree = (other.argmax(-1) == exchange[found.argmax(-1)]).float().mean()
    assert float(agree) > 0.85
    # All of the label vectors were trained: tasks of as many ways as there are can be labelled.
    wide = clusters(100, 10**6, ways=4)
    assert float(accuracy(logits(algorithm, wide), wide.query.y).mean()) > 0.5


def test_training_tasks_draw_their_labels_by_their_content() -> None:
    algorithm, tasks = caml(most_ways=6), clusters(4, 0)
    together = algorithm.meta_loss(tasks).loss
    alone = torch.cat([algorithm.meta_loss(one).loss for one in tasks.chunks(1)])
    torch.testing.assert_close(together, alone)
    tasks = clusters(1, 0)
    fixed = algorithm.query_loss(algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x), tasks).loss
    assert not torch.allclose(algorithm.meta_loss(tasks).loss, fixed)


def test_more_ways_than_labels_are_refused() -> None:
    with pytest.raises(UserError, match=r"5 ways are more than the model has labels for: algorithm.most_ways=3"):
        caml(ways=5, most_ways=3)
    algorithm = caml(ways=3).eval()
    algorithm.check_ways(2)
    with pytest.raises(UserError, match=r"4 ways are more .*algorithm.most_ways=3"):
        algorithm.adapt(clusters(1, 0, ways=4).support)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_width": 2}, r"algorithm.label_width=2 is less than the number of labels, 3"),
        ({"width": 8}, r"algorithm.width=8 leaves no room for features beside algorithm.label_width=8"),
        ({"width": 33}, r"algorithm.width=33 is no multiple of algorithm.heads=2"),
        ({"width": "auto"}, r"algorithm.width=auto, which is 15 here, is no multiple of algorithm.heads=2"),
    ],
)
def test_widths_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        caml(**settings)


def test_auto_takes_features_as_they_are() -> None:
    algorithm = caml(width="auto", label_width=9)  # 7 + 9
    assert sum(1 for _ in algorithm.project.parameters()) == 0
    assert algorithm.read.in_features == 16
