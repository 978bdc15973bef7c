"""ANIL against learn2learn's own loop: its MAML around the head, features from a shared backbone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metalearn.algorithms.anil import ANIL
from metalearn.backbones import Backbone
from metalearn.errors import UserError
from metalearn.nn.l2l import learn2learn
from metalearn.tasks import TaskBatch
from tests.algorithms.one_task_at_a_time import (
    QUERIES,
    TASKS,
    assert_equal,
    backbone,
    gradient_of,
    gradients,
    random_tasks,
)

SUPPORT = 6  # examples of a task's support set


def anil(kind: str = "conv", steps: int = 2, first_order: bool = False, running_stats: bool = False) -> ANIL:
    return ANIL(
        backbone(kind, running_stats),
        3,
        inner_lr=0.4,
        inner_steps=steps,
        test_inner_steps=steps + 1,
        first_order=first_order,
    ).double()


def example_of_learn2learn(algorithm: ANIL, tasks: TaskBatch, together: bool) -> tuple[float, list[Tensor]]:
    """One task at a time; `together`, as in the example, or else one set at a time through the backbone."""
    features = copy.deepcopy(algorithm.backbone)
    head = learn2learn().algorithms.MAML(
        copy.deepcopy(algorithm.classifier().head),
        lr=algorithm.learner.lr,
        first_order=algorithm.learner.first_order,
    )
    total = torch.zeros((), dtype=torch.float64)
    for task in range(tasks.tasks):
        sets = (tasks.support.x[task], tasks.query.x[task])
        support, query = (
            features(torch.cat(sets)).split([SUPPORT, len(sets[1])]) if together else (features(x) for x in sets)
        )
        learner = head.clone()
        for _ in range(algorithm.inner_steps):
            learner.adapt(F.cross_entropy(learner(support), tasks.support.y[task]))
        total = total + F.cross_entropy(learner(query), tasks.query.y[task])
    (total / tasks.tasks).backward()  # type: ignore[no-untyped-call]
    parameters = [*head.parameters(), *features.parameters()]
    return float(total.detach()) / tasks.tasks, [gradient_of(parameter) for parameter in parameters]


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", ["conv", "mlp"])
@pytest.mark.parametrize("task_chunk", [1, TASKS])
def test_equals_learn2learns_own_loop(kind: str, first_order: bool, task_chunk: int) -> None:
    tasks, algorithm = random_tasks(), anil(kind, first_order=first_order)
    theirs = example_of_learn2learn(algorithm, tasks, together=False)
    assert_equal(gradients(algorithm, tasks, task_chunk), theirs)


@pytest.mark.parametrize("task_chunk", [1, TASKS])
def test_with_running_statistics_both_sets_pass_together_as_in_learn2learns_example(task_chunk: int) -> None:
    tasks, algorithm = random_tasks(), anil(running_stats=True)
    features = copy.deepcopy(algorithm.backbone)
    for task in range(TASKS):
        features(torch.cat([tasks.support.x[task], tasks.query.x[task]]))
    theirs = example_of_learn2learn(algorithm, tasks, together=True)
    assert_equal(gradients(algorithm, tasks, task_chunk), theirs)
    for (name, ours), expected in zip(algorithm.backbone.named_buffers(), features.buffers(), strict=True):
        torch.testing.assert_close(ours, expected, msg=name)


def test_with_running_statistics_each_query_stands_alone() -> None:
    tasks, algorithm = random_tasks(), anil(running_stats=True)
    gradients(algorithm, tasks, TASKS)
    algorithm.eval()
    assert not algorithm.transductive
    algorithm.set_transductive(False)
    with pytest.raises(UserError, match=r"eval\.transductive=true"):
        algorithm.set_transductive(True)
    adapted = algorithm.adapt(tasks.support)
    whole = algorithm.predict(adapted, tasks.query.x)
    torch.testing.assert_close(algorithm.predict(adapted, tasks.query.x[:, 3:4]), whole[:, 3:4])
    features = algorithm.backbone(tasks.query.x[1])
    by_hand = F.linear(features, adapted.parameters["head.weight"][1], adapted.parameters["head.bias"][1])
    torch.testing.assert_close(whole[1], by_hand)


def test_only_the_head_is_adapted_and_images_pass_the_backbone_once() -> None:
    tasks, algorithm = random_tasks(), anil(steps=5)
    before = copy.deepcopy(algorithm.state_dict())
    seen = []
    algorithm.backbone.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    adapted = algorithm.adapt(tasks.support)
    assert seen == [SUPPORT] * TASKS
    assert set(adapted.parameters) == {"head.weight", "head.bias"}
    for name, parameter in adapted.parameters.items():
        start = dict(algorithm.classifier().named_parameters())[name]
        assert all(not torch.equal(of_task, start) for of_task in parameter)
    assert all(torch.equal(before[name], value) for name, value in algorithm.state_dict().items())


def test_first_order_differs_from_second() -> None:
    _, second = gradients(anil("mlp"), random_tasks(), TASKS)
    _, first = gradients(anil("mlp", first_order=True), random_tasks(), TASKS)
    assert max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True)) > 1e-3


def test_evaluation_takes_its_own_number_of_steps_and_keeps_no_graph() -> None:
    tasks, algorithm = random_tasks(), anil(steps=2)
    assert len(list(algorithm.train().adapt_stepwise(tasks.support))) == 3
    with torch.no_grad():
        states = list(algorithm.eval().adapt_stepwise(tasks.support))
        logits = algorithm.predict(states[-1], tasks.query.x)
    assert len(states) == 4
    assert not any(parameter.requires_grad for state in states for parameter in state.parameters.values())
    assert not logits.requires_grad


def test_without_transduction_a_query_sees_only_the_support_set() -> None:
    tasks, algorithm = random_tasks(), anil().eval()
    assert algorithm.transductive
    adapted = algorithm.adapt(tasks.support)
    together = algorithm.predict(adapted, tasks.query.x)
    algorithm.set_transductive(False)
    assert not algorithm.transductive
    whole = algorithm.predict(adapted, tasks.query.x)
    assert not torch.allclose(together, whole, atol=1e-3)
    torch.testing.assert_close(algorithm.predict(adapted, tasks.query.x[:, :1]), whole[:, :1])
    # By hand: the query as the last of a batch that is otherwise the support set.
    task, query = 1, 5
    features = by_hand_features(algorithm.backbone, tasks, task, query)
    by_hand = F.linear(features, adapted.parameters["head.weight"][task], adapted.parameters["head.bias"][task])
    torch.testing.assert_close(whole[task, query], by_hand)


def by_hand_features(features: Backbone, tasks: TaskBatch, task: int, query: int) -> Tensor:
    batch = torch.cat([tasks.support.x[task], tasks.query.x[task, query : query + 1]])
    last: Tensor = features(batch)[-1]
    return last


def test_other_numbers_of_ways_start_from_the_mean_row() -> None:
    tasks, algorithm = random_tasks(ways=7), anil().eval()
    states = list(algorithm.adapt_stepwise(tasks.support))
    before, after = (algorithm.predict(state, tasks.query.x) for state in (states[0], states[-1]))
    assert after.shape == (TASKS, 7 * QUERIES, 7)
    torch.testing.assert_close(before, before[..., :1].expand_as(before))
    assert not torch.allclose(after, after[..., :1].expand_as(after), atol=1e-2)
