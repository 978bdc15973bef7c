"""Conditional neural processes: the formulas task by task, and that they learn from the support points."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from metalearn.algorithms.cnp import CNP
from metalearn.backbones import Pixels
from metalearn.tasks import TaskShape, VaryingPoints
from tests.algorithms.function_tasks import SHAPE, VARYING, chunk, in_another_order, learned, predicted


def small() -> CNP:
    torch.manual_seed(0)
    return CNP(Pixels((1,)), ways=1, width=16, encoder_layers=3, decoder_layers=2, min_std=0.05)


@pytest.mark.parametrize("shape", [SHAPE, VARYING])
def test_it_is_the_paper_s_formula_task_by_task(shape: TaskShape | VaryingPoints) -> None:
    algorithm, tasks = small(), chunk(shape)
    mean, std = predicted(algorithm, tasks.support, tasks.query.x)
    losses = algorithm.train().meta_loss(tasks).loss
    for t, task in enumerate(tasks.chunks(1)):
        codes = [
            algorithm.encoder(torch.cat([x, y])) for x, y in zip(task.support.x[0], task.support.y[0], strict=True)
        ]
        r = sum(codes) / len(codes)  # eq. 1 and 2
        every_x, every_y = (torch.cat([getattr(task.support, of)[0], getattr(task.query, of)[0]]) for of in ("x", "y"))
        nll = []
        for n, (x, y) in enumerate(zip(every_x, every_y, strict=True)):
            m, raw = algorithm.decoder.network(torch.cat([x, r])).tolist()  # eq. 3
            s = 0.05 + 0.95 * float(F.softplus(torch.tensor(raw)))
            nll.append(-stats.norm.logpdf(float(y), m, s))
            if n >= task.support.x.shape[1]:
                place = n - task.support.x.shape[1]
                assert float(mean[t, place]) == pytest.approx(m, abs=1e-5)
                assert float(std[t, place]) == pytest.approx(s, rel=1e-5)
        assert float(losses[t].detach()) == pytest.approx(sum(nll) / len(nll), rel=1e-4)  # eq. 4


def test_the_order_of_the_support_points_means_nothing() -> None:
    algorithm, tasks = small(), chunk(SHAPE)
    one, other = (
        predicted(algorithm, support, tasks.query.x) for support in (tasks.support, in_another_order(tasks.support))
    )
    torch.testing.assert_close(one, other)
    nearer = tasks.support._replace(y=tasks.support.y + 1)
    assert not torch.allclose(predicted(algorithm, nearer, tasks.query.x)[0], one[0])


def test_no_deviation_is_below_the_bound() -> None:
    algorithm = small()
    algorithm.decoder.network[-1].bias.data[1] = -100.0
    _, std = predicted(algorithm, chunk(SHAPE).support, chunk(SHAPE).query.x)
    torch.testing.assert_close(std, torch.full_like(std, 0.05))


def test_it_learns_to_read_waves_from_their_points() -> None:
    scores = learned("cnp", "algorithm.width=64", steps=60)
    assert scores.mse < 0.85 * scores.mse_of_another
    assert scores.nll < scores.nll_of_another - 0.3
