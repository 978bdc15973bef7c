"""Attentive neural processes: the formulas task by task with torch's attention, and that near points count more."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from metalearn.algorithms.anp import ANP
from metalearn.algorithms.embedding import task_keys
from metalearn.backbones import Pixels
from metalearn.errors import UserError
from metalearn.nn.hashed_numbers import standard_normal
from metalearn.tasks import TaskShape, VaryingPoints
from tests.algorithms.function_tasks import SHAPE, VARYING, chunk, in_another_order, learned, predicted
from tests.nn.test_attention import torchs


def small(self_layers: int = 0, heads: int = 2) -> ANP:
    torch.manual_seed(0)
    return ANP(
        Pixels((1,)),
        ways=1,
        width=16,
        latent=4,
        encoder_layers=2,
        decoder_layers=2,
        self_layers=self_layers,
        heads=heads,
        samples=3,
        min_std=0.05,
    )


@pytest.mark.parametrize("shape", [SHAPE, VARYING])
def test_the_loss_is_the_bound_for_each_target_task_by_task(shape: TaskShape | VaryingPoints) -> None:
    algorithm, tasks = small().train(), chunk(shape)
    losses = algorithm.meta_loss(tasks).loss
    for t, task in enumerate(tasks.chunks(1)):
        support_x, support_y = task.support.x[0], task.support.y[0]
        x, y = (torch.cat([getattr(task.support, of)[0], getattr(task.query, of)[0]]) for of in ("x", "y"))
        codes = algorithm.encoder.network(torch.cat([support_x, support_y], 1))
        near, _ = torchs(algorithm.cross, 16)(algorithm.key(x)[None], algorithm.key(support_x)[None], codes[None])
        beliefs = []
        for of_x, of_y in ((x, y), (support_x, support_y)):
            summary = algorithm.latent_encoder.network(torch.cat([of_x, of_y], 1)).mean(0)
            mean, raw = algorithm.latent.network(summary).chunk(2)
            beliefs.append(Normal(mean, 0.1 + 0.9 * torch.sigmoid(raw)))
        after, before = beliefs
        z = after.mean + after.stddev * standard_normal(task_keys(task.support), 4)[0]
        known = torch.cat([x, near[0], z.expand(len(x), -1)], 1)
        mean, raw = algorithm.decoder.network(known).chunk(2, 1)
        likely = Normal(mean, 0.05 + 0.95 * F.softplus(raw)).log_prob(y).sum()
        bound = likely - kl_divergence(after, before).sum()  # eq. 3
        torch.testing.assert_close(losses[t], -bound / len(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("self_layers", [0, 1])
@pytest.mark.parametrize("shape", [SHAPE, VARYING])
def test_the_order_of_the_support_points_means_nothing_and_padding_is_not_read(
    self_layers: int, shape: TaskShape | VaryingPoints
) -> None:
    algorithm, tasks = small(self_layers), chunk(shape)
    one = predicted(algorithm, tasks.support, tasks.query.x)
    for t, task in enumerate(tasks.chunks(1)):
        for support in (task.support, in_another_order(task.support)):
            mean, std = predicted(algorithm, support, task.query.x)
            torch.testing.assert_close(mean[0], one[0][t], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(std[0], one[1][t], atol=1e-5, rtol=1e-4)


def test_support_points_attend_to_each_other_only_where_that_is_asked() -> None:
    """What a point is encoded by changes with another point only with self-attention."""
    support = chunk(SHAPE, tasks=1).support
    other = support._replace(y=torch.cat([support.y[:, :1] + 1, support.y[:, 1:]], 1))
    for self_layers, depends in ((0, False), (1, True)):
        algorithm = small(self_layers)
        codes = [algorithm.adapt(one).codes[0, 1:] for one in (support, other)]
        assert torch.allclose(*codes) is not depends


def test_the_width_is_a_multiple_of_the_heads() -> None:
    with pytest.raises(UserError, match=r"^algorithm.width=16 is no multiple of algorithm.heads=3$"):
        small(heads=3)


def test_it_learns_to_read_waves_from_their_points() -> None:
    scores = learned("anp", "algorithm.width=64", "algorithm.latent=16", steps=60)
    assert scores.mse < 0.4 * scores.mse_of_another
    assert scores.nll < scores.nll_of_another - 1
