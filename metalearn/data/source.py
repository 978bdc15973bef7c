"""The classes of one split -> a seeded stream of tasks.

Task i is a pure function of (seed, split, i) and of the asked-for ways, shots and queries: it is drawn on the CPU from a counter-based
generator (Philox) keyed by (seed, split) with i as its counter, so any device, chunk size, number of processes or resumed run sees the same
tasks. Making a batch is index arithmetic and one gather on the device where the images live; no DataLoader, no per-image Python.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metalearn.data.image_classes import SPLITS, ImageClasses
from metalearn.errors import UserError
from metalearn.tasks import Examples, TaskBatch

_TO_UNIT = 2.0**-53  # a 64-bit word's upper 53 bits -> [0, 1)


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
    """

    def __init__(self, dataset: ImageClasses, split: str, seed: int, device: torch.device) -> None:
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
        self._images = images
        self._key = np.array([seed, SPLITS.index(split)], dtype=np.uint64)

    def tasks(self, first: int, count: int, ways: int, shots: int, queries: int) -> TaskBatch:
        """Tasks first .. first+count-1 of this stream, [count, ways*shots, ...] and [count, ways*queries, ...]."""
        classes, images = self.draw(first, count, ways, shots + queries)
        rows = torch.from_numpy(classes).to(self.device, non_blocking=True)  # [T, N]
        columns = torch.from_numpy(images).to(self.device, non_blocking=True)  # [T, N, K+Q]
        return TaskBatch(
            support=self._gather(rows, columns[:, :, :shots], ways),
            query=self._gather(rows, columns[:, :, shots:], ways),
            classes=rows,
        )

    def draw(self, first: int, count: int, ways: int, images: int) -> tuple[np.ndarray, np.ndarray]:
        """Class ids [T, N], whose position is the label, and image numbers [T, N, images], both without repetition."""
        most = int(self.counts.max())
        words = np.stack([self._words(i, ways * (1 + most)) for i in range(first, first + count)])
        unit = (words >> np.uint64(11)) * _TO_UNIT  # [T, N * (1 + M)] in [0, 1)
        classes = _distinct(unit[:, :ways], len(self.counts))
        order = unit[:, ways:].reshape(count, ways, most)
        if (self.counts != most).any():  # images that a class does not have sort last
            order = np.where(np.arange(most) < self.counts[classes][..., None], order, 2.0)
        return classes, np.argsort(order, axis=-1, kind="stable")[:, :, :images]

    def _words(self, i: int, n: int) -> np.ndarray:
        # Word 2 of the counter is the task's number, so tasks are 2**128 draws apart. random_raw's stream is fixed across numpy versions.
        counter = np.array([0, 0, i, 0], dtype=np.uint64)
        return np.random.Philox(key=self._key, counter=counter).random_raw(n)

    def _gather(self, rows: Tensor, columns: Tensor, ways: int) -> Examples:
        tasks, _, each = columns.shape
        x = self._images[rows[:, :, None], columns].flatten(1, 2)  # [T, N*each, c, H, W] uint8
        y = torch.arange(ways, device=self.device).repeat_interleave(each).expand(tasks, -1)
        return Examples(x.float().div_(255), y, ways)


def _distinct(unit: np.ndarray, n: int) -> np.ndarray:
    """The first k swaps of a Fisher-Yates shuffle of 0..n-1, one row per task: unit [T, k] in [0, 1) -> int64 [T, k], k <= n."""
    tasks, k = unit.shape
    deck = np.tile(np.arange(n, dtype=np.int32), (tasks, 1))  # [T, n]
    rows = np.arange(tasks)
    for j in range(k):
        pick = j + (unit[:, j] * (n - j)).astype(np.int64)
        deck[rows, pick], deck[:, j] = deck[:, j].copy(), deck[rows, pick]
    return deck[:, :k].astype(np.int64)
