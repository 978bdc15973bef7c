"""Conditional Neural Processes (Garnelo, Rosenbaum, Maddison, Ramalho, Saxton, Shanahan, Teh, Rezende and Eslami 2018, https://arxiv.org/abs/1807.01613).

A network h turns each support point into a vector; the mean of these says what is known of the task. A network g reads from it and from x the
normal distribution of y. Nothing is adapted: a test task is one pass. The order of the support points means nothing.

Training maximises the likelihood of all points of the task, those of the support set too, as in eq. 4 and the authors' code
(github.com/google-deepmind/neural-processes).

Departures: x passes the backbone first (none by default); the standard deviation is bounded by `min_std`, in the authors' code by 0.1.
"""

from __future__ import annotations

from torch import Tensor

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.functions import Decoder, FunctionLearner, Points, network
from metalearn.backbones import Backbone
from metalearn.nn.normals import Normals, masked_mean
from metalearn.tasks import Examples, TaskBatch


class CNP(FunctionLearner):
    """Reads the distribution of y from x and the mean of the encoded support points.

    Args:
        backbone: [n, ...] -> [n, D].
        ways: output numbers.
        width: units of each layer, and numbers that a point is encoded by.
        encoder_layers, decoder_layers: linear layers of h and of g.
        min_std: what standard deviations are larger than, in units of y.
    """

    def __init__(
        self, backbone: Backbone, ways: int, width: int, encoder_layers: int, decoder_layers: int, min_std: float
    ) -> None:
        super().__init__(backbone)
        self.encoder = network(backbone.feature_dim + ways, width, width, encoder_layers)  # h
        self.decoder = Decoder(backbone.feature_dim, width, width, decoder_layers, ways, min_std)  # g

    def adapt(self, support: Examples) -> Tensor:
        return self._summary(self.points(support))

    def predict_distribution(self, adapted: Tensor, query_x: Tensor) -> Normals:
        return self._decoded(adapted, self.embed(query_x))

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        support, query = self.points_together(tasks)
        targets = support.with_(query)
        return self.likelihood_loss(self._decoded(self._summary(support), targets.x), targets, tasks)  # eq. 4

    def _summary(self, support: Points) -> Tensor:
        """r [T, W]: eq. 1, and eq. 2 with the mean."""
        return masked_mean(self.encoder(support.pairs), support.mask)

    def _decoded(self, summary: Tensor, x: Tensor) -> Normals:
        """Eq. 3 at x [T, n, D]."""
        return Normals.one(*self.decoder(x, summary.unsqueeze(1)))
