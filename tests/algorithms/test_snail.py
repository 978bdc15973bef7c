"""SNAIL by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metalearn.algorithms.snail import SNAIL
from metalearn.errors import UserError
from metalearn.kinds import accuracy
from metalearn.nn.causal import CausalAttention, CausalLayer
from metalearn.nn.hashed_numbers import shuffled
from tests.algorithms.test_caml import clusters
from tests.algorithms.test_nearest_centroid import Wide


def snail(ways: int = 3, **settings: Any) -> SNAIL:
    torch.manual_seed(0)
    defaults = {"width": 8, "filters": 6, "convolutions": 2, "initial": "images", "most_ways": "auto"}
    return SNAIL(Wide(), ways, **{**defaults, **settings})


def last_of(algorithm: SNAIL, sequence: Tensor) -> Tensor:
    """Scores of the last position of one whole sequence [m + 1, C], by a causal pass over all of it."""
    x = sequence.unsqueeze(0)
    for layer in algorithm.stack.layers:
        assert isinstance(layer, CausalLayer)
        x, _ = layer.over_sequence(x)
    scores: Tensor = algorithm.read(x[0, -1])
    return scores


@pytest.mark.parametrize("initial", ["images", "plain"])
def test_each_query_is_the_last_of_a_sequence_of_its_own(initial: str) -> None:
    """One query at a time, each position put together by hand, the whole sequence computed for it."""
    algorithm, tasks = snail(most_ways=4, initial=initial).double().eval(), clusters(2, 0, shots=2)
    support, query = (part._replace(x=part.x.double()) for part in (tasks.support, tasks.query))
    order = shuffled(torch.zeros(1, 1, dtype=torch.int64), 6, 1)[0].tolist()
    with torch.no_grad():
        found = algorithm.predict(algorithm.adapt(support), query.x)
        assert found.shape == (2, 12, 3)
        for task in range(2):
            shown = [
                torch.cat([algorithm.project(support.x[task, i]), F.one_hot(support.y[task, i], 4).double()])
                for i in order
            ]
            for one, answer in zip(query.x[task], found[task], strict=True):
                last = torch.cat([algorithm.project(one), torch.zeros(4).double()])
                torch.testing.assert_close(answer, last_of(algorithm, torch.stack([*shown, last]))[:3])


def trained(algorithm: SNAIL, steps: int, **shape: int) -> SNAIL:
    optimizer = torch.optim.Adam(algorithm.parameters(), lr=2e-3)
    algorithm.train()
    for step in range(steps):
        optimizer.zero_grad()
        algorithm.meta_loss(clusters(16, step + 1, **shape)).loss.mean().backward()
        optimizer.step()
    return algorithm.eval()


def score(algorithm: SNAIL, **shape: int) -> float:
    tasks = clusters(100, 10**6, **shape)
    with torch.no_grad():
        return float(accuracy(algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x), tasks.query.y).mean())


@pytest.mark.thorough
def test_it_learns_to_learn_with_all_of_its_label_units() -> None:
    algorithm = trained(snail(most_ways=4), 150)
    assert score(algorithm) > 0.8
    # All of the units were trained, though no training task had so many classes; and there may be any number of shots.
    assert score(algorithm, ways=4) > 0.5
    assert score(algorithm, shots=5) > 0.8


def test_the_first_attention_finds_examples_that_are_alike_before_anything_is_learned() -> None:
    tasks = clusters(50, 0)

    def found(algorithm: SNAIL) -> float:
        """How often an example of the query's class gets the most attention."""
        first = algorithm.stack.layers[0]
        assert isinstance(first, CausalAttention)
        with torch.no_grad():
            support, queries = (F.pad(algorithm.project(part.x), (0, 3)) for part in (tasks.support, tasks.query))
            nearest = (first.query(queries) @ first.key(support).mT).argmax(-1)
        return float((tasks.support.y.gather(1, nearest) == tasks.query.y).double().mean())

    assert found(snail()) > 0.65
    assert found(snail(initial="plain")) < 0.5


def test_training_tasks_draw_order_and_labels_by_their_content() -> None:
    algorithm, tasks = snail(most_ways=6), clusters(4, 0)
    together = algorithm.meta_loss(tasks).loss
    alone = torch.cat([algorithm.meta_loss(one).loss for one in tasks.chunks(1)])
    torch.testing.assert_close(together, alone)
    fixed = algorithm.query_loss(algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x), tasks).loss
    assert not torch.allclose(together, fixed)


def test_more_ways_than_label_units_are_refused() -> None:
    with pytest.raises(UserError, match=r"5 ways are more than the model has label units for: algorithm.most_ways=3"):
        snail(ways=5, most_ways=3)
    algorithm = snail(ways=3).eval()
    algorithm.check_ways(2)
    with pytest.raises(UserError, match=r"4 ways are more .*algorithm.most_ways=3"):
        algorithm.adapt(clusters(1, 0, ways=4).support)
