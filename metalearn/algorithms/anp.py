"""Attentive Neural Processes (Kim, Mnih, Schwarz, Garnelo, Eslami, Rosenbaum, Vinyals and Teh 2019, https://arxiv.org/abs/1901.05761).

A neural process with two paths. The deterministic one encodes each support point; a query reads the codes by multi-head cross-attention, whose
keys are the x of the support points: near points count more, where the mean of a neural process counts all alike. The latent one is that of a
neural process. In both, support points may attend to each other before (`self_layers`). Training maximises the evidence lower bound of eq. 3, with
one value of the latent variable; a test averages over `samples` values.

As in the authors' code (github.com/google-deepmind/neural-processes) the likelihood of the bound is that of all points of the task, those of the
support set too. Keys and queries are what a small network makes of x.

Departures: self-attention comes with a network, residual connections and normalisation, as in a transformer; x passes the backbone first (none by
default); the standard deviation is bounded by `min_std`, in the authors' code by 0.1. What the latent variable is drawn with is a function of the
task in training, and the same for all tasks in a test.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, cat, nn

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.embedding import task_keys
from metalearn.algorithms.functions import Belief, Decoder, FunctionLearner, Latent, Points, fixed_normal, network
from metalearn.backbones import Backbone
from metalearn.errors import UserError
from metalearn.nn.attention import MultiheadAttention
from metalearn.nn.normals import Normals, masked_mean
from metalearn.nn.set_encoder import Block
from metalearn.tasks import Examples, TaskBatch


class Read(NamedTuple):
    """What was read from the support points of T tasks."""

    keys: Tensor  # [T, K, W]
    codes: Tensor  # [T, K, W], of the deterministic path
    mask: Tensor | None  # [T, K]
    belief: Belief  # about the latent variable


class Encoder(nn.Module):
    """Encodes each point, then lets the points of a task attend to each other: pairs [T, n, inputs] -> codes [T, n, W]."""

    def __init__(self, inputs: int, width: int, layers: int, self_layers: int, heads: int) -> None:
        super().__init__()
        self.network = network(inputs, width, width, layers)
        self.attention = nn.ModuleList(Block(width, heads, width) for _ in range(self_layers))

    def forward(self, points: Points) -> Tensor:
        codes: Tensor = self.network(points.pairs)
        for block in self.attention:
            codes = block(codes, points.mask, codes.shape[1])
        return codes


class ANP(FunctionLearner):
    """Reads the distribution of y from x, the support points that are like it, and a latent variable.

    Args:
        backbone: [n, ...] -> [n, D].
        ways: output numbers.
        width: units of each layer, and numbers that a point is encoded by.
        latent: numbers of the latent variable, Z.
        encoder_layers, decoder_layers: linear layers of either path's network, and of the decoder.
        self_layers: blocks of self-attention between the support points, in either path.
        heads: of all attention.
        samples: values of the latent variable that a test averages over.
        min_std: what standard deviations are larger than, in units of y.

    Raises:
        UserError: `width` is no multiple of `heads`.
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
        self_layers: int,
        heads: int,
        samples: int,
        min_std: float,
    ) -> None:
        super().__init__(backbone)
        if width % heads:
            raise UserError(f"algorithm.width={width} is no multiple of algorithm.heads={heads}")
        dim = backbone.feature_dim
        self.encoder, self.latent_encoder = (
            Encoder(dim + ways, width, encoder_layers, self_layers, heads) for _ in range(2)
        )
        self.latent = Latent(width, latent)
        self.key = network(dim, width, width, 2)  # of support points and of queries
        self.cross = MultiheadAttention(width, heads)
        self.decoder = Decoder(dim, width + latent, width, decoder_layers, ways, min_std)
        self.register_buffer("normal", fixed_normal(samples, latent), persistent=False)

    def adapt(self, support: Examples) -> Read:
        return self._read(self.points(support))

    def predict_distribution(self, adapted: Read, query_x: Tensor) -> Normals:
        return self._decoded(adapted, adapted.belief.values(self.normal), self.embed(query_x))

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        support, query = self.points_together(tasks)
        targets = support.with_(query)
        read, after = self._read(support), self._belief(targets)  # with q(z | support) and q(z | support and queries)
        found = self._decoded(read, after.drawn(task_keys(tasks.support)).unsqueeze(0), targets.x)
        return self.bound_loss(found, targets, tasks, after.divergence(read.belief))  # eq. 3

    def _read(self, support: Points) -> Read:
        return Read(self.key(support.x), self.encoder(support), support.mask, self._belief(support))

    def _belief(self, points: Points) -> Belief:
        belief: Belief = self.latent(masked_mean(self.latent_encoder(points), points.mask))
        return belief

    def _decoded(self, read: Read, z: Tensor, x: Tensor) -> Normals:
        """For values z [S, T, Z], at x [T, n, D]."""
        near = self.cross(self.key(x), read.keys, read.codes, read.mask)  # r_* of each query, [T, n, W]
        every = (len(z), *x.shape[:2], -1)
        known = cat([near.expand(every), z.unsqueeze(2).expand(every)], -1)
        return Normals(*self.decoder(x.expand(every), known))
