"""The other side of the comparisons: learn2learn's tasksets, networks and meta-modules in the loops that its examples show.

The loops follow learn2learn 0.2.0's `examples/vision`: maml_omniglot.py, anil_fc100.py, reptile_miniimagenet.py and protonet_miniimagenet.py, without
their validation halves: one task after another, each sampled, adapted to and differentiated by itself, then one step of the optimizer.
"""

from __future__ import annotations

import copy
import io
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.algorithms.base import Algorithm
from metalearn.bench.harness import Config
from metalearn.data.base import Dataset
from metalearn.data.images import ImageClasses
from metalearn.data.sets.omniglot import image_files
from metalearn.engine.build import build_dataset
from metalearn.nn.l2l import learn2learn

Sample = Callable[[], tuple[Tensor, Tensor]]  # -> one task's images and labels, the K+Q of each class in a row
Pairs = list[tuple[nn.Parameter, nn.Parameter]]

# --- tasks ------------------------------------------------------------------------------------------------------------


def from_memory(dataset: Dataset, ways: int, each: int) -> Sample:
    """learn2learn's tasksets over the training classes as tensors in memory, turned classes included."""
    assert isinstance(dataset, ImageClasses)
    turns, flat = dataset.rotations["train"], dataset.images.select(dataset.numbers("train"))
    upright = torch.from_numpy(flat.images).float().div_(255)  # [M, c, H, W]
    images = torch.cat([upright.rot90(turn * 4 // turns, (-2, -1)) for turn in range(turns)])
    labels = torch.arange(turns * len(flat.counts)).repeat_interleave(torch.from_numpy(np.tile(flat.counts, turns)))
    l2l = learn2learn()
    known = dict(enumerate(labels.tolist()))
    wrapped = l2l.data.MetaDataset(torch.utils.data.TensorDataset(images, labels), indices_to_labels=known)
    return _taskset(wrapped, ways, each, [])


class ImageFiles:
    """learn2learn's own Omniglot tasksets, on the same training classes: every image is decoded, scaled and turned anew for each task.

    The files' contents lie in memory, which spares learn2learn the opening of files.

    Args:
        config: whose dataset is Omniglot.
    """

    def __init__(self, config: Config) -> None:
        classes = build_dataset(config).classes("train")
        numbers = {class_.name: label for label, class_ in enumerate(classes) if not class_.turn}
        decoded = _Decoded(
            [(content, numbers[name]) for name, content in image_files(config["dataset"]["root"]) if name in numbers]
        )
        known = {index: label for index, (_, label) in enumerate(decoded.files)}
        self._dataset = learn2learn().data.MetaDataset(decoded, indices_to_labels=known)

    def sample(self, ways: int, each: int) -> Sample:
        rotation = learn2learn().vision.transforms.RandomClassRotation(self._dataset, [0.0, 90.0, 180.0, 270.0])
        return _taskset(self._dataset, ways, each, [rotation])


class _Decoded(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """What torchvision's Omniglot and the transforms of learn2learn's `omniglot_tasksets` do to an image file."""

    def __init__(self, files: list[tuple[bytes, int]]) -> None:
        from torchvision import transforms  # a second of import that nothing else here needs

        self.files = files
        self.to_ink = transforms.Compose(
            [
                transforms.Resize(28, interpolation=Image.Resampling.LANCZOS),
                transforms.ToTensor(),
                transforms.Lambda(lambda image: 1.0 - image),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        content, label = self.files[index]
        return self.to_ink(Image.open(io.BytesIO(content), mode="r").convert("L")), label


def _taskset(dataset: Any, ways: int, each: int, further: list[Any]) -> Sample:
    l2l = learn2learn()
    transforms = [
        l2l.data.transforms.FusedNWaysKShots(dataset, n=ways, k=each),
        l2l.data.transforms.LoadData(dataset),
        l2l.data.transforms.RemapLabels(dataset),
        l2l.data.transforms.ConsecutiveLabels(dataset),
        *further,
    ]
    sample: Sample = l2l.data.Taskset(dataset, task_transforms=transforms, num_tasks=20_000).sample
    return sample


# --- networks ---------------------------------------------------------------------------------------------------------


def network(config: Config) -> nn.Module:
    """learn2learn's network of the same layers as the configuration's backbone and a linear head: `features` and `classifier`."""
    models, backbone = learn2learn().vision.models, config["backbone"]
    ways = config["task"]["train"]["ways"]
    name = config["names"]["backbone"]
    if name == "mlp":
        made = models.OmniglotFC(28**2, ways, sizes=backbone["hidden"])
    elif name == "conv4_stride":
        made = models.OmniglotCNN(ways, hidden_size=backbone["filters"])
    else:
        assert name == "conv4", name
        made = models.CNN4(ways, hidden_size=backbone["filters"], channels=1, embedding_size=backbone["filters"])
    assert isinstance(made, nn.Module)
    return made


def pairs(ours: nn.Module, theirs: nn.Module) -> Pairs:
    """The parameters that correspond. Within a block the two register their layers in different orders, so they are told apart by kind."""
    found: Pairs = []
    for kind in ((nn.Linear, nn.Conv2d), (nn.BatchNorm1d, nn.BatchNorm2d)):
        our_layers: list[Any] = [module for module in ours.modules() if isinstance(module, kind)]
        their_layers: list[Any] = [module for module in theirs.modules() if isinstance(module, kind)]
        for our, their in zip(our_layers, their_layers, strict=True):
            found += [(our.weight, their.weight), (our.bias, their.bias)]
    return found


@torch.no_grad()
def _start_alike(ours: nn.Module, theirs: nn.Module) -> Pairs:
    found = pairs(ours, theirs)
    for our, their in found:
        their.copy_(our)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eps = 1e-5  # as ours, for equal outcomes; learn2learn's fully connected network has 1e-3
    return found


# --- loops ------------------------------------------------------------------------------------------------------------


class Loop(ABC):
    """A learn2learn example's outer loop, stopped between steps.

    Args:
        algorithm: ours, whose initial parameters are taken over.
        sample: one task.
    """

    def __init__(self, config: Config, algorithm: Algorithm, sample: Sample, device: torch.device) -> None:
        self.settings, self.task = config["algorithm"], config["task"]["train"]
        self.meta_batch_size = config["train"]["meta_batch_size"]
        self.sample, self.device = sample, device
        self.data_seconds = 0.0  # sampling, of all steps
        self.model, self.pairs = self.build(config, algorithm)
        self.parameters = list(self.model.parameters())
        rate = config["train"]["lr"]
        outer = torch.optim.SGD if config["train"]["optimizer"] == "sgd" else torch.optim.Adam
        self.optimizer = outer(self.parameters, lr=rate)

    @abstractmethod
    def build(self, config: Config, algorithm: Algorithm) -> tuple[nn.Module, Pairs]:
        """The module whose parameters are meta-learned, and which of them are which of ours."""

    @abstractmethod
    def task_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Adapts to one task and adds its meta-gradient to `.grad`; returns the queries' loss and accuracy."""

    def gradient(self) -> None:
        """The mean meta-gradient of `meta_batch_size` tasks, in the parameters' `.grad`."""
        self.optimizer.zero_grad()
        error = accuracy = 0.0
        for _ in range(self.meta_batch_size):
            started = time.perf_counter()
            x, y = self.sample()
            self.data_seconds += time.perf_counter() - started
            of_task = self.task_loss(x.to(self.device), y.to(self.device))
            error, accuracy = error + of_task[0].item(), accuracy + of_task[1].item()
        for parameter in self.parameters:
            assert parameter.grad is not None
            parameter.grad.mul_(1 / self.meta_batch_size)

    def step(self) -> None:
        self.gradient()
        self.optimizer.step()

    def split(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Support and query of one task."""
        by_class = examples.view(self.task["ways"], -1, *examples.shape[1:])
        return by_class[:, : self.task["shots"]].flatten(0, 1), by_class[:, self.task["shots"] :].flatten(0, 1)


class MAMLLoop(Loop):
    def build(self, config: Config, algorithm: Algorithm) -> tuple[nn.Module, Pairs]:
        net = network(config).to(self.device)
        found = _start_alike(algorithm.classifier(), net)  # type: ignore[operator]
        rate, first_order = self.settings["inner_lr"], self.settings["first_order"]
        return learn2learn().algorithms.MAML(net, lr=rate, first_order=first_order), found

    def task_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        learner = self.model.clone()  # type: ignore[operator]
        (support_x, query_x), (support_y, query_y) = self.split(x), self.split(y)
        for _ in range(self.settings["inner_steps"]):
            learner.adapt(F.cross_entropy(learner(support_x), support_y))
        return _scored(learner(query_x), query_y)


class ANILLoop(Loop):
    def build(self, config: Config, algorithm: Algorithm) -> tuple[nn.Module, Pairs]:
        net: Any = network(config).to(self.device)
        found = _start_alike(algorithm.classifier(), net)  # type: ignore[operator]
        rate, first_order = self.settings["inner_lr"], self.settings["first_order"]
        self.features = net.features
        self.head = learn2learn().algorithms.MAML(net.classifier, lr=rate, first_order=first_order)
        return nn.ModuleList([self.features, self.head]), found

    def task_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        learner = self.head.clone()
        (support, query), (support_y, query_y) = self.split(self.features(x)), self.split(y)
        for _ in range(self.settings["inner_steps"]):
            learner.adapt(F.cross_entropy(learner(support), support_y))
        return _scored(learner(query), query_y)


class ReptileLoop(Loop):
    """The inner Adam's state goes on from task to task."""

    def build(self, config: Config, algorithm: Algorithm) -> tuple[nn.Module, Pairs]:
        net = network(config).to(self.device)
        self.inner_state: dict[str, Any] | None = None
        return net, _start_alike(algorithm.classifier(), net)  # type: ignore[operator]

    def mini_batch(self, examples: int) -> Tensor:
        return torch.randint(examples, (self.settings["inner_batch"],))

    def task_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        learner = copy.deepcopy(self.model)
        learner.zero_grad()
        rate = self.settings["inner_lr"]
        inner: torch.optim.Optimizer = torch.optim.SGD(learner.parameters(), lr=rate)
        if self.settings["inner_optimizer"] == "adam":
            inner = torch.optim.Adam(learner.parameters(), lr=rate, betas=(0.0, 0.999))
        if self.inner_state is not None:
            inner.load_state_dict(self.inner_state)
        (support_x, query_x), (support_y, query_y) = self.split(x), self.split(y)
        for _ in range(self.settings["inner_steps"]):
            chosen = self.mini_batch(len(support_x)).to(self.device)
            inner.zero_grad()
            F.cross_entropy(learner(support_x[chosen]), support_y[chosen]).backward()  # type: ignore[no-untyped-call]
            inner.step()
        self.inner_state = inner.state_dict()
        with torch.no_grad():
            for parameter, adapted in zip(self.model.parameters(), learner.parameters(), strict=True):
                moved = parameter - adapted
                parameter.grad = moved if parameter.grad is None else parameter.grad.add_(moved)
            logits = learner(query_x)
            return F.cross_entropy(logits, query_y), _accuracy(logits, query_y)


class PrototypeLoop(Loop):
    def build(self, config: Config, algorithm: Algorithm) -> tuple[nn.Module, Pairs]:
        features = network(config).features
        assert isinstance(features, nn.Module)
        features.to(self.device)
        return features, _start_alike(algorithm.backbone, features)  # type: ignore[arg-type]

    def task_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        support, query = self.split(self.model(x))
        prototypes = support.view(self.task["ways"], -1, support.shape[1]).mean(1)
        logits = -(query.unsqueeze(1) - prototypes.unsqueeze(0)).square().sum(2)
        places = torch.arange(self.task["ways"], device=self.device)  # labels by position, as prototypes stand
        return _scored(logits, places.repeat_interleave(len(query) // self.task["ways"]))


def _scored(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    loss = F.cross_entropy(logits, y)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), _accuracy(logits.detach(), y)


def _accuracy(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(1) == y).float().mean()


def replayed(tasks: Iterator[tuple[Tensor, Tensor]]) -> Sample:
    """A sample function that hands out the given tasks, one after another."""
    return lambda: next(tasks)
