"""What happens to the images of training tasks at random: crops, mirror images, changes of colour, turns, shifts, changes of size.

Every drawn image is changed by numbers of its own, which belong to its task's place in the stream: the same task is the same wherever and in whatever
portions it is made. All images of a batch are changed together, on their device.

Turns, shifts and sizes: Santoro et al. 2016 (section 4.1) turn and shift characters a little in training; so do other codes on Omniglot. Crops,
mirror images and colours are those of torchvision's RandomResizedCrop, RandomHorizontalFlip and ColorJitter, with two differences. A crop that is
longer than the image is cut to it, where torchvision draws again. Colours change in one order: brightness, contrast, saturation, hue.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from metalearn.data.colour import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation

# Purposes of random numbers (metalearn/data/numbers.py); moves had theirs before there were other changes.
MOVES, CHANGES = 1, 5
_MOVE_NUMBERS, _CHANGE_NUMBERS = 4, 9  # that one image takes for either purpose
_RATIO = math.log(4 / 3)  # of a crop's width to its height: between 3/4 and 4/3


@dataclass(frozen=True)
class Augment:
    """How far an image may be changed; 0 leaves it as it is. Of amounts with two sides, each is drawn evenly from both sides of nothing.

    Args:
        degrees: largest turn, in degrees.
        translate: largest shift, down and across, as a part of the image's side.
        scale: largest change of size, as a part of the size.
        crop: largest part of the area that a crop cuts away; the rest is resized to the whole image.
        flip: probability that left and right are exchanged.
        brightness: largest change of all values, as a part of them.
        contrast: largest change of the distance from the image's mean grey, as a part of it.
        saturation: largest change of the distance from each pixel's grey, as a part of it; images of one channel have none.
        hue: largest turn of the colour circle, in circles; images of one channel have none.
    """

    degrees: float = 0.0
    translate: float = 0.0
    scale: float = 0.0
    crop: float = 0.0
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.numbers)

    @property
    def coloured(self) -> bool:
        """Whether it changes colours, which only images of one or of three channels have."""
        return max(self.contrast, self.saturation, self.hue) > 0

    @property
    def numbers(self) -> dict[int, int]:
        """Purpose -> how many random numbers an image takes for it; none for what is not asked for."""
        moved = max(self.degrees, self.translate, self.scale) > 0
        changed = max(self.crop, self.flip, self.brightness) > 0 or self.coloured
        return ({MOVES: _MOVE_NUMBERS} if moved else {}) | ({CHANGES: _CHANGE_NUMBERS} if changed else {})

    def __call__(self, images: Tensor, numbers: Mapping[int, Tensor]) -> Tensor:
        """Changes images [n, c, H, W] with values in [0, 1].

        Args:
            numbers: purpose -> [n, k] in [0, 1), of the purposes and k that `numbers` of this object tells.
        """
        if CHANGES in numbers:
            images = self._changed(images, numbers[CHANGES])
        return self._moved(images, numbers[MOVES]) if MOVES in numbers else images

    def _changed(self, images: Tensor, unit: Tensor) -> Tensor:
        area, ratio, down, right, side, *amounts = unit.unbind(1)
        if self.crop:
            images = crop(images, crop_boxes(1 - self.crop * area, ratio, down, right, images.shape[-2:]))
        if self.flip:
            images = torch.where(_each(side < self.flip), images.flip(-1), images)
        brightness, contrast, saturation, hue = (2 * amount - 1 for amount in amounts)
        if self.brightness:
            images = adjust_brightness(images, _each(1 + self.brightness * brightness))
        if self.contrast:
            images = adjust_contrast(images, _each(1 + self.contrast * contrast))
        if self.saturation:
            images = adjust_saturation(images, _each(1 + self.saturation * saturation))
        return adjust_hue(images, _each(self.hue * hue)) if self.hue else images

    def _moved(self, images: Tensor, unit: Tensor) -> Tensor:
        """Bilinear, with zeros where nothing was."""
        turn, right, down, size = (2 * unit - 1).unbind(1)
        angle = turn * (self.degrees * math.pi / 180)
        # The matrix leads from a pixel of the result to where it comes from, in units of half the side: hence the inverse of the size.
        factor = 1 / (1 + self.scale * size)
        cosine, sine = factor * angle.cos(), factor * angle.sin()
        height_over_width = images.shape[-2] / images.shape[-1]
        matrix = torch.stack(
            [
                torch.stack([cosine, -sine * height_over_width, 2 * self.translate * right], 1),
                torch.stack([sine / height_over_width, cosine, 2 * self.translate * down], 1),
            ],
            dim=1,
        ).to(images.dtype)
        grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _each(values: Tensor) -> Tensor:
    """[n] -> [n, 1, 1, 1], one for each image."""
    return values.view(-1, 1, 1, 1)


def crop_boxes(area: Tensor, ratio: Tensor, down: Tensor, right: Tensor, size: torch.Size) -> Tensor:
    """Boxes [n, 4] of whole pixels: top, left, height, width.

    Args:
        area: [n], the part of the image's area that the box has, in (0, 1].
        ratio: [n] in [0, 1), of width to height: 0 is 3/4, 1 is 4/3, a half is 1.
        down: [n] in [0, 1), where the box lies between top and bottom.
        right: [n] in [0, 1), likewise between left and right.
        size: height and width of the images.
    """
    across = torch.exp((2 * ratio - 1) * (_RATIO / 2))  # the root of the ratio
    side = (area * (size[0] * size[1])).sqrt()
    height = (side / across).round().clamp(1, size[0])
    width = (side * across).round().clamp(1, size[1])
    return torch.stack(
        [(down * (size[0] - height + 1)).floor(), (right * (size[1] - width + 1)).floor(), height, width], 1
    )


def crop(images: Tensor, boxes: Tensor) -> Tensor:
    """What lies in the boxes [n, 4] of images [n, c, H, W], resized to [n, c, H, W]; bilinear, from pixels of the box alone."""
    top, left, height, width = boxes.to(images.dtype).unbind(1)
    # y [n, H], x [n, W]
    y, x = (_places(*box) for box in ((top, height, images.shape[-2]), (left, width, images.shape[-1])))
    shape = (len(images), *images.shape[-2:])
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], -1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _places(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where pixels 0 .. size-1 of the result come from, as `grid_sample` counts: [n, size], -1 is the image's first edge, 1 its last."""
    places = (torch.arange(size, device=start.device) + 0.5) * (length[:, None] / size) - 0.5
    within = torch.minimum(places.clamp(min=0), length[:, None] - 1)  # pixel centres of the box
    return (2 * (start[:, None] + within) + 1) / size - 1
