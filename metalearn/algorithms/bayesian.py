"""Bayesian linear regression on meta-learned features: ALPaCA (Harrison, Sharma and Pavone 2018, https://arxiv.org/abs/1807.08912).

The last layer of a network has a normal prior, whose posterior after the support points is known in closed form. The outer loop learns the
features, the mean and the precision of the prior, and the noise, by the likelihood of the queries under the posterior.

With features Phi [K, D] of a task's support points, outputs Y [K, O], a prior with mean M and precision P, both up to the noise of each output:

    P' = Phi^T Phi + P                    the precision of the posterior
    M' = P'^-1 (Phi^T Y + P M)            its mean
    y(x) ~ N(M'^T phi, s^2 (1 + phi^T P'^-1 phi))      with phi = phi(x), s the standard deviation of the noise

The authors' code (github.com/StanfordASL/ALPaCA) computes the same.

Departures: the noise is learned; there it is given. A training task has the support points that the task asks for (`task=varying_regression` draws
their number, as there).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.functions import FunctionLearner, Points
from metalearn.algorithms.transform import exact
from metalearn.backbones import Backbone
from metalearn.nn.normals import Normals
from metalearn.tasks import Examples, TaskBatch


class Posterior(NamedTuple):
    """The last layers of T tasks."""

    mean: Tensor  # M' [T, D, O]
    root: Tensor  # [T, D, D], lower triangular, root root^T = P'


class Bayesian(FunctionLearner):
    """Predicts by the posterior of the last layer.

    Args:
        backbone: [n, ...] -> [n, D].
        ways: output numbers.
        precision: of the prior of each weight before training, in units of 1 / noise^2: its standard deviation is noise / sqrt(precision).
        noise: standard deviation of the noise before training, in units of y.
    """

    def __init__(self, backbone: Backbone, ways: int, precision: float, noise: float) -> None:
        super().__init__(backbone)
        dim = backbone.feature_dim
        self.prior_mean = nn.Parameter(torch.zeros(dim, ways))  # M
        # P = L L^T, with the logarithm of L's diagonal, so that P stays positive definite; of the other part what is below the diagonal counts.
        self.log_diagonal = nn.Parameter(torch.full((dim,), 0.5 * math.log(precision)))
        self.below = nn.Parameter(torch.zeros(dim, dim))
        self.log_noise = nn.Parameter(torch.full((ways,), math.log(noise)))

    def adapt(self, support: Examples) -> Posterior:
        return self._posterior(self.points(support))

    def predict_distribution(self, adapted: Posterior, query_x: Tensor) -> Normals:
        return self._predicted(adapted, self.embed(query_x))

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        support, query = self.points_together(tasks)
        found = self._predicted(self._posterior(support), query.x)
        loss = self.likelihood_loss(found, query, tasks)
        noise = self.log_noise.detach().exp().mean().expand_as(loss.loss)
        return loss._replace(metrics={**loss.metrics, "noise": noise})

    @property
    def repeats(self) -> bool:
        return False  # whether a matrix is positive definite is checked on the host

    def _posterior(self, support: Points) -> Posterior:
        # Padding is a row of zeros, which has no part in the sums.
        x = support.x if support.mask is None else support.x.where(support.mask.unsqueeze(-1), 0)
        with exact(x) as phi:
            root = self.below.tril(-1) + self.log_diagonal.exp().diag()  # L
            prior = root @ root.mT  # P
            precision = phi.mT @ phi + prior
            root = torch.linalg.cholesky(precision)
            mean = torch.cholesky_solve(phi.mT @ support.y.to(phi) + prior @ self.prior_mean, root)
        return Posterior(mean, root)

    def _predicted(self, posterior: Posterior, x: Tensor) -> Normals:
        with exact(x) as phi:
            spread = torch.linalg.solve_triangular(posterior.root, phi.mT, upper=False)  # [T, D, n]
            growth = (1 + spread.square().sum(1)).sqrt().unsqueeze(-1)  # [T, n, 1]
            return Normals.one(phi @ posterior.mean, growth * self.log_noise.exp())
