"""Images of one size and number of channels as a network wants them that was trained on others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow turns RGB into grey


def can_fit(channels: int, wanted: int) -> bool:
    """Whether images of so many channels can be given another number of them: grey ones any, coloured ones (3) one."""
    return channels == wanted or channels == 1 or (channels, wanted) == (3, 1)


def fitted(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images [..., c, H, W] in [0, 1] as [..., *shape], shape = (channels, height, width).

    A grey channel is repeated; red, green and blue become their luma (ITU-R BT.601). The size changes by bilinear interpolation, which
    averages over all covered pixels where the images become smaller. What fits already is returned as it is.
    """
    channels, height, width = shape
    if images.shape[-3] != channels:
        if images.shape[-3] == 1:
            images = images.expand(*images.shape[:-3], channels, *images.shape[-2:])
        else:
            weights = torch.tensor(_LUMA, dtype=images.dtype, device=images.device).view(3, 1, 1)
            images = (images * weights).sum(-3, keepdim=True)
    if images.shape[-2:] != (height, width):
        flat = images.reshape(-1, *images.shape[-3:])
        flat = functional.interpolate(flat, (height, width), mode="bilinear", align_corners=False, antialias=True)
        images = flat.reshape(*images.shape[:-2], height, width)
    return images
