"""Neural Processes (Garnelo, Schwarz, Rosenbaum, Viola, Rezende, Eslami and Teh 2018, https://arxiv.org/abs/1807.01622).

As in conditional neural processes each point is encoded and the mean of the codes says what is known of the task; but here it says how a latent
variable z is distributed, and y at x is read from a value of z: all predictions of one value belong to one function. Training maximises the evidence
lower bound of eq. 9, with one value of z; a test averages over `samples` values.

Departures: the likelihood of the bound is that of all points of the task, those of the support set too, as in the code of Kim et al. 2019
(github.com/google-deepmind/neural-processes); eq. 9 has the query points alone. x passes the backbone first (none by default); the standard deviation
is bounded by `min_std`, in that code by 0.1. What z is drawn with is a function of the task in training, and the same for all tasks in a test.
"""

from __future__ import annotations

from torch import Tensor

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.embedding import task_keys
from metalearn.algorithms.functions import Belief, Decoder, FunctionLearner, Latent, Points, fixed_normal, network
from metalearn.backbones import Backbone
from metalearn.nn.normals import Normals, masked_mean
from metalearn.tasks import Examples, TaskBatch


class NeuralProcess(FunctionLearner):
    """Reads the distribution of y from x and a latent variable.

    Args:
        backbone: [n, ...] -> [n, D].
        ways: output numbers.
        width: units of each layer, and numbers that a point is encoded by.
        latent: numbers of the latent variable, Z.
        encoder_layers, decoder_layers: linear layers of the two networks.
        samples: values of the latent variable that a test averages over.
        min_std: what standard deviations are larger than, in units of y.
    """

    normal: Tensor  # [samples, Z]

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        width: int,
        latent: int,
        encoder_layers: int,
        decoder_layers: int,
        samples: int,
        min_std: float,
    ) -> None:
        super().__init__(backbone)
        self.encoder = network(backbone.feature_dim + ways, width, width, encoder_layers)
        self.latent = Latent(width, latent)
        self.decoder = Decoder(backbone.feature_dim, latent, width, decoder_layers, ways, min_std)
        self.register_buffer("normal", fixed_normal(samples, latent), persistent=False)

    def adapt(self, support: Examples) -> Belief:
        return self._belief(self.points(support))

    def predict_distribution(self, adapted: Belief, query_x: Tensor) -> Normals:
        return self._decoded(adapted.values(self.normal), self.embed(query_x))

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        support, query = self.points_together(tasks)
        targets = support.with_(query)
        before, after = self._belief(support), self._belief(targets)  # q(z | support), q(z | support and queries)
        z = after.drawn(task_keys(tasks.support))
        found = self._decoded(z.unsqueeze(0), targets.x)
        return self.bound_loss(found, targets, tasks, after.divergence(before))  # eq. 9

    def _belief(self, points: Points) -> Belief:
        belief: Belief = self.latent(masked_mean(self.encoder(points.pairs), points.mask))
        return belief

    def _decoded(self, z: Tensor, x: Tensor) -> Normals:
        """For values z [S, T, Z], at x [T, n, D]."""
        return Normals(*self.decoder(x.expand(len(z), *x.shape), z.unsqueeze(2)))
