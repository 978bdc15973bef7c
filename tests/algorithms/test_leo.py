"""Latent embedding optimization against loops over tasks, classes and pairs, and against finite differences."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from metalearn.algorithms.leo import _LEAST, LEO
from metalearn.backbones import MLP
from metalearn.engine.gradient import meta_gradient
from metalearn.nn.hashed_numbers import content_key, hash_32, normals
from metalearn.tasks import Examples, TaskBatch
from tests.algorithms.one_task_at_a_time import shake

WAYS, SHOTS, QUERIES, TASKS, LATENTS, DIM = 3, 2, 4, 3, 5, 6
SHAPE = (1, 3, 3)


def random_tasks() -> TaskBatch:
    generator = torch.Generator().manual_seed(0)

    def examples(each: int) -> Examples:
        x = torch.rand(TASKS, WAYS * each, *SHAPE, generator=generator, dtype=torch.float64)
        return Examples(x, torch.arange(WAYS).repeat_interleave(each).expand(TASKS, -1), WAYS)

    return TaskBatch(examples(SHOTS), examples(QUERIES), torch.zeros(TASKS, WAYS, dtype=torch.int64))


def leo(**changed: Any) -> LEO:
    torch.manual_seed(1)
    settings: dict[str, Any] = {
        "transform": "l2",
        "latent_steps": 2,
        "latent_lr": 0.7,
        "finetune_steps": 2,
        "finetune_lr": 0.3,
    }
    settings |= {"dropout": 0.0, "kl_weight": 0.3, "encoder_penalty": 0.0, "orthogonality": 0.2, "l2": 0.1}
    algorithm = LEO(MLP(SHAPE, [DIM], "none", False), latents=LATENTS, **(settings | changed)).double()
    shake([algorithm.latent_rates, algorithm.finetune_rates])
    return algorithm


def deviation(spread: Tensor, start: float) -> Tensor:
    return start * (1 + spread.exp()).log() / torch.tensor(2.0).log() + _LEAST


def features_of(algorithm: LEO, x: Tensor) -> Tensor:
    features = algorithm.backbone(x)
    return features / (features**2).sum(1, keepdim=True).sqrt()


def codes_of(algorithm: LEO, support: Examples, task: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [N, L] of one task's codes, pair by pair."""
    latents = [algorithm.encoder(feature) for feature in features_of(algorithm, support.x[task])]
    spread_by_class: list[list[Tensor]] = [[] for _ in range(WAYS)]
    for one, label in zip(latents, support.y[task].tolist(), strict=True):
        spread_by_class[label] += [algorithm.relation(torch.cat([one, other])) for other in latents]
    numbers = torch.stack([torch.stack(of_class).mean(0) for of_class in spread_by_class])  # [N, 2 L]
    return numbers[:, :LATENTS], deviation(numbers[:, LATENTS:], 0.1)


def adapted_by_hand(algorithm: LEO, support: Examples, task: int, noise: bool) -> Tensor:
    """Class weights [N, D] of one task; with noise, as training draws it in outer step 0."""
    features = features_of(algorithm, support.x[task])
    seed = content_key(support.x)[task : task + 1] ^ hash_32(torch.tensor(0))

    def drawn(mean: Tensor, spread: Tensor, draw: int) -> Tensor:
        return mean + noise * spread * normals(seed, mean.numel(), draw).view_as(mean)

    def decoded(z: Tensor, draw: int) -> Tensor:
        mean, spread = algorithm.decoder(z).split(DIM, dim=1)
        return drawn(mean, deviation(spread, (2 / (WAYS + DIM)) ** 0.5), draw)

    def slope(weights: Tensor, of: Tensor) -> Tensor:
        loss = F.cross_entropy(features @ weights.T, support.y[task])
        return torch.autograd.grad(loss, of, create_graph=True)[0]

    z = drawn(*codes_of(algorithm, support, task), 0)
    weights = decoded(z, 1)
    for step in (1, 2):
        z = z - algorithm.latent_rates * slope(weights, z)
        weights = decoded(z, 3 * step + 1)
    for _ in range(2):
        weights = weights - algorithm.finetune_rates * slope(weights, weights)
    return weights


