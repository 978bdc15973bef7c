"""Temperature, prediction sets and their guarantee, on answers whose law is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from metalearn.data.base import TaskSource
from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_algorithm
from metalearn.engine.evaluate import evaluate
from metalearn.engine.reliability import Reliability
from metalearn.kinds import cross_entropy
from metalearn.runs.calibration import (
    Answers,
    Calibration,
    calibrated,
    fitted_temperature,
    in_set,
    label_scores,
    probabilities,
    threshold,
)
from metalearn.tasks import Examples, TaskBatch, TaskShape
from tests.compose import SMALL, compose


def answers(tasks: int, seed: int, queries: int = 6, ways: int = 4, sharpness: float = 1.0) -> Answers:
    """Labels drawn from the probabilities of `logits`, which are then multiplied by `sharpness`; tasks are easy or hard as a whole."""
    generator = torch.Generator().manual_seed(seed)
    ease = 4 * torch.rand(tasks, 1, 1, generator=generator)
    logits = ease * torch.randn(tasks, queries, ways, generator=generator)
    y = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(tasks, queries)
    return Answers(logits * sharpness, y)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_logits_were_multiplied_by(sharpness: float) -> None:
    assert fitted_temperature(answers(1000, 0, sharpness=sharpness)) == pytest.approx(sharpness, rel=0.05)


def test_impossible_labels_have_a_finite_loss() -> None:
    found = Answers(torch.tensor([[[0.0, -math.inf], [0.0, -math.inf]]]), torch.tensor([[0, 1]]))
    assert math.isfinite(fitted_temperature(found))
    assert torch.equal(probabilities(found.logits)[0, 0], torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_the_threshold_is_the_order_statistic_of_the_definition() -> None:
    scores = np.arange(1, 20, dtype=float)[:, None] / 100  # 19 tasks of one query
    assert threshold(scores, 0.9) == pytest.approx(0.18)  # ceil(0.9 * 20) = 18
    assert threshold(scores, 0.95) == pytest.approx(0.19)
    assert threshold(scores, 0.96) == math.inf
    both = np.repeat(scores, 2, axis=1)  # ceil(0.9 * 20 * 2) = 36 of 38
    assert threshold(both, 0.9) == pytest.approx(0.18)


def test_sets_keep_their_guarantee_over_draws_of_few_dependent_tasks() -> None:
    """30 calibration tasks of 6 queries that share their difficulty, 400 times: each time, a query of one more task is in its set or not."""
    held = []
    for seed in range(400):
        drawn = answers(31, seed)
        p = drawn.probabilities(1.0)
        scores = label_scores(p, drawn.y)
        limit = threshold(scores[:-1], 0.8)
        held.append(float(scores[-1, 0] <= limit))
    deviation = math.sqrt(0.8 * 0.2 / 400)
    assert 0.8 - 3 * deviation < np.mean(held) < 0.8 + 1 / 31 + 0.03 + 3 * deviation


def test_a_set_is_never_empty_and_grows_with_the_threshold() -> None:
    p = torch.tensor([[0.4, 0.35, 0.25], [0.98, 0.01, 0.01]], dtype=torch.float64)
    assert in_set(p, 0.0).tolist() == [[True, False, False], [True, False, False]]
    assert in_set(p, 0.7).tolist() == [[True, True, False], [True, False, False]]
    assert in_set(p, math.inf).all()


def test_what_is_measured_is_what_was_asked_for() -> None:
    found = calibrated(
        "drawn", (1,) * 4, True, answers(2000, 1, sharpness=3.0), answers(2000, 2, sharpness=3.0), (0.8, 0.9)
    )
    assert found.temperature == pytest.approx(3.0, rel=0.05)
    assert found.after["ece"] < 0.02 < found.before["ece"]
    assert found.after["nll"] < found.before["nll"]
    for coverage in (0.8, 0.9):
        sets = found.at(coverage)
        assert sets is not None
        assert abs(sets.measured - coverage) < 3 * sets.ci95 + 0.01
    assert found.at(0.85) is None
    half = found.abstaining_below(0.5)
    whole = found.abstaining[0]
    assert half is not None
    assert (whole.answered, whole.accuracy) == (1.0, pytest.approx(found.accuracy))
    assert half.answered < 1
    assert half.accuracy is not None
    assert half.accuracy > found.accuracy
    assert Calibration.of_record(found.record()) == found


def test_calibration_numbers_by_hand() -> None:
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    first, second = Reliability.of(p[:1], torch.tensor([0])), Reliability.of(p[1:], torch.tensor([1]))
    found = (first + second).record()
    assert found["nll"] == pytest.approx(-(math.log(0.9) + math.log(0.4)) / 2)
    assert found["brier"] == pytest.approx((0.02 + 0.72) / 2)
    assert found["ece"] == pytest.approx((0.1 + 0.6) / 2)
    assert np.asarray((first + second).bins) == pytest.approx(np.array([[1, 0.6, 0.0], [1, 0.9, 1.0]]))


def test_padding_of_uneven_tasks_counts_for_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, generator=generator)
    logits[1, 3:] = logits[1, :, 2] = 50.0  # padding: the second task has 3 queries and 2 ways
    query = Examples(torch.zeros(2, 4, 1), torch.tensor([[0, 1, 2, 0], [0, 1, 1, 0]]), 3, (4, 3), (3, 2))
    found = Reliability.of_outputs(logits, query)
    alone = Reliability.of(logits[:1].softmax(-1), query.y[:1]) + Reliability.of(
        logits[1:, :3, :2].softmax(-1), query.y[1:, :3]
    )
    assert found.record() == pytest.approx(alone.record())
    assert float(found.counts.sum()) == 7


def test_evaluation_measures_calibration_of_all_queries(easy: ImageClasses, source: Callable[..., TaskSource]) -> None:
    algorithm = build_algorithm(compose("algorithm=protonet", *SMALL), easy)
    logits, labels = [], []

    def answers(batch: TaskBatch, outputs: torch.Tensor) -> None:
        logits.append(outputs)
        labels.append(batch.query.y)

    found = [
        evaluate(
            algorithm, source("val"), TaskShape(5, 1, 3), 8, chunk, False, answers=answers, further=True
        ).calibration
        for chunk in (3, 8)
    ]
    assert found[0] is not None
    assert found[1] is not None
    bins = [one.pop("bins") for one in found if one]
    assert np.asarray(bins[0]) == pytest.approx(np.asarray(bins[1]))
    assert sum(count for count, _, _ in bins[0]) == 8 * 5 * 3
    right = float((logits[-1].softmax(-1).max(-1).indices == labels[-1]).sum())
    assert sum(count * share for count, _, share in bins[0]) == pytest.approx(right)
    assert found[0] == pytest.approx(found[1])
    whole = torch.cat(logits[-1:]), torch.cat(labels[-1:])
    assert found[1]["nll"] == pytest.approx(float(cross_entropy(*whole).mean()), rel=1e-5)
    assert found[1] == pytest.approx(Reliability.of(whole[0].softmax(-1), whole[1]).record(), rel=1e-4)
    assert evaluate(algorithm, source("val"), TaskShape(5, 1, 3), 8, 8, False).calibration is None
