"""Meta Networks by hand: gradients by autograd, one example, one query and one matrix at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metalearn.algorithms.metanet import MetaNet, gradients, preprocessed
from metalearn.errors import UserError
from metalearn.kinds import accuracy
from metalearn.nn.hashed_numbers import shuffled
from metalearn.tasks import Examples
from tests.algorithms.test_caml import clusters
from tests.algorithms.test_nearest_centroid import Wide

WIDTH, PARTS, UNITS, WAYS = 5, 2, 4, 3


def metanet(ways: int = WAYS, **settings: Any) -> MetaNet:
    torch.manual_seed(0)
    defaults = {"width": WIDTH, "parts": PARTS, "units": UNITS, "scale": "auto", "most_ways": "auto"}
    return MetaNet(Wide(), ways, **{**defaults, **settings})


def asked_of(x: Tensor, y: Tensor, hidden: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the mean cross-entropy of examples [n, D] by both layers' weights."""
    leaves = [layer.detach().requires_grad_() for layer in (hidden, output)]
    loss = F.cross_entropy((x.detach() @ leaves[0].T).relu() @ leaves[1].T, y)
    first, second = torch.autograd.grad(loss, leaves)
    return first, second


def test_gradients_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    x, hidden, output = torch.randn(2, 4, 7).double(), torch.randn(5, 7).double(), torch.randn(2, 3, 5).double()
    y = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
    found = gradients(x, hidden, output, F.one_hot(y, 3))
    for task in range(2):
        for example in range(4):
            right = asked_of(x[task, example : example + 1], y[task, example : example + 1], hidden, output[task])
            for ours, theirs in zip(found, right, strict=True):
                torch.testing.assert_close(ours[task, example], theirs)


def lstm_reads(algorithm: MetaNet, steps: list[Tensor]) -> Tensor:
    """d by torch's own cell, of the gradients of one matrix at each step."""
    forget, write, show, candidate = algorithm.of_task.gates.weight.chunk(4)
    bias = torch.cat([algorithm.of_task.gates.bias.chunk(4)[i] for i in (1, 0, 3, 2)])
    weight = torch.cat([write, forget, candidate, show])  # torch's order: input, forget, candidate, output
    own = {"weight_ih": weight[:, :2], "weight_hh": weight[:, 2:], "bias_ih": bias, "bias_hh": torch.zeros_like(bias)}
    cell = nn.LSTMCell(2, UNITS).double()
    state = None
    for gradient in steps:
        given = (preprocessed(gradient.flatten()),) if state is None else (preprocessed(gradient.flatten()), state)
        state = functional_call(cell, own, given)
    assert state is not None
    made: Tensor = algorithm.of_task.read(state[0])
    return made.view_as(steps[0])


def by_hand(algorithm: MetaNet, x: Tensor, y: Tensor, queries: Tensor) -> Tensor:
    """Algorithm 1 for one task: logits [n, N]."""
    order = shuffled(torch.zeros(1, 1, dtype=torch.int64), len(y), 1)[0]
    steps = [
        asked_of(x[part], y[part], algorithm.key.weight, algorithm.key_output[:WAYS])[0]
        for part in order.tensor_split(PARTS)
    ]
    key = algorithm.key.weight + lstm_reads(algorithm, steps)
    slow = algorithm.hidden.weight, algorithm.output.weight[:WAYS]
    memory = []
    for example in range(len(y)):
        asked = asked_of(x[example : example + 1], y[example : example + 1], *slow)
        memory.append([algorithm.of_example.layers(preprocessed(gradient)).squeeze(-1) for gradient in asked])
    answers = []
    for query in queries:
        alike = torch.stack([F.cosine_similarity(key @ one, key @ query, dim=0) for one in x])
        attention = (10 * alike).softmax(0)
        fast_hidden, fast_output = (
            sum(share * fast[layer] for share, fast in zip(attention, memory, strict=True)) for layer in range(2)
        )
        hidden = (slow[0] @ query).relu() + (fast_hidden @ query).relu()
        answers.append(slow[1] @ hidden + fast_output @ hidden)
    return torch.stack(answers)


def test_predictions_and_the_outer_gradient_are_those_by_hand() -> None:
    algorithm, tasks = metanet(most_ways=4).double().eval(), clusters(2, 0, shots=2)
    support, query = (part._replace(x=part.x.double()) for part in (tasks.support, tasks.query))
    found = algorithm.predict(algorithm.adapt(support), query.x)
    right = torch.stack([by_hand(algorithm, support.x[task], support.y[task], query.x[task]) for task in range(2)])
    torch.testing.assert_close(found, right)
    of_loss = []
    for logits in (found, right):
        loss = F.cross_entropy(logits.flatten(0, 1), query.y.flatten())
        of_loss.append(torch.autograd.grad(loss, list(algorithm.parameters())))
    for ours, theirs in zip(*of_loss, strict=True):
        assert float(theirs.abs().max()) > 0, "every parameter has a part in the prediction"
        torch.testing.assert_close(ours, theirs)


def score(algorithm: MetaNet, **shape: int) -> float:
    tasks = clusters(100, 10**6, **shape)
    with torch.no_grad():
        return float(accuracy(algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x), tasks.query.y).mean())


def test_it_learns_to_make_fast_weights_for_all_of_its_outputs() -> None:
    algorithm = metanet(width=16, units=20, parts=3, most_ways=4).train()
    optimizer = torch.optim.Adam(algorithm.parameters(), lr=5e-3)
    for step in range(150):
        optimizer.zero_grad()
        algorithm.meta_loss(clusters(16, step + 1)).loss.mean().backward()
        optimizer.step()
    algorithm.eval()
    assert score(algorithm) > 0.8
    # All of the outputs were trained, though no training task had so many classes; and there may be any number of shots.
    assert score(algorithm, ways=4) > 0.6
    assert score(algorithm, shots=5) > 0.8
    # It is the fast weights that do it: without them nothing is left.
    with torch.no_grad():
        algorithm.of_example.layers[-1].weight.zero_()
    assert score(algorithm) < 0.5


def test_training_tasks_draw_order_and_outputs_by_their_content() -> None:
    algorithm, tasks = metanet(most_ways=6), clusters(4, 0)
    together = algorithm.meta_loss(tasks).loss
    torch.testing.assert_close(together, torch.cat([algorithm.meta_loss(one).loss for one in tasks.chunks(1)]))
    fixed = algorithm.query_loss(algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x), tasks).loss
    assert not torch.allclose(together, fixed)


def test_fewer_examples_than_parts_are_a_part_each() -> None:
    algorithm, tasks = metanet(parts=50).double().eval(), clusters(1, 0)
    support = tasks.support._replace(x=tasks.support.x.double())
    few = metanet(parts=WAYS).double().eval()
    torch.testing.assert_close(algorithm.adapt(support).fast_key, few.adapt(support).fast_key)
    fewer = Examples(support.x[:, :2], support.y[:, :2], 2)
    assert bool(algorithm.adapt(fewer).fast_key.isfinite().all())


def test_more_ways_than_outputs_are_refused() -> None:
    with pytest.raises(UserError, match=r"5 ways are more than the model has outputs for: algorithm.most_ways=3"):
        metanet(ways=5, most_ways=3)
    algorithm = metanet(ways=3).eval()
    algorithm.check_ways(2)
    with pytest.raises(UserError, match=r"4 ways are more .*algorithm.most_ways=3"):
        algorithm.adapt(clusters(1, 0, ways=4).support)
