"""Small random turns, shifts and changes of size for the images of training tasks.

Every drawn image is moved by numbers of its own, which belong to its task's place in the stream: the same task is the same wherever and in whatever
portions it is made. Santoro et al. 2016 (section 4.1) turn and shift characters a little in training; so do other codes on Omniglot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

NUMBERS = 4  # random numbers that one image takes


@dataclass(frozen=True)
class Augment:
    """How far an image may be moved; each amount is drawn evenly from both sides of nothing.

    Args:
        degrees: largest turn, in degrees.
        translate: largest shift, down and across, as a part of the image's side.
        scale: largest change of size, as a part of the size.
    """

    degrees: float = 0.0
    translate: float = 0.0
    scale: float = 0.0

    def __bool__(self) -> bool:
        return max(self.degrees, self.translate, self.scale) > 0

    def __call__(self, images: Tensor, unit: Tensor) -> Tensor:
        """Moves images [n, c, H, W] by numbers [n, NUMBERS] in [0, 1); bilinear, with zeros where nothing was."""
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
