"""Pre-training: an ordinary classifier of the training classes, whose features then serve tasks of new classes as they are.

In a test task the backbone stays fixed and only a head for the task's N classes is made from its support set. `head` says how:

- "centroid": the nearest class mean by cosine, Classifier-Baseline (Chen, Liu, Xu, Darrell and Wang 2021, "Meta-Baseline",
  https://arxiv.org/abs/2003.04390);
- "linear": a linear layer trained on the support set, Baseline (Chen, Liu, Kira, Wang and Huang 2019, "A Closer Look at Few-shot
  Classification", https://arxiv.org/abs/1904.04232);
- "cosine": likewise a layer of scaled cosine similarities, Baseline++ of the same paper, where `train_head` is "cosine" too.

As in the code of Chen et al. 2019, a class of a cosine layer has a learned length beside its direction.

Departures: a batch is a training task, so its classes are drawn without repetition and each gives equally many images; no weight decay and no
augmentation while the classifier learns. The new head starts from one draw and takes the support set in one order, both the same for every task
of its size, theirs drawn anew each time, so that adapting twice gives the same; its biases start at zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn import kinds
from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.embedding import EmbeddingLearner, class_means
from metalearn.backbones import Backbone
from metalearn.tasks import Examples, TaskBatch

# Of "linear": weight [..., N, D], bias [..., N]; of the others: direction [..., N, D], length [..., N].
Head = dict[str, Tensor]


class Pretrain(EmbeddingLearner):
    """Trains a classifier of all training classes, then fits a head to its features in each test task.

    Args:
        backbone: [n, c, H, W] -> [n, D].
        train_classes: how many classes the training split has.
        train_head: of the classifier that is trained: "linear" or "cosine".
        head: of a test task: "centroid", "linear" or "cosine".
        train_scale: of train_head="cosine": what similarities are multiplied by.
        scale: of head="centroid" and "cosine": likewise.
        fit_lr, fit_momentum, fit_dampening, fit_weight_decay: of the stochastic gradient descent that trains head="linear" and "cosine".
        fit_batch: support examples in each of its steps.
        fit_passes: how often it goes through the support set.
    """

    def __init__(
        self,
        backbone: Backbone,
        train_classes: int,
        train_head: str,
        head: str,
        train_scale: float,
        scale: float,
        fit_lr: float,
        fit_momentum: float,
        fit_dampening: float,
        fit_weight_decay: float,
        fit_batch: int,
        fit_passes: int,
    ) -> None:
        super().__init__(backbone)
        self.classifier = nn.ParameterDict(new_head(train_head, train_classes, backbone.feature_dim, None))
        self.train_head, self.train_scale = train_head, train_scale
        self.head, self.scale = head, scale
        self.fit_lr, self.fit_momentum, self.fit_dampening = fit_lr, fit_momentum, fit_dampening
        self.fit_weight_decay, self.fit_batch, self.fit_passes = fit_weight_decay, fit_batch, fit_passes

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        """The training stage: cross-entropy of all images of a task among all training classes."""
        support, query = tasks.support, tasks.query
        features = torch.cat(self.embed_together(tasks), dim=1)  # [T, N*K + N*Q, D]
        classes = tasks.classes.gather(1, torch.cat([support.y, query.y], dim=1))  # [T, N*K + N*Q], ids in the split
        logits = head_logits(self.train_head, dict(self.classifier), features, self.train_scale)
        accuracy = kinds.accuracy(logits.detach(), classes)
        return MetaLoss(kinds.cross_entropy(logits, classes), {"accuracy": accuracy})

    def adapt(self, support: Examples) -> Head:
        """The fine-tuning stage: a head for each task, with a leading task axis, on fixed features."""
        features = self.embed(support.x, support.mask).detach()
        return centroids(features, support) if self.head == "centroid" else self._fit(features, support)

    @property
    def masks(self) -> bool:
        # In training an example counts among all classes of the split; a head that is fitted takes its examples in an order that depends on
        # their number.
        return not self.transductive and not self.training and self.head == "centroid"

    def predict(self, adapted: Head, query_x: Tensor) -> Tensor:
        return head_logits(self.head, adapted, self.embed(query_x), self.scale)

    def _fit(self, features: Tensor, support: Examples) -> Head:
        """Stochastic gradient descent on the features [T, N*K, D], all tasks in step."""
        tasks, examples, dim = features.shape
        initial = new_head(self.head, support.ways, dim, torch.Generator().manual_seed(0))
        head = {name: value.to(features).expand(tasks, *value.shape) for name, value in initial.items()}
        velocity: Head = {}
        for batch in mini_batches(examples, self.fit_batch, self.fit_passes, features.device):
            gradient = self._gradient(head, features[:, batch], support.y[:, batch])
            for name, value in head.items():
                update = gradient[name] + self.fit_weight_decay * value
                if name in velocity:  # as in torch.optim.SGD, the first update is not dampened
                    update = self.fit_momentum * velocity[name] + (1 - self.fit_dampening) * update
                velocity[name] = update
                head[name] = value - self.fit_lr * update
        return head

    @torch.enable_grad()
    def _gradient(self, head: Head, features: Tensor, y: Tensor) -> Head:
        """The gradient of each task's mean loss on its mini-batch. The loss is the SUM over tasks, so each head gets only its own task's."""
        leaves = {name: value.detach().requires_grad_() for name, value in head.items()}
        loss = kinds.cross_entropy(head_logits(self.head, leaves, features, self.scale), y).sum()
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def new_head(kind: str, classes: int, dim: int, generator: torch.Generator | None) -> Head:
    """An untrained head, with torch's usual weights of a linear layer; a class of "cosine" is first as long as its row of those."""
    weight = torch.empty(classes, dim).uniform_(-(dim**-0.5), dim**-0.5, generator=generator)
    if kind == "linear":
        return {"weight": weight, "bias": torch.zeros(classes)}
    return {"direction": weight, "length": weight.norm(dim=1)}


def centroids(features: Tensor, support: Examples) -> Head:
    """The means of each class's features [T, N*K, D], as directions of equal length."""
    means = class_means(features, support)  # [T, N, D]
    return {"direction": means, "length": torch.ones_like(means[..., 0])}


def head_logits(kind: str, head: Mapping[str, Tensor], features: Tensor, scale: float) -> Tensor:
    """[T, n, D] -> [T, n, N], by one head for each task or by one for all."""
    if kind == "linear":
        return features @ head["weight"].mT + head["bias"].unsqueeze(-2)
    weight = head["length"].unsqueeze(-1) * F.normalize(head["direction"], dim=-1)
    return scale * (F.normalize(features, dim=-1) @ weight.mT)


def mini_batches(examples: int, size: int, passes: int, device: torch.device) -> Iterator[Tensor]:
    """Positions of the examples in each step's mini-batch: every pass takes all of them, in an order of its own; its last batch may be smaller.

    A function of the first three numbers alone.
    """
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(examples, generator=generator) for _ in range(passes)]).to(device)
    for order in orders:
        yield from order.split(size)
