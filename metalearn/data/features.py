"""Features in the place of images: each image passes a network once, when a task first asks for it.

T tasks, D features. Rows are those of the store of images (store.py).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metalearn.data.store import Found, Store
from metalearn.places import cache_dir

log = logging.getLogger("metalearn")

_TOGETHER = 256  # images that are looked at, and pass the network, at a time
# On a CPU, so that what layers hand on stays in its cache: conv4 takes 0.29 ms for an image of 28x28 on one core of an AMD EPYC, with 256 at a time
# 0.52 to 0.61.
_TOGETHER_ON_CPU = 64
Embed = Callable[[Tensor], Tensor]  # examples as a network sees them, [n, ...] -> [n, D]


class Features:
    """A store of features.

    Args:
        images: what they are made of.
        values: what was found of rows, as the network takes it: [n, ...].
        embed: the network.
        dim: D.
        device: where the features are.
        kept: gives the file, or the table in memory, that holds the features that were made before, and is given new ones; None: they are for
            this store alone. Asked when the first row is missing, as weights may be loaded until then.
    """

    mapped = False

    def __init__(
        self,
        images: Store,
        values: Callable[[Found], Tensor],
        embed: Embed,
        dim: int,
        device: torch.device,
        kept: Callable[[], FeatureFile | FeatureTable | None] = lambda: None,
    ) -> None:
        self._images, self._values, self._embed = images, values, embed
        self._open = functools.cache(kept)
        self._table = torch.empty(len(images), dim, device=device)  # only the rows that are there mean anything
        self._there = np.zeros(len(images), dtype=bool)

    def __len__(self) -> int:
        return len(self._images)

    def find(self, rows: NDArray[np.int64]) -> Found:
        """See Store."""
        return Found(torch.from_numpy(rows))

    def bring(self, found: Found) -> Tensor:
        """See Store: features [n, D]."""
        rows = found.images.numpy()
        missing = np.unique(rows[~self._there[rows]])
        kept = self._open() if len(missing) else None
        if kept is not None:
            known, values = kept.read(missing)
            self._put(missing[known], torch.from_numpy(values))
            missing = missing[~known]
        together = _TOGETHER_ON_CPU if self._table.device.type == "cpu" else _TOGETHER
        for first in range(0, len(missing), together):
            part = missing[first : first + together]
            with torch.no_grad():
                made = self._embed(self._values(self._images.find(part)))
            self._put(part, made)
            if kept is not None:
                kept.write(part, made.cpu().numpy())
        return self._table.index_select(0, found.images.to(self._table.device, non_blocking=True))

    def _put(self, rows: NDArray[np.int64], features: Tensor) -> None:
        self._table[torch.from_numpy(rows).to(self._table.device)] = features.to(self._table.device)
        self._there[rows] = True


class FeatureFile:
    """Features on the disk, in `$METALEARN_CACHE/features/<key>`, for every run with the same network and the same images.

    Several processes may use one at once: each row has one value only, and counts from when it was written whole. On a full disk it is given up.

    Args:
        key: of the network and the images.
        rows: how many images there are, M.
        dim: D.
    """

    def __init__(self, key: str, rows: int, dim: int) -> None:
        self.folder = cache_dir() / "features" / key
        self._rows, self._dim = rows, dim
        self._gave_up = False

    def read(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Which of the rows [n] it knows, and the features of these, [known, D]."""
        known = np.zeros(len(rows), dtype=bool)
        try:
            marks = np.fromfile(self._marks, dtype=np.uint8)
            if len(marks) == self._rows and self._values.stat().st_size == self._rows * self._dim * 4:
                known = marks[rows] == 1
            elif len(marks):
                log.warning("%s is not what it should be: its features are made anew", self.folder)
                self._gave_up = True
            if not known.any():
                return known, np.empty((0, self._dim), np.float32)
            table = np.memmap(self._values, np.float32, "r", shape=(self._rows, self._dim))
            return known, np.array(table[rows[known]])
        except OSError:
            return np.zeros(len(rows), dtype=bool), np.empty((0, self._dim), np.float32)

    def write(self, rows: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Adds features [n, D]."""
        if self._gave_up:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (
                _opened(self._values, self._rows * self._dim * 4) as features,
                _opened(self._marks, self._rows) as marks,
            ):
                for row, value in zip(rows, np.ascontiguousarray(values, dtype=np.float32), strict=True):
                    _put(features, value.tobytes(), int(row) * self._dim * 4)
                os.fsync(features)  # after a power cut, no mark may stand for a row that is not there
                for row in rows:
                    _put(marks, b"\1", int(row))
        except OSError as error:
            self._gave_up = True
            log.warning("features are not kept: %s: %s", self.folder, error.strerror or error)

    @property
    def _values(self) -> Path:
        return self.folder / "features.f32"

    @property
    def _marks(self) -> Path:
        return self.folder / "there.u8"


class FeatureTable:
    """Features in memory, with the methods of a file of them.

    Args:
        rows: how many images there are, M.
        dim: D.
    """

    def __init__(self, rows: int, dim: int) -> None:
        self._values, self._there = np.empty((rows, dim), np.float32), np.zeros(rows, dtype=bool)

    def read(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """See FeatureFile."""
        known = self._there[rows]
        return known, self._values[rows[known]]

    def write(self, rows: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """See FeatureFile."""
        self._values[rows], self._there[rows] = values, True


class FeatureMemory:
    """The features of the last network and images that were asked for, for several evaluations one after the other."""

    def __init__(self) -> None:
        self._last: tuple[tuple[str, int, int], FeatureTable] | None = None

    def of(self, key: str, rows: int, dim: int) -> FeatureTable:
        """The table of this key, a new one where another was asked for since; arguments as for FeatureFile."""
        asked = (key, rows, dim)
        if self._last is None or self._last[0] != asked:
            self._last = (asked, FeatureTable(rows, dim))
        return self._last[1]


@contextlib.contextmanager
def _opened(path: Path, size: int) -> Iterator[int]:
    """A file of at least `size` bytes, of which those that nobody wrote are zero and take no room; its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if os.fstat(descriptor).st_size < size:
            os.truncate(descriptor, size)
        yield descriptor
    finally:
        os.close(descriptor)


def _put(descriptor: int, content: bytes, place: int) -> None:
    written = os.pwrite(descriptor, content, place)
    if written < len(content):  # the disk was full in the middle; the next attempt says so
        _put(descriptor, content[written:], place + written)


def digest(images: Store, *more: object) -> str:
    """Of the images of a split, in their order, and of what else makes a network's input of them. 32 hexadecimal digits."""
    found = hashlib.blake2b(repr(more).encode(), digest_size=16)
    for part in np.array_split(np.arange(len(images)), -(-len(images) // _TOGETHER)):
        pixels = images.bring(images.find(part))
        found.update(f"{tuple(pixels.shape)}".encode())
        found.update(pixels.cpu().contiguous().numpy().data)
    return found.hexdigest()
