"""Where the images of a run lie: on its device, or in the file that they are mapped from. The scores are the same, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from metalearn.data.base import Dataset
from metalearn.engine.memory import MIB, free_bytes
from metalearn.errors import UserError

_PART = 0.5  # of the free memory that resident images may take; the rest is for networks, gradients and batches


@dataclass(frozen=True)
class Placement:
    """What was chosen, and why."""

    place: str  # device or mapped
    mib: float  # what all images of the three splits take on the device, or would
    why: str

    def __str__(self) -> str:
        where = (
            "on the device" if self.place == "device" else "in their file, those of the next tasks gathered by a thread"
        )
        return f"images: {where} ({self.why})"


def placed(
    dataset: Dataset,
    asked: str,
    device: torch.device,
    free: Callable[[torch.device], int | None] = free_bytes,
) -> tuple[Dataset, Placement | None]:
    """The data set as `images` asks for it, and what was chosen; None where there are no images to place.

    Args:
        asked: auto, device or mapped.
        free: free bytes of a device, None if the system does not tell.

    Raises:
        UserError: there is no file to map.
    """
    needed = dataset.resident_bytes
    if needed is None:
        if asked == "mapped":
            raise UserError(
                f"images=mapped: {dataset.name} makes its examples and has no images in a file (allowed: auto)"
            )
        return dataset, None
    if asked == "auto":
        place, why = _automatic(needed, free(device), device)
    else:
        place, why = asked, f"{_size(needed)}; images={asked}"
    chosen = Placement(place, round(needed / MIB, 1), why)
    return dataset.kept_in_file() if place == "mapped" else dataset, chosen


def _automatic(needed: int, free: int | None, device: torch.device) -> tuple[str, str]:
    if free is None:
        return "device", f"{_size(needed)}; this system does not tell how much memory is free"
    # The processes of torchrun that share a machine without a GPU have a copy each of them.
    copies = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" else 1
    whole, room = (
        f"{_size(needed)}{f' in each of {copies} processes' if copies > 1 else ''}",
        f"{_size(free)} free on {device}",
    )
    if needed * copies <= _PART * free:
        return "device", f"{whole}, at most half of {room}"
    return "mapped", f"{whole}, more than half of {room}"


def _size(count: int) -> str:
    return f"{count / MIB:,.0f} MiB"
