"""Latent embedding optimization (Rusu, Rao, Sygnowski, Vinyals, Pascanu, Osindero and Hadsell 2019, https://arxiv.org/abs/1807.05960).

Every class of a task gets a code z in few dimensions: an encoder makes codes of the support features, a relation network looks at all pairs of them
and gives each class a normal distribution (`codes`). A decoder makes class weights of a code (`_decoded`), with which features are classified
linearly. Features are divided by their length first, as the authors' code does (`transform`). Inner steps move the codes along the gradient of the
support loss (Algorithm 1; `_descend`); fine-tuning steps then move the class weights themselves. All step sizes are learned, one for each number of
a code and of a class's weights. The outer loss is that of the queries plus `kl_weight` times the divergence of the codes' distribution from N(0,
1), `encoder_penalty` times the squared way that the codes move (their end held constant), `orthogonality` times the squared correlations of the
decoder's rows, and `l2` times half the squared weights.

In training, codes and class weights are drawn from their distributions, and features are dropped (`dropout`); what is drawn is a hash of the task's
support set and of the outer step, and no generator is read. In evaluation codes and weights are the means, as in the authors' code
(github.com/google-deepmind/leo): the same task always gets the same classifier.

Departures: the backbone is trained together with the rest where it can be (a frozen one is the paper's protocol); the inner losses are means over
the support set, theirs sums, so that a step size of theirs is N times K as large here for the weights, N times for the codes, which they keep K
times; a class has one code in training too, theirs K draws whose weights are averaged. A standard deviation is start * softplus(s) / log 2 with a
start of 0.1 for codes; theirs is max(exp(s) - 1 + start, 1e-10) with a start of 0, below which s has no gradient, and far above which it overflows
(their code then takes a step that shrinks all weights). For class weights both start at sqrt(2 / (N + D)). The divergence is the exact one, theirs
an estimate from the draw. Their gradients are clipped by value and then by norm, for each variable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.embedding import class_means
from metalearn.algorithms.transform import FeatureLearner, exact
from metalearn.backbones import Backbone
from metalearn.nn.hashed_numbers import content_key, hash_32, normals, uniforms
from metalearn.nn.normals import divergence
from metalearn.tasks import Examples, TaskBatch

_START = 0.1  # standard deviation of a code before training
_LEAST = 1e-10  # of any


class Codes(NamedTuple):
    """The normal distribution of each class's code."""

    mean: Tensor  # [T, N, L]
    deviation: Tensor  # [T, N, L]


class _State(NamedTuple):
    """What adaptation has come to."""

    weights: Tensor  # [T, N, D]
    first: Tensor  # codes before the first inner step, [T, N, L]
    codes: Tensor  # at present


