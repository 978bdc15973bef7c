"""Neural processes: the evidence lower bound by torch's distributions, the average over values of the latent variable."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from metalearn.algorithms.embedding import task_keys
from metalearn.algorithms.functions import Belief
from metalearn.algorithms.neural_process import NeuralProcess
from metalearn.backbones import Pixels
from metalearn.nn.hashed_numbers import standard_normal
from metalearn.tasks import TaskShape, VaryingPoints
from tests.algorithms.function_tasks import SHAPE, VARYING, chunk, in_another_order, learned, predicted


def small(samples: int = 3) -> NeuralProcess:
    torch.manual_seed(0)
    return NeuralProcess(
        Pixels((1,)), ways=1, width=16, latent=4, encoder_layers=2, decoder_layers=2, samples=samples, min_std=0.05
    )


@pytest.mark.parametrize("shape", [SHAPE, VARYING])
def test_the_loss_is_the_bound_for_each_target_task_by_task(shape: TaskShape | VaryingPoints) -> None:
    algorithm, tasks = small().train(), chunk(shape)
    outcome = algorithm.meta_loss(tasks)
    for t, task in enumerate(tasks.chunks(1)):
        every_x, every_y = (torch.cat([getattr(task.support, of)[0], getattr(task.query, of)[0]]) for of in ("x", "y"))
        beliefs = []
        for x, y in ((every_x, every_y), (task.support.x[0], task.support.y[0])):
            mean, raw = algorithm.latent.network(algorithm.encoder(torch.cat([x, y], 1)).mean(0)).chunk(2)
            beliefs.append(Normal(mean, 0.1 + 0.9 * torch.sigmoid(raw)))
        after, before = beliefs
        z = after.mean + after.stddev * standard_normal(task_keys(task.support), 4)[0]
        mean, raw = algorithm.decoder.network(torch.cat([every_x, z.expand(len(every_x), -1)], 1)).chunk(2, 1)
        std = 0.05 + 0.95 * torch.nn.functional.softplus(raw)
        bound = Normal(mean, std).log_prob(every_y).sum() - kl_divergence(after, before).sum()  # eq. 9
        torch.testing.assert_close(outcome.loss[t], -bound / len(every_x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(outcome.metrics["divergence"][t], kl_divergence(after, before).sum().detach())


@torch.no_grad()
def test_a_test_averages_over_values_of_the_latent_variable() -> None:
    algorithm, tasks = small(samples=5), chunk(SHAPE)
    belief = algorithm.adapt(tasks.support)
    found = algorithm.predict_distribution(belief, tasks.query.x)
    assert found.means.shape == (5, 3, 4, 1)
    alone = []
    for normal in algorithm.normal:
        z = belief.mean + belief.std * normal  # [T, Z]
        known = torch.cat([tasks.query.x, z.unsqueeze(1).expand(-1, 4, -1)], -1)
        alone.append(algorithm.decoder.network(known)[..., :1])
    torch.testing.assert_close(algorithm.predict(belief, tasks.query.x), torch.stack(alone).mean(0))
    assert float((alone[0] - alone[1]).abs().max()) > 1e-4, "the values differ"
    # The number of values is not part of what a checkpoint holds: any number can be tested.
    assert "normal" not in algorithm.state_dict()
    small(samples=7).load_state_dict(algorithm.state_dict())


def test_what_is_drawn_has_the_distribution_that_is_believed() -> None:
    belief = Belief(torch.tensor([[2.0]]).expand(20_000, 1), torch.tensor([[0.5]]).expand(20_000, 1))
    values = belief.drawn(torch.arange(20_000))
    assert float(values.mean()) == pytest.approx(2, abs=0.02)
    assert float(values.std()) == pytest.approx(0.5, abs=0.02)


def test_the_order_of_the_support_points_means_nothing() -> None:
    algorithm, tasks = small(), chunk(SHAPE)
    one, other = (
        predicted(algorithm, support, tasks.query.x) for support in (tasks.support, in_another_order(tasks.support))
    )
    torch.testing.assert_close(one, other)


def test_it_learns_to_read_waves_from_their_points() -> None:
    scores = learned("np", "algorithm.width=64", "algorithm.latent=32", steps=60)
    assert scores.mse < 0.85 * scores.mse_of_another
    assert scores.nll < scores.nll_of_another - 0.3
