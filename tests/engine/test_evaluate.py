"""Evaluation: the same tasks for everybody, the right interval, and no class that was trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.algorithms.protonet import ProtoNet
from metalearn.data.base import TaskSource
from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_algorithm
from metalearn.engine.evaluate import Scores, evaluate, scored_states
from metalearn.intervals import interval95
from metalearn.runs import record as records
from metalearn.tasks import TaskBatch, TaskShape
from metalearn.testing import _check_two_steps
from tests.compose import SMALL, compose

TASK = TaskShape(5, 1, 5)


def record_of(algorithm: Algorithm, scores: Scores, checkpoint: str) -> dict[str, Any]:
    """The `test` entry of results.json."""
    transductive = algorithm.transductive
    return records.TestRecord.of(scores, transductive=transductive, checkpoint=checkpoint, step=1).to_json()


@pytest.mark.parametrize("name", ["protonet", "maml"])
def test_the_result_does_not_depend_on_the_chunk(
    name: str, easy: ImageClasses, source: Callable[..., TaskSource]
) -> None:
    algorithm = build_algorithm(compose(f"algorithm={name}", *SMALL), easy)
    whole, cut = (evaluate(algorithm, source("test"), TASK, 10, size, stepwise=True) for size in (10, 3))
    torch.testing.assert_close(whole.loss, cut.loss, atol=1e-4, rtol=1e-4)
    assert (whole.score - cut.score).abs().mean() < 0.01


def test_steps_are_recorded_where_there_are_steps(easy: ImageClasses, source: Callable[..., TaskSource]) -> None:
    maml = build_algorithm(compose("algorithm=maml", *SMALL), easy)
    record = record_of(maml, evaluate(maml, source("test"), TASK, 10, 5, stepwise=True), "best")
    assert record["adapt_steps"] == 3
    assert len(record["per_step"]) == 4
    assert record["per_step"][0] == record["accuracy_before"]
    assert record["per_step"][-1] == pytest.approx(record["accuracy"])
    assert record["transductive"] is True
    protonet = build_algorithm(compose("algorithm=protonet", *SMALL), easy)
    record = record_of(protonet, evaluate(protonet, source("test"), TASK, 10, 5, stepwise=True), "last")
    assert "per_step" not in record
    assert "accuracy_before" not in record
    assert (record["adapt_steps"], record["transductive"], record["checkpoint"]) == (0, False, "last")


def test_of_many_inner_steps_the_telling_ones_are_scored(easy: ImageClasses, source: Callable[..., TaskSource]) -> None:
    assert [step for step, _ in scored_states(iter("abcd"))] == [0, 1, 2, 3]
    assert list(scored_states(iter(range(28)))) == [(i, i) for i in (*range(11), 20, 27)]
    algorithm = build_algorithm(compose("algorithm=reptile", "algorithm.test_inner_steps=22", *SMALL), easy)
    scores = evaluate(algorithm, source("test"), TASK, 6, 4, stepwise=True)
    record = record_of(algorithm, scores, "best")
    assert (record["scored_steps"], record["adapt_steps"]) == ([*range(11), 20, 22], 22)
    end = evaluate(algorithm, source("test"), TASK, 6, 4, stepwise=False)
    assert torch.equal(scores.score[-1], end.score[-1])


def test_before_adaptation_a_learner_is_at_chance(easy: ImageClasses, source: Callable[..., TaskSource]) -> None:
    """Far above it would mean that labels leak."""
    algorithm = build_algorithm(compose("algorithm=maml", "algorithm.test_inner_steps=1", *SMALL), easy)
    scores = evaluate(algorithm, source("test"), TASK, 200, 50, stepwise=True)
    assert float(scores.score[0].mean()) == pytest.approx(0.2, abs=0.03)


def test_what_else_the_paper_reports_is_scored_for_every_task(
    easy: ImageClasses, source: Callable[..., TaskSource]
) -> None:
    class Reporting(ProtoNet):
        def further_scores(self, tasks: TaskBatch) -> dict[str, Tensor]:
            return {"first_label": tasks.support.y[:, 0] + tasks.classes[:, 0] * 1.0}

    backbone = build_algorithm(compose("algorithm=protonet", *SMALL), easy).get_submodule("backbone")
    algorithm = Reporting(backbone)  # type: ignore[arg-type]
    scores = evaluate(algorithm, source("test"), TASK, 7, 3, stepwise=True)
    expected = source("test").tasks(0, 7, TaskShape(5, 1, 5)).classes[:, 0].float()
    assert torch.equal(scores.further["first_label"], expected)
    entry = record_of(algorithm, scores, "best")["further"]["first_label"]
    assert (entry["mean"], entry["ci95"]) == pytest.approx((float(expected.mean()), interval95(expected)))
    assert evaluate(algorithm, source("test"), TASK, 7, 3, stepwise=False).further == {}
    asked = evaluate(algorithm, source("test"), TASK, 7, 3, stepwise=False, further=True)
    assert torch.equal(asked.further["first_label"], expected)


@pytest.mark.parametrize("name", ["protonet", "matching", "siamese", "relation", "pretrain", "baseline", "mann"])
def test_each_example_is_embedded_once_where_learners_embed_it_by_itself(name: str, easy: ImageClasses) -> None:
    algorithm = build_algorithm(compose(f"algorithm={name}", *SMALL), easy)
    source, shape = easy.source("test", 0, torch.device("cpu")), TaskShape(3, 1, 5)
    embedded = []
    hook = algorithm.backbone.register_forward_hook(lambda module, args, out: embedded.append(len(out)))
    fast = evaluate(algorithm, source, shape, 40, 20, stepwise=True)
    assert sum(embedded) <= source.examples == 160 < 40 * 3 * 6
    embedded.clear()
    few = evaluate(algorithm, source, shape, 2, 20, stepwise=True)
    assert sum(embedded) <= 2 * 3 * 6, "only what the tasks have"
    torch.testing.assert_close(few.loss, fast.loss[:2], atol=1e-4, rtol=1e-4)
    embedded.clear()
    slow = evaluate(algorithm, source, shape, 40, 20, stepwise=True, features="none")
    assert sum(embedded) >= 40 * 3 * 6
    hook.remove()
    torch.testing.assert_close(fast.loss, slow.loss, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fast.score, slow.score, atol=0.1, rtol=0)
    assert fast.further.keys() == slow.further.keys()


def test_examples_that_influence_each_other_are_embedded_with_their_task(easy: ImageClasses) -> None:
    for overrides, apart in ((("algorithm=maml",), False), (("backbone.running_stats=false",), False), ((), True)):
        algorithm = build_algorithm(compose(*overrides, *SMALL), easy)
        assert (algorithm.in_two_steps() is not None) is apart


def test_a_learner_that_looks_past_its_embeddings_is_found_out(
    easy: ImageClasses, source: Callable[..., TaskSource]
) -> None:
    class Brighter(ProtoNet):
        def predict(self, adapted: Tensor, query_x: Tensor) -> Tensor:
            return super().predict(adapted, query_x) + query_x.flatten(2).mean(-1, keepdim=True) * torch.arange(5)

    backbone = build_algorithm(compose("algorithm=protonet", *SMALL), easy).get_submodule("backbone")
    tasks = source("test").tasks(0, 2, TASK)
    _check_two_steps(ProtoNet(backbone), tasks)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="other answers than the whole"):
        _check_two_steps(Brighter(backbone), tasks)  # type: ignore[arg-type]
