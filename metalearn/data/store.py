"""Where the images or texts of a split are while tasks are made of them: on the device, or in the file that they are mapped from.

Both answer the same rows with the same values. A row is the number of an image among all those of the split, in the order of its classes; turned
copies stand behind all upright images, those turned once first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metalearn.data.container import FlatImages
from metalearn.errors import UserError


class Found(NamedTuple):
    """What was found on the CPU for n rows."""

    images: Tensor  # int64 [n], where they lie on the device; or uint8 [n, ...], upright, which are still to be brought there
    turns: tuple[tuple[int, Tensor], ...] = ()  # quarter turns, and int64 the places in `images` that they are for


class Store(Protocol):
    """The images of one split."""

    mapped: bool

    def __len__(self) -> int:
        """How many rows there are."""

    def find(self, rows: NDArray[np.int64]) -> Found:
        """The part of the work that needs no device, for rows [n]; any thread may do it."""

    def bring(self, found: Found) -> Tensor:
        """The images of the rows on the device: uint8 [n, c, H, W], texts uint8 [n, length], or embedded [n, D]. Each `found` is brought once."""


class Resident:
    """Images on the device; making a batch is one gather there.

    Args:
        images: uint8 [M, c, H, W], texts uint8 [M, length], or embedded [M, D].
    """

    mapped = False

    def __init__(self, images: Tensor) -> None:
        self._images = images

    @classmethod
    def of(cls, images: FlatImages, numbers: Sequence[int], turns: int, device: torch.device) -> Resident:
        """Copies some of the classes to the device, one by one, so that nothing but the copy takes memory; then turns them `turns` times.

        Raises:
            UserError: the device has no room for them.
        """
        upright = int(images.counts[list(numbers)].sum())
        shape = (turns * upright, *images.images.shape[1:])
        try:
            whole = torch.empty(shape, dtype=torch.uint8, device=device)
        except (RuntimeError, MemoryError) as error:
            raise UserError(
                f"{math.prod(shape) >> 20:,} MiB of images do not fit into the memory of {device}: images=mapped leaves them in their file"
            ) from error
        start = 0
        for number in numbers:
            # A copy, as torch warns of memory that cannot be written, such as that of a mapped file.
            of_class = np.array(images.of_class(number))
            whole[start : start + len(of_class)] = torch.from_numpy(of_class)
            start += len(of_class)
        for turn in range(1, turns):
            whole[turn * upright : (turn + 1) * upright] = whole[:upright].rot90(turn * 4 // turns, (-2, -1))
        return cls(whole)

    def __len__(self) -> int:
        return len(self._images)

    def find(self, rows: NDArray[np.int64]) -> Found:
        """See Store."""
        return Found(torch.from_numpy(rows))

    def bring(self, found: Found) -> Tensor:
        """See Store."""
        # Whole images at a time: indexing with a tensor goes element by element, ten times as slow on a CPU.
        return self._images.index_select(0, found.images.to(self._images.device, non_blocking=True))


class Mapped:
    """Images in a file, mapped into memory: rows are gathered on the CPU, brought to the device and turned there.

    Args:
        images: of all classes of the data set.
        numbers: of the split's classes.
        turns: 1, 2 or 4.
        device: where the images are brought.
    """

    mapped = True

    def __init__(self, images: FlatImages, numbers: Sequence[int], turns: int, device: torch.device) -> None:
        self._images, self._turns, self._device = images.images, turns, device
        starts, counts = images.starts[list(numbers)], images.counts[list(numbers)]
        within = np.arange(counts.sum()) - (np.cumsum(counts) - counts).repeat(counts)
        self._places = starts.repeat(counts) + within  # int64 [M], of the upright images in the file

    def __len__(self) -> int:
        return self._turns * len(self._places)

    def find(self, rows: NDArray[np.int64]) -> Found:
        """See Store."""
        turn, upright = np.divmod(rows, len(self._places))
        # Pinned memory can be copied to a GPU while that computes. Nobody has measured it here.
        pinned = self._device.type == "cuda"
        images = torch.empty((len(rows), *self._images.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
        # "clip" writes into `out` directly, "raise" would go through a copy; no place lies outside.
        np.take(self._images, self._places[upright], axis=0, out=images.numpy(), mode="clip")
        quarters = [(r * 4 // self._turns, np.flatnonzero(turn == r)) for r in range(1, self._turns)]
        return Found(images, tuple((k, torch.from_numpy(places)) for k, places in quarters if len(places)))

    def bring(self, found: Found) -> Tensor:
        """See Store."""
        images = found.images.to(self._device, non_blocking=True)
        for quarters, places in found.turns:
            there = places.to(self._device, non_blocking=True)
            images[there] = images[there].rot90(quarters, (-2, -1))
        return images
