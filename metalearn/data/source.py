"""The classes of one split -> a seeded stream of tasks.

Task i is a pure function of (seed, split, i) and of the asked-for ways, shots and queries: it is drawn on the CPU from a counter-based
generator (Philox) keyed by (seed, split) with i as its counter, so any device, chunk size, number of processes or resumed run sees the same
tasks. Making a batch is index arithmetic and one gather on the device where the images live; no DataLoader, no per-image Python.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metalearn.data.augment import NUMBERS, Augment
from metalearn.data.base import TaskSource
from metalearn.data.classes import ClassId
from metalearn.data.container import FlatImages
from metalearn.data.fit import fitted
from metalearn.data.normalize import Normalize
from metalearn.data.numbers import Stream, unit
from metalearn.data.uneven import UnevenTask, draw_task
from metalearn.kinds import CLASSIFICATION, Kind
from metalearn.tasks import Examples, Shape, TaskBatch, VaryingShape, joined

_TOGETHER = 256  # images that are embedded at a time
_DRAW, _AUGMENT = 0, 1  # a task's random words for either purpose, apart from each other


class ImageTasks(TaskSource):
    """Tasks of N classes of images, resident on `device`.

    Args:
        name: of the data set.
        split: "train", "val" or "test".
        classes: [turns * C], those turned once behind all upright ones, and so on.
        images: of the C upright classes.
        turns: 1, 2 or 4: every class again, turned by multiples of 90 degrees.
        seed: of the stream of tasks.
        device: where the images live and the batches are made.
        augment: what happens to every drawn image.
        normalize: what happens to its channels after that.
        shape: (channels, height, width) that it is brought to before both; None: as it is stored.
    """

    kind: Kind = CLASSIFICATION

    def __init__(
        self,
        name: str,
        split: str,
        classes: tuple[ClassId, ...],
        images: FlatImages,
        turns: int,
        seed: int,
        device: torch.device,
        augment: Augment,
        normalize: Normalize | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        upright = torch.from_numpy(images.images).to(device)  # [M, c, H, W]
        turned = [upright.rot90(r * 4 // turns, (-2, -1)) for r in range(1, turns)]
        self._images = torch.cat([upright, *turned]) if turned else upright
        self.name, self.split, self.classes, self.device = name, split, classes, device
        self.augment, self.normalize, self.shape = augment, normalize, shape
        self.counts = np.tile(images.counts, turns)  # [turns * C]
        self._starts = np.cumsum(self.counts) - self.counts
        self._stream = Stream(seed, split)

    def tasks(self, first: int, count: int, shape: Shape) -> TaskBatch:
        """Tasks first .. first+count-1 of this stream, [count, ways*shots, ...] and [count, ways*queries, ...]; uneven ones padded."""
        if isinstance(shape, VaryingShape):
            drawn = [(i, draw_task(self._stream, i, shape, self.counts)) for i in range(first, first + count)]
            return joined([self._uneven(i, task) for i, task in drawn])
        ways, shots, queries = shape
        classes, images = self.draw(first, count, ways, shots + queries)
        x = self._drawn(
            self._starts[classes][..., None] + images, first
        )  # [T, N, K+Q, c, H, W], or embedded [T, N, K+Q, D]
        return TaskBatch(
            support=self._examples(x[:, :, :shots], ways),
            query=self._examples(x[:, :, shots:], ways),
            classes=torch.from_numpy(classes).to(self.device, non_blocking=True),
        )

    def _uneven(self, number: int, task: UnevenTask) -> TaskBatch:
        """One task, [1, n, ...]."""
        labels, images = np.concatenate(task.labels), np.concatenate([task.support, task.query])
        x = self._drawn(
            self._starts[task.classes[labels]][None] + images, number
        )  # [1, n, c, H, W], or embedded [1, n, D]
        y = torch.from_numpy(labels)[None].to(self.device, non_blocking=True)
        ways, shots, queries = len(task.classes), len(task.support), len(task.query)
        return TaskBatch(
            support=Examples(x[:, :shots], y[:, :shots], ways, (shots,), (ways,)),
            query=Examples(x[:, shots:], y[:, shots:], ways, (queries,), (ways,)),
            classes=torch.from_numpy(task.classes)[None].to(self.device, non_blocking=True),
            about={"ways": (ways,), "shots": (shots / ways,)},
        )

    def _drawn(self, rows: NDArray[np.int64], first: int) -> Tensor:
        """The images in rows [T, ...] of tasks first .. first+T-1, as a network sees them [T, ..., c, H, W], or embedded [T, ..., D]."""
        x = self._images[torch.from_numpy(rows).to(self.device, non_blocking=True)]
        if x.dtype != torch.uint8:
            return x
        numbers = None
        if self.augment:
            words = self._stream.words(first, len(rows), rows[0].size * NUMBERS, _AUGMENT)
            numbers = torch.from_numpy(unit(words).astype(np.float32)).to(self.device, non_blocking=True)
        return self._values(x, numbers)

    @property
    def examples(self) -> int | None:
        return None if self.augment else len(self._images)

    def embedded(self, embed: Callable[[Tensor], Tensor]) -> ImageTasks:
        made = copy.copy(self)
        made._images = torch.cat([embed(self._values(part)) for part in torch.split(self._images, _TOGETHER)])
        return made

    def _values(self, images: Tensor, numbers: Tensor | None = None) -> Tensor:
        """uint8 images [..., c, H, W] as a network sees them: from 0 to 1, of `shape`, changed at random by `numbers`, normalised."""
        x = images.float().div_(255)
        if self.shape is not None:
            x = fitted(x, self.shape)
        if numbers is not None:
            x = self.augment(x.flatten(0, -4), numbers.view(-1, NUMBERS)).view_as(x)
        return x if self.normalize is None else self.normalize(x)

    def draw(self, first: int, count: int, ways: int, images: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Class numbers [T, N], whose position is the label, and image numbers [T, N, images], both without repetition."""
        most = int(self.counts.max())
        if (self.counts == most).all():
            numbers = unit(self._stream.words(first, count, ways * (1 + most), _DRAW))  # [T, N * (1 + M)]
            order = numbers[:, ways:].reshape(count, ways, most)
            return (
                distinct(numbers[:, :ways], np.full(count, len(self.counts))),
                np.argsort(order, axis=-1, kind="stable")[:, :, :images],
            )
        numbers = unit(self._stream.words(first, count, ways * (1 + images), _DRAW))  # [T, N * (1 + K + Q)]
        classes = distinct(numbers[:, :ways], np.full(count, len(self.counts)))
        picked = distinct(numbers[:, ways:].reshape(count * ways, images), self.counts[classes].reshape(-1))
        return classes, picked.reshape(count, ways, images)

    def _examples(self, x: Tensor, ways: int) -> Examples:
        tasks, _, each = x.shape[:3]
        y = torch.arange(ways, device=self.device).repeat_interleave(each).expand(tasks, -1)
        return Examples(x.flatten(1, 2), y, ways)


def distinct(unit: NDArray[np.float64], n: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first k swaps of a Fisher-Yates shuffle of 0..n[t]-1 for every row t: unit [T, k] in [0, 1) -> int64 [T, k], k <= n.

    The deck is not laid out: of each pick it is known which card earlier swaps had put there.
    """
    rows, k = unit.shape
    picks = np.arange(k) + (unit * (n[:, None] - np.arange(k))).astype(np.int64)  # [T, k], positions
    drawn = np.empty((rows, k), dtype=np.int64)
    for j in range(k):
        drawn[:, j] = _card(picks, picks[:, j], j)
    return drawn


def _card(picks: NDArray[np.int64], position: NDArray[np.int64], swaps: int) -> NDArray[np.int64]:
    """Which card lies at `position` [T] after the first `swaps` swaps of positions j and picks[:, j]."""
    card = position.copy()
    # Backwards: what lies at picks[:, j] after swap j lay at j before it, and the other way round.
    for j in range(swaps - 1, -1, -1):
        card = np.where(card == picks[:, j], j, np.where(card == j, picks[:, j], card))
    return card
