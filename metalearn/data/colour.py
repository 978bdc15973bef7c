"""Changes of colour, each image of a batch by an amount of its own; what torchvision's `adjust_*` functions do to one image.

Images are [n, c, H, W] with c = 1 or 3 and values in [0, 1]; amounts are [n, 1, 1, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

_GREY = (0.2989, 0.587, 0.114)  # weights of red, green and blue (ITU-R 601-2)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Values times `factor`, at least 0."""
    return (images * factor).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """The distance of values from the image's mean grey times `factor`, at least 0."""
    return _blend(images, _grey(images).mean((-2, -1), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """The distance of each pixel's values from its grey times `factor`, at least 0; images of one channel stay as they are."""
    return images if images.shape[1] == 1 else _blend(images, _grey(images), factor)


def adjust_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Hues turned by `turn` circles, -0.5 to 0.5; images of one channel stay as they are."""
    if images.shape[1] == 1:
        return images
    # In the cone of hue, chroma and value: channel k is value - chroma * ramp(hue + offset of k), with the hue in sixths of the circle.
    value, largest = images.max(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    red, green, blue = (images[:, k : k + 1] for k in range(3))
    divisor = torch.where(chroma > 0, chroma, 1.0)
    differences = torch.cat([green - blue, blue - red, red - green], 1).gather(1, largest)
    hue = differences / divisor + 2 * largest + 6 * turn
    offsets = torch.tensor([5.0, 3.0, 1.0], dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    sixth = (hue + offsets).remainder(6)
    ramp = torch.minimum(sixth, 4 - sixth).clamp_(0, 1)
    return (value - chroma * ramp).clamp_(0, 1)


def _grey(images: Tensor) -> Tensor:
    """[n, 1, H, W]"""
    if images.shape[1] == 1:
        return images
    red, green, blue = (images[:, k : k + 1] for k in range(3))
    return (red * _GREY[0]).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(images), images, factor).clamp_(0, 1)
