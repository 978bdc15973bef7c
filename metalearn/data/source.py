"""The classes of one split -> a seeded stream of tasks.

Task i is a pure function of (seed, split, i) and of the asked-for ways, shots and queries: it is drawn on the CPU from a counter-based
generator (Philox) keyed by (seed, split) with i as its counter, so any device, chunk size, number of processes or resumed run sees the same
tasks. Making a batch is index arithmetic and one gather where the images live, on the device or in a mapped file (metalearn/data/store.py); no
DataLoader, no per-image Python.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metalearn.data.ahead import Ahead, Request
from metalearn.data.base import Embedding, TaskSource
from metalearn.data.classes import ClassId
from metalearn.data.descriptions import ClassTable
from metalearn.data.features import FeatureFile, Features, FeatureTable, digest
from metalearn.data.look import AsStored, Look
from metalearn.data.numbers import Stream, unit
from metalearn.data.store import Found, Store
from metalearn.data.uneven import UnevenTask, draw_task
from metalearn.kinds import CLASSIFICATION, Kind
from metalearn.tasks import Examples, Shape, TaskBatch, TaskShape, VaryingShape, joined

_TOGETHER = 256  # images that are embedded at a time
_DRAW = 0  # the purpose of the random words that say which images a task has; augmentation has purposes of its own


class Drawn(NamedTuple):
    """What is known of T tasks before the device is asked for anything."""

    request: Request
    classes: NDArray[np.int64]  # [T, N], of tasks of one size
    uneven: list[UnevenTask]  # T tasks of uneven size
    images: Found  # of all their images, one task after the other
    numbers: dict[int, Tensor]  # purpose -> random numbers for their augmentation, [images, k]


class ClassTasks(TaskSource):
    """Tasks of N classes of images, or of other examples that a store keeps.

    Args:
        name: of the data set.
        split: "train", "val" or "test".
        classes: [turns * C], those turned once behind all upright ones, and so on.
        counts: int64 [C], images of each upright class.
        images: those of the classes in their order; turned ones again behind all upright ones.
        seed: of the stream of tasks.
        device: where the batches are made.
        look: how what is stored becomes what a network sees.
        descriptions: of the classes, [turns * C, ...]; None: there are none.
    """

    kind: Kind = CLASSIFICATION

    def __init__(
        self,
        name: str,
        split: str,
        classes: tuple[ClassId, ...],
        counts: NDArray[np.int64],
        images: Store,
        seed: int,
        device: torch.device,
        look: Look,
        descriptions: Tensor | None = None,
    ) -> None:
        self.name, self.split, self.classes, self.device = name, split, classes, device
        self.look = look
        self.counts = np.tile(counts, len(classes) // len(counts))  # [turns * C]
        self._starts = np.cumsum(self.counts) - self.counts
        self._stream = Stream(seed, split)
        self._described = None if descriptions is None else ClassTable(descriptions.to(device))
        self.has_raw_descriptions = descriptions is not None
        self._keep(images)

    def tasks(self, first: int, count: int, shape: Shape) -> TaskBatch:
        """Tasks first .. first+count-1 of this stream, [count, ways*shots, ...] and [count, ways*queries, ...]; uneven ones padded."""
        return self.finish(self._prepared(Request(first, count, shape)))

    def prepare(self, request: Request) -> Drawn:
        """See TaskSource."""
        first, count, shape = request.first, request.count, request.shape
        if isinstance(shape, VaryingShape):
            uneven = [draw_task(self._stream, i, shape, self.counts) for i in range(first, first + count)]
            rows = [self._starts[task.classes[np.concatenate(task.labels)]] + task.images for task in uneven]
            no_classes, found = np.empty((0, 0), np.int64), self._images.find(np.concatenate(rows))
            return Drawn(request, no_classes, uneven, found, self._numbers(first, rows))
        assert isinstance(shape, TaskShape)  # the data set does not say `varying_points`
        ways, shots, queries = shape
        classes, images = self.draw(first, count, ways, shots + queries)
        of_tasks = (self._starts[classes][..., None] + images).reshape(count, -1)
        return Drawn(request, classes, [], self._images.find(of_tasks.reshape(-1)), self._numbers(first, of_tasks))

    def finish(self, prepared: Drawn) -> TaskBatch:
        """See TaskSource."""
        drawn, count, shape = prepared, prepared.request.count, prepared.request.shape
        x = self._values(drawn.images, drawn.numbers)  # [n, ...] as a network sees them, or embedded [n, D]
        if isinstance(shape, VaryingShape):
            parts = torch.split(x, [len(task.images) for task in drawn.uneven])
            return joined([self._uneven(task, part[None]) for task, part in zip(drawn.uneven, parts, strict=True)])
        assert isinstance(shape, TaskShape)  # the data set does not say `varying_points`
        ways, shots, queries = shape
        x = x.view(count, ways, shots + queries, *x.shape[1:])
        classes = torch.from_numpy(drawn.classes).to(self.device, non_blocking=True)
        return TaskBatch(
            support=self._examples(x[:, :, :shots], ways)._replace(descriptions=self._descriptions(classes)),
            query=self._examples(x[:, :, shots:], ways),
            classes=classes,
        )

    def _descriptions(self, classes: Tensor) -> Tensor | None:
        """Of classes [T, N]: [T, N, ...]."""
        return None if self._described is None else self._described.of(classes)

    def _uneven(self, task: UnevenTask, x: Tensor) -> TaskBatch:
        """One task, of examples [1, n, ...]."""
        y = torch.from_numpy(np.concatenate(task.labels))[None].to(self.device, non_blocking=True)
        ways, shots, queries = len(task.classes), len(task.support), len(task.query)
        classes = torch.from_numpy(task.classes)[None].to(self.device, non_blocking=True)
        return TaskBatch(
            support=Examples(x[:, :shots], y[:, :shots], ways, (shots,), (ways,), self._descriptions(classes)),
            query=Examples(x[:, shots:], y[:, shots:], ways, (queries,), (ways,)),
            classes=classes,
            about={"ways": (ways,), "shots": (shots / ways,)},
        )

    def close(self) -> None:
        """See TaskSource."""
        if self._ahead is not None:
            self._ahead.close()

    @property
    def gathered(self) -> bool:
        """See TaskSource."""
        return self._images.mapped

    @property
    def examples(self) -> int | None:
        return None if self.look.numbers else len(self._images)

    def embedded(self, embedding: Embedding) -> ClassTasks:
        """See TaskSource."""
        fingerprint, dim = embedding.fingerprint, embedding.dim
        holder = FeatureFile if embedding.memory is None else embedding.memory.of

        def kept() -> FeatureFile | FeatureTable | None:
            if fingerprint is None:
                return None
            images = digest(self._images, *self.look.key)
            return holder(f"{fingerprint()}-{images}", len(self._images), dim)

        made = copy.copy(self)
        made.look, made.is_embedded = AsStored(), True
        made._keep(
            Features(self._images, lambda found: self._values(found, {}), embedding.embed, dim, self.device, kept)
        )
        return made

    def described_once(self, describe: Callable[[Tensor], Tensor]) -> ClassTasks:
        """See TaskSource."""
        assert self._described is not None
        made = copy.copy(self)
        made._described, made.has_raw_descriptions = self._described.described(describe), False
        return made

    def every_example(self) -> Iterator[Tensor]:
        """See TaskSource."""
        rows = np.array_split(np.arange(len(self._images)), math.ceil(len(self._images) / _TOGETHER))
        return (self._values(self._images.find(part), {}) for part in rows)

    def _keep(self, images: Store) -> None:
        self._images = images
        # What a GPU has at hand is made in no time; what is read from a file, while the tasks before are computed.
        self._ahead = Ahead(self.prepare) if images.mapped else None
        self._prepared = self._ahead or self.prepare

    def _numbers(self, first: int, rows: Sequence[NDArray[np.int64]] | NDArray[np.int64]) -> dict[int, Tensor]:
        """For each purpose, random numbers [images, k] in [0, 1) for the images of the tasks from `first` on, whose rows are given."""
        drawn = {}
        for purpose, k in self.look.numbers.items():
            words = [self._stream.words(first + i, 1, len(row) * k, purpose)[0] for i, row in enumerate(rows)]
            drawn[purpose] = torch.from_numpy(unit(np.concatenate(words)).astype(np.float32)).view(-1, k)
        return drawn

    def _values(self, found: Found, numbers: dict[int, Tensor]) -> Tensor:
        """The examples [n, ...] as a network sees them; what is embedded stays as it is."""
        there = {purpose: drawn.to(self.device, non_blocking=True) for purpose, drawn in numbers.items()}
        return self.look(self._images.bring(found), there)

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
