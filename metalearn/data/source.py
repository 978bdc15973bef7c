"""The classes of one split -> a seeded stream of tasks.

Task i is a pure function of (seed, split, i) and of the asked-for ways, shots and queries: it is drawn on the CPU from a counter-based
generator (Philox) keyed by (seed, split) with i as its counter, so any device, chunk size, number of processes or resumed run sees the same
tasks. Making a batch is index arithmetic and one gather on the device where the images live; no DataLoader, no per-image Python.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metalearn.data.augment import NUMBERS, Augment
from metalearn.data.classes import SPLITS, ImageClasses
from metalearn.errors import UserError
from metalearn.tasks import Examples, TaskBatch

_TO_UNIT = 2.0**-53  # a 64-bit word's upper 53 bits -> [0, 1)
_DRAW, _AUGMENT = 0, 1  # a task's random words for either purpose, apart from each other


def check_task(dataset: ImageClasses, split: str, ways: int, shots: int, queries: int) -> None:
    """Raises UserError, with both numbers and the largest task that fits, where the split cannot serve such tasks."""
    names = dataset.split.classes[split]
    counts = {name: int(count) for name, count in zip(dataset.class_names, dataset.counts, strict=True)}
    classes = len(names) * dataset.rotations[split]
    smallest = min(names, key=lambda name: counts[name])
    images = counts[smallest]
    faults = []
    if ways > classes:
        faults.append(f"{ways} ways need {ways} classes, the {split} split has {classes}")
    if shots + queries > images:
        faults.append(
            f"{shots} shots + {queries} queries need {shots + queries} images of every class, '{smallest}' has {images}"
        )
    if faults:
        largest = f"{min(ways, classes)} ways"
        if images >= 2:
            fitting = min(shots, images - 1)
            largest += f", {fitting} shots, {min(queries, images - fitting)} queries"
        raise UserError(
            f"{dataset.name} cannot serve the {split} tasks: {'; '.join(faults)}; the largest that fits: {largest}"
        )


class TaskSource:
    """Tasks from the classes of one split, images resident on `device`.

    Args:
        dataset: the images and their class split.
        split: "train", "val" or "test".
        seed: of the stream of tasks.
        device: where the images live and the batches are made.
        augment: what happens to every drawn image; nothing by default.
    """

    def __init__(
        self,
        dataset: ImageClasses,
        split: str,
        seed: int,
        device: torch.device,
        augment: Augment | None = None,
    ) -> None:
        index = {name: i for i, name in enumerate(dataset.class_names)}
        names = dataset.split.classes[split]
        rows = [index[name] for name in names]
        turns = dataset.rotations[split]
        images = torch.from_numpy(np.ascontiguousarray(dataset.images[rows])).to(device)  # [C, M, c, H, W]
        if turns > 1:
            # Turned classes stand behind the upright ones: class c turned r times has the id r * C + c.
            images = torch.cat([images.rot90(r * 4 // turns, (-2, -1)) for r in range(turns)])
        self.name = dataset.name
        self.split = split
        self.device = device
        self.class_names = tuple(
            f"{dataset.name}:{name}" + (f"@{r * 360 // turns}" if r else "") for r in range(turns) for name in names
        )
        self.counts = np.tile(dataset.counts[rows], turns)  # [C]
        self.augment = augment or Augment()
        self._images = images
        self._key = np.array([seed, SPLITS.index(split)], dtype=np.uint64)

    def tasks(self, first: int, count: int, ways: int, shots: int, queries: int) -> TaskBatch:
        """Tasks first .. first+count-1 of this stream, [count, ways*shots, ...] and [count, ways*queries, ...]."""
        classes, images = self.draw(first, count, ways, shots + queries)
        rows = torch.from_numpy(classes).to(self.device, non_blocking=True)  # [T, N]
        columns = torch.from_numpy(images).to(self.device, non_blocking=True)  # [T, N, K+Q]
        x = self._images[rows[:, :, None], columns].float().div_(255)  # [T, N, K+Q, c, H, W]
        if self.augment:
            numbers = self._words_of(first, count, ways * (shots + queries) * NUMBERS, _AUGMENT)
            unit = torch.from_numpy(_unit(numbers).astype(np.float32)).to(self.device, non_blocking=True)
            x = self.augment(x.flatten(0, 2), unit.view(-1, NUMBERS)).view_as(x)
        return TaskBatch(
            support=self._examples(x[:, :, :shots], ways), query=self._examples(x[:, :, shots:], ways), classes=rows
        )

    def draw(self, first: int, count: int, ways: int, images: int) -> tuple[np.ndarray, np.ndarray]:
        """Class ids [T, N], whose position is the label, and image numbers [T, N, images], both without repetition."""
        most = int(self.counts.max())
        unit = _unit(self._words_of(first, count, ways * (1 + most), _DRAW))  # [T, N * (1 + M)]
        classes = _distinct(unit[:, :ways], len(self.counts))
        order = unit[:, ways:].reshape(count, ways, most)
        if (self.counts != most).any():  # images that a class does not have sort last
            order = np.where(np.arange(most) < self.counts[classes][..., None], order, 2.0)
        return classes, np.argsort(order, axis=-1, kind="stable")[:, :, :images]

    def _words_of(self, first: int, count: int, n: int, purpose: int) -> np.ndarray:
        """n random words of each task: uint64 [T, n]."""
        return np.stack([self._words(i, n, purpose) for i in range(first, first + count)])

    def _words(self, i: int, n: int, purpose: int) -> np.ndarray:
        # Word 2 of the counter is the task's number, so tasks are 2**128 draws apart. random_raw's stream is fixed across numpy versions.
        counter = np.array([0, 0, i, purpose], dtype=np.uint64)
        return np.random.Philox(key=self._key, counter=counter).random_raw(n)

    def _examples(self, x: Tensor, ways: int) -> Examples:
        tasks, _, each = x.shape[:3]
        y = torch.arange(ways, device=self.device).repeat_interleave(each).expand(tasks, -1)
        return Examples(x.flatten(1, 2), y, ways)


def _unit(words: np.ndarray) -> np.ndarray:
    """Each word as a number in [0, 1)."""
    return (words >> np.uint64(11)) * _TO_UNIT


def _distinct(unit: np.ndarray, n: int) -> np.ndarray:
    """The first k swaps of a Fisher-Yates shuffle of 0..n-1, one row per task: unit [T, k] in [0, 1) -> int64 [T, k], k <= n."""
    tasks, k = unit.shape
    deck = np.tile(np.arange(n, dtype=np.int32), (tasks, 1))  # [T, n]
    rows = np.arange(tasks)
    for j in range(k):
        pick = j + (unit[:, j] * (n - j)).astype(np.int64)
        deck[rows, pick], deck[:, j] = deck[:, j].copy(), deck[rows, pick]
    return deck[:, :k].astype(np.int64)