@pytest.mark.parametrize("training", [False, True])
def test_adaptation_is_that_of_a_loop_over_tasks_and_pairs(training: bool) -> None:
    algorithm, tasks = leo().train(training), random_tasks()
    weights = algorithm.adapt(tasks.support)
    for task in range(TASKS):
        torch.testing.assert_close(weights[task], adapted_by_hand(algorithm, tasks.support, task, training))
    assert weights.requires_grad is training
    states = list(algorithm.adapt_stepwise(tasks.support))
    assert len(states) == 5
    assert all(not torch.allclose(a, b, atol=1e-4) for a, b in itertools.pairwise(states))
    outputs = algorithm.predict(weights, tasks.query.x)
    torch.testing.assert_close(outputs[1], features_of(algorithm, tasks.query.x[1]) @ weights[1].T)


def test_the_loss_is_that_of_the_queries_and_the_weighted_penalties() -> None:
    algorithm, tasks = leo(encoder_penalty=0.4).train(), random_tasks()
    layers = [algorithm.encoder, *algorithm.relation[::2], algorithm.decoder]
    rows = F.normalize(algorithm.decoder.weight.T, dim=1)
    apart = [[(rows[i] @ rows[j] - float(i == j)) ** 2 for j in range(LATENTS)] for i in range(LATENTS)]
    penalty = 0.1 / 2 * sum((layer.weight**2).sum() for layer in layers) + 0.2 * sum(map(sum, apart)) / LATENTS**2
    losses, features = algorithm.meta_loss(tasks).loss, algorithm.features(tasks.support.x)
    codes = algorithm._codes(features, tasks.support)
    *_, last = algorithm._descend(features, tasks.support, algorithm._seeds(tasks.support), codes)
    for task in range(TASKS):
        weights = adapted_by_hand(algorithm, tasks.support, task, noise=True)
        queries = F.cross_entropy(features_of(algorithm, tasks.query.x[task]) @ weights.T, tasks.query.y[task])
        kl = kl_divergence(Normal(*codes_of(algorithm, tasks.support, task)), Normal(0.0, 1.0)).mean()
        moved = F.mse_loss(last.codes[task], last.first[task])
        torch.testing.assert_close(losses[task], queries + 0.3 * kl + 0.4 * moved + penalty)
        assert float(moved.detach()) > 1e-4


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_meta_gradient_equals_finite_differences(dropout: float) -> None:
    """Through the inner steps, their learned sizes, and what was drawn: that does not change with the parameters."""
    algorithm, tasks = leo(dropout=dropout).train(), random_tasks()
    meta_gradient(algorithm, tasks, TASKS, "fp32")
    for name, parameter in algorithm.named_parameters():
        assert parameter.grad is not None
        flat, slopes = parameter.data.view(-1), parameter.grad.reshape(-1)
        for i in range(0, flat.numel(), max(1, flat.numel() // 3)):
            before, values = float(flat[i]), []
            for sign in (1, -1):
                flat[i] = before + sign * 1e-5
                values.append(float(algorithm.meta_loss(tasks).loss.detach().mean()))
            flat[i] = before
            assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(slopes[i]), abs=1e-8, rel=1e-5), name


def test_the_encoder_penalty_moves_the_first_codes_towards_the_last_alone() -> None:
    tasks, gradients = random_tasks(), []
    for weight in (0.0, 1.0):
        algorithm = leo(encoder_penalty=weight).train()
        meta_gradient(algorithm, tasks, TASKS, "fp32")
        gradients.append({name: parameter.grad for name, parameter in algorithm.named_parameters()})
    same = {name for name in gradients[0] if torch.allclose(gradients[0][name], gradients[1][name])}  # type: ignore[arg-type]
    assert same == {"decoder.weight", "latent_rates", "finetune_rates"}


def test_what_is_drawn_belongs_to_task_and_outer_step_and_evaluation_draws_nothing() -> None:
    algorithm, tasks = leo(dropout=0.3).train(), random_tasks()

    def weights() -> Tensor:
        return algorithm.adapt(tasks.support).detach()

    first = weights()
    assert torch.equal(first, weights())
    algorithm.outer_step = 1
    assert float((weights() - first).abs().min()) > 0
    algorithm.eval()
    calm = weights()
    algorithm.outer_step = 2
    assert torch.equal(calm, weights())
    torch.testing.assert_close(calm[0], adapted_by_hand(algorithm, tasks.support, 0, noise=False))
