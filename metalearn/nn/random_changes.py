"""Random changes of the images of one task that are functions of a counter alone: a learner that fine-tunes on them does the same each time."""

from __future__ import annotations

import torch
from torch import Tensor

_SHIFT = 0.125  # largest shift, as a part of the side
_BRIGHTNESS = 0.5  # largest change, in standard deviations of normalised values


def changed_at_random(images: Tensor, counter: int, probability: float, deviation: float) -> Tensor:
    """Images with other brightness, saturation, contrast and place, each by an amount of its own; half the time all of them as in a mirror.

    What uncovered edges show is the edge itself, repeated.

    Args:
        images: [n, c, H, W]. Examples of any other shape stay as they are.
        counter: two different ones give other changes.
        probability: that anything changes; it is drawn once for all images.
        deviation: of the values of normalised images, 1; of images from 0 to 1 what normalising divides by.
    """
    if images.dim() != 4:
        return images
    generator = torch.Generator().manual_seed(counter)
    whether, mirror = torch.rand(2, generator=generator).tolist()
    if whether >= probability:
        return images
    if mirror < 0.5:
        images = images.flip(-1)
    amounts = torch.rand(5, len(images), 1, 1, 1, generator=generator).to(images)
    brightness, saturation, contrast, down, right = amounts
    images = images + 2 * _BRIGHTNESS * deviation * (brightness - 0.5)
    images = _about(images.mean(1, keepdim=True), images, 2 * saturation)
    images = _about(images.mean((1, 2, 3), keepdim=True), images, 0.5 + contrast)
    return _shifted(images, down.flatten(), right.flatten())


def _about(centre: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """The distance from `centre` times `factor`."""
    return centre + factor * (images - centre)


def _shifted(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Moved by whole pixels; down and right are [n] in [0, 1), a half is nothing."""
    # rows [n, H], columns [n, W]
    rows, columns = (_sources(part, edge) for part, edge in zip((down, right), images.shape[2:], strict=True))
    which = torch.arange(len(images), device=images.device)[:, None, None]
    return images[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _sources(part: Tensor, edge: int) -> Tensor:
    """From which pixel each of `edge` pixels comes, [n, edge]."""
    most = int(edge * _SHIFT + 0.5)
    shift = (part * (2 * most + 1)).floor().long() - most
    return (torch.arange(edge, device=part.device) - shift[:, None]).clamp(0, edge - 1)