class LEO(FeatureLearner):
    """Makes a linear classifier of features from low-dimensional codes of the classes, which inner steps adapt.

    Args:
        backbone: [n, ...] -> [n, D].
        transform: of features: "none", "l2" or "centred_l2".
        latents: L, numbers in a code.
        latent_steps: inner steps on the codes.
        latent_lr: what their learned step sizes start at, on the mean cross-entropy of the support set.
        finetune_steps: further inner steps, on the class weights.
        finetune_lr: what their learned step sizes start at.
        dropout: share of the features that is dropped in training, before the encoder and before the classifier.
        kl_weight: beta, of the codes' divergence from the standard normal distribution, as a mean over their numbers.
        encoder_penalty: gamma, of the mean squared difference between the first and the last codes.
        orthogonality: lambda_2, of the mean squared difference between the correlations of the decoder's rows and the identity.
        l2: lambda_1, of half the squared weights of encoder, relation network and decoder.
    """

    def __init__(
        self,
        backbone: Backbone,
        transform: str,
        latents: int,
        latent_steps: int,
        latent_lr: float,
        finetune_steps: int,
        finetune_lr: float,
        dropout: float,
        kl_weight: float,
        encoder_penalty: float,
        orthogonality: float,
        l2: float,
    ) -> None:
        super().__init__(backbone, transform)
        dim = backbone.feature_dim
        self.encoder = nn.Linear(dim, latents, bias=False)
        pairs = [nn.Linear(2 * latents, 2 * latents, bias=False) for _ in range(3)]
        self.relation = nn.Sequential(pairs[0], nn.ReLU(), pairs[1], nn.ReLU(), pairs[2])
        self.decoder = nn.Linear(latents, 2 * dim, bias=False)
        for layer in (self.encoder, *pairs, self.decoder):
            nn.init.xavier_uniform_(layer.weight)
        self.latent_rates = nn.Parameter(torch.full((latents,), float(latent_lr)))
        self.finetune_rates = nn.Parameter(torch.full((dim,), float(finetune_lr)))
        self.latent_steps, self.finetune_steps, self.dropout = latent_steps, finetune_steps, dropout
        self.kl_weight, self.encoder_penalty = kl_weight, encoder_penalty
        self.orthogonality, self.l2 = orthogonality, l2

    def adapt(self, support: Examples) -> Tensor:
        """Class weights [T, N, D] after the last step."""
        *_, weights = self.adapt_stepwise(support)
        return weights

    def adapt_stepwise(self, support: Examples) -> Iterator[Tensor]:
        with exact(self.features(support.x)) as features:
            codes = self._codes(features, support)
            # All of them before the first is handed out, which is not to be used without autocast.
            states = [state.weights for state in self._descend(features, support, self._seeds(support), codes)]
        yield from states

    def predict(self, adapted: Tensor, query_x: Tensor) -> Tensor:
        with exact(self.features(query_x)) as features:
            return features @ adapted.mT

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        support, queries = self.features_together(tasks)
        seeds = self._seeds(tasks.support)
        with exact(support) as support, exact(queries) as queries:
            codes = self._codes(support, tasks.support)
            *_, last = self._descend(support, tasks.support, seeds, codes)
            outcome = self.query_loss(self._dropped(queries, seeds, -2) @ last.weights.mT, tasks)
            zero, one = torch.zeros_like(codes.mean), torch.ones_like(codes.mean)
            kl = divergence(codes.mean, codes.deviation, zero, one).mean((1, 2))
            moved = (last.codes.detach() - last.first).square().mean((1, 2))
            loss = outcome.loss + self.kl_weight * kl + self.encoder_penalty * moved + self._regulariser()
        return MetaLoss(loss, {**outcome.metrics, "kl": kl.detach()})

    @property
    def masks(self) -> bool:
        """Padding would count among the pairs."""
        return False

    def _seeds(self, support: Examples) -> Tensor:
        """Of what is drawn for each task in this outer step, [T]."""
        return content_key(support.x) ^ hash_32(torch.tensor(self.outer_step, device=support.x.device))

    def _codes(self, features: Tensor, support: Examples) -> Codes:
        """The distributions of the codes of support features [T, m, D], eq. 1."""
        latents = self.encoder(self._dropped(features, self._seeds(support), -1))  # [T, m, L]
        first = self.relation[0]
        assert isinstance(first, nn.Linear)
        left, right = first.weight.chunk(2, dim=1)
        # The first layer on all pairs, by parts: [T, m, 1, 2 L] + [T, 1, m, 2 L].
        pairs = (latents @ left.mT).unsqueeze(2) + (latents @ right.mT).unsqueeze(1)
        for layer in list(self.relation)[1:]:
            pairs = layer(pairs)
        mean, spread = class_means(pairs.mean(2), support).chunk(2, dim=-1)
        return Codes(mean, _deviation(spread, _START))

    def _descend(self, features: Tensor, support: Examples, seeds: Tensor, codes: Codes) -> Iterator[_State]:
        """Before the first step and after each: within the graph in training, detached in evaluation."""
        with torch.enable_grad():  # evaluation turns gradients off, the inner loop lives on them
            first = z = self._leaf(self._drawn(codes.mean, codes.deviation, seeds, 0))
            weights = self._decoded(z, features, seeds, 1)
        yield self._state(weights, first, z)
        for step in range(1, self.latent_steps + 1):
            with torch.enable_grad():
                slope = self._slope(weights, z, features, support, seeds, 3 * step)
                z = self._leaf(z - self.latent_rates * slope)
                weights = self._decoded(z, features, seeds, 3 * step + 1)
            yield self._state(weights, first, z)
        weights = self._leaf(weights)
        for step in range(self.latent_steps + 1, self.latent_steps + self.finetune_steps + 1):
            with torch.enable_grad():
                slope = self._slope(weights, weights, features, support, seeds, 3 * step)
                weights = self._leaf(weights - self.finetune_rates * slope)
            yield self._state(weights, first, z)

    def _slope(
        self, weights: Tensor, of: Tensor, features: Tensor, support: Examples, seeds: Tensor, draw: int
    ) -> Tensor:
        """The gradient of each task's support loss by `of`, which the class weights come from."""
        loss = self.kind.loss(self._dropped(features, seeds, draw) @ weights.mT, support.y)
        (slope,) = torch.autograd.grad(loss.sum(), of, create_graph=self.training)
        return slope

    def _decoded(self, z: Tensor, features: Tensor, seeds: Tensor, draw: int) -> Tensor:
        """Class weights [T, N, D] of codes [T, N, L], eq. 5."""
        mean, spread = self.decoder(z).chunk(2, dim=-1)
        start = (2 / (z.shape[1] + features.shape[-1])) ** 0.5  # Glorot's, of a layer from D to N
        return self._drawn(mean, _deviation(spread, start), seeds, draw)

    def _drawn(self, mean: Tensor, deviation: Tensor, seeds: Tensor, draw: int) -> Tensor:
        if not self.training:
            return mean
        return mean + deviation * normals(seeds, mean[0].numel(), draw).view_as(mean).to(mean.dtype)

    def _dropped(self, features: Tensor, seeds: Tensor, draw: int) -> Tensor:
        if not (self.training and self.dropout):
            return features
        stays = uniforms(seeds, features[0].numel(), draw).view_as(features) >= self.dropout
        return features * stays / (1 - self.dropout)

    def _leaf(self, part: Tensor) -> Tensor:
        """In training with gradients the part itself, else one without a graph that can be differentiated by."""
        return part if self.training and part.requires_grad else part.detach().requires_grad_()

    def _state(self, weights: Tensor, first: Tensor, codes: Tensor) -> _State:
        return _State(weights if self.training else weights.detach(), first, codes)

    def _regulariser(self) -> Tensor:
        """R of eq. 11: the layers' squared weights, and how far the decoder's rows, one for each number of a code, are from orthogonal."""
        layers = [layer for layer in (self.encoder, *self.relation, self.decoder) if isinstance(layer, nn.Linear)]
        squares = torch.stack([layer.weight.square().sum() for layer in layers]).sum()
        rows = nn.functional.normalize(self.decoder.weight.mT, dim=1)  # [L, 2 D]
        identity = torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
        return self.l2 * squares / 2 + self.orthogonality * (rows @ rows.mT - identity).square().mean()


def _deviation(spread: Tensor, start: float) -> Tensor:
    """A standard deviation above 0, which is `start` where what the network says is 0, and grows no faster than that."""
    return start * nn.functional.softplus(spread) / math.log(2) + _LEAST
