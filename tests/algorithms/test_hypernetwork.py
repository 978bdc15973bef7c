"""HyperTransformer by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metalearn.algorithms.hypernetwork import HyperTransformer
from metalearn.errors import UserError
from metalearn.kinds import accuracy
from metalearn.tasks import Examples
from tests.algorithms.test_caml import clusters
from tests.algorithms.test_nearest_centroid import Wide

DIM = 7  # of Wide


def hyper(ways: int = 3, **settings: Any) -> HyperTransformer:
    torch.manual_seed(0)
    defaults = {"width": 32, "label_width": 8, "layers": 2, "heads": 2, "hidden": 64, "initial": "plain"}
    return HyperTransformer(Wide(), ways, **{**defaults, "most_ways": "auto", **settings})


def as_double(part: Examples) -> Examples:
    return part._replace(x=part.x.double())


@pytest.mark.parametrize("initial", ["plain", "means"])
def test_the_last_layer_is_what_comes_out_at_the_placeholders(initial: str) -> None:
    """One task at a time, each token put together by hand, each class's weights read off a whole pass of the encoder."""
    algorithm, tasks = hyper(initial=initial, most_ways=4).double().eval(), clusters(2, 0, shots=2)
    support, query = as_double(tasks.support), as_double(tasks.query)
    with torch.no_grad():
        adapted = algorithm.adapt(support)
        found = algorithm.predict(adapted, query.x)
        assert adapted.weight.shape == (2, 3, DIM)
        for task in range(2):
            examples = zip(support.x[task], support.y[task], strict=True)
            mean = support.x[task].mean(0)
            shown = [torch.cat([algorithm.project(x - mean), algorithm.labels[y]]) for x, y in examples]
            for label in range(3):
                others = [other for other in range(3) if other != label]
                asked = [torch.cat([torch.zeros(24).double(), algorithm.placeholders[one]]) for one in (label, *others)]
                written = algorithm.write(algorithm.encoder(torch.stack([*asked, *shown]).unsqueeze(0)))[0]
                logits = (query.x[task] - mean) @ written[:DIM] + written[DIM]
                torch.testing.assert_close(found[task, :, label], logits)


def logits(algorithm: HyperTransformer, support: Examples, queries: Tensor) -> Tensor:
    with torch.no_grad():
        return algorithm.eval().predict(algorithm.adapt(support), queries)


def test_the_order_of_the_support_set_does_not_matter() -> None:
    algorithm, tasks = hyper().double(), clusters(2, 0, shots=2)
    support, query = as_double(tasks.support), as_double(tasks.query)
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    moved = support._replace(x=support.x[:, order], y=support.y[:, order])
    torch.testing.assert_close(logits(algorithm, moved, query.x), logits(algorithm, support, query.x))


def score(algorithm: HyperTransformer, **shape: int) -> float:
    tasks = clusters(100, 10**6, **shape)
    return float(accuracy(logits(algorithm, tasks.support, tasks.query.x), tasks.query.y).mean())


def test_it_starts_with_the_weights_of_class_means() -> None:
    """Before anything is learned, each class's weights point where the mean of its features does; not so from random weights."""
    tasks = clusters(50, 0, shots=3)
    means = tasks.support.x.unflatten(1, (3, 3)).mean(2)
    means = means - means.mean(1, keepdim=True)

    def closest(algorithm: HyperTransformer) -> float:
        with torch.no_grad():
            weight = algorithm.adapt(tasks.support).weight
        alike = torch.cosine_similarity(weight.unsqueeze(2), means.unsqueeze(1), dim=-1)  # [T, N, N]
        return float((alike.argmax(-1) == torch.arange(3)).double().mean())

    assert closest(hyper(initial="means")) > 0.9
    assert closest(hyper(initial="plain")) < 0.6


def test_it_learns_to_generate_with_all_of_its_vectors() -> None:
    algorithm = hyper(initial="means", most_ways=4).train()
    optimizer = torch.optim.Adam(algorithm.parameters(), lr=2e-3)
    for step in range(150):
        optimizer.zero_grad()
        algorithm.meta_loss(clusters(16, step + 1)).loss.mean().backward()
        optimizer.step()
    assert score(algorithm) > 0.85
    # All of the vectors were trained, though no training task had so many classes; and there may be any number of shots.
    assert score(algorithm, ways=4) > 0.7
    assert score(algorithm, shots=5) > 0.85


def test_training_tasks_draw_their_vectors_by_their_content() -> None:
    algorithm, tasks = hyper(most_ways=6), clusters(4, 0)
    together = algorithm.meta_loss(tasks).loss
    torch.testing.assert_close(together, torch.cat([algorithm.meta_loss(one).loss for one in tasks.chunks(1)]))
    fixed = algorithm.query_loss(algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x), tasks).loss
    assert not torch.allclose(together, fixed)


def test_more_ways_than_vectors_are_refused() -> None:
    with pytest.raises(UserError, match=r"5 ways are more than the model has label vectors for: algorithm.most_ways=3"):
        hyper(ways=5, most_ways=3)
    algorithm = hyper(ways=3).eval()
    algorithm.check_ways(2)
    with pytest.raises(UserError, match=r"4 ways are more .*algorithm.most_ways=3"):
        algorithm.adapt(clusters(1, 0, ways=4).support)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_width": 2}, r"algorithm.label_width=2 is less than the number of labels, 3"),
        ({"width": 8}, r"algorithm.width=8 leaves no room for features beside algorithm.label_width=8"),
        ({"width": 33}, r"algorithm.width=33 is no multiple of algorithm.heads=2"),
    ],
)
def test_widths_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        hyper(**settings)
