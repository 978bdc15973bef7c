"""Backbones: an example [n, ...] -> a feature vector [n, D]; `feature_dim` is D.

A constructor asks by name for `input_shape`, of one example; for `image_shape`, (channels, height, width), where it needs images; or for
`text_length`, where it needs texts: uint8 [n, length], of which `metalearn/nn/texts.py` makes texts.

Each can be asked to normalise with the statistics of the examples at hand (`running_stats=False`), which makes the outcome for one example
depend on the others: `uses_batch_statistics` says so, and evaluation reports it as transductive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metalearn.errors import UserError
from metalearn.nn.inference import infer
from metalearn.nn.task_batched import refuse_running_statistics


class PretrainedOn(NamedTuple):
    """The data that weights come from which were not learned in the run at hand."""

    name: str  # of the data, for people
    origin: str = ""  # as in the identities of classes (metalearn/data/classes.py); empty where `classes` is None
    classes: dict[str, tuple[str, ...]] | None = (
        None  # identity within `origin` -> the class's names; None: nobody knows which classes it saw
    )


class TwoParts(NamedTuple):
    """A backbone whose first layers stay as they are, whatever training or fine-tuning changes."""

    fixed: Callable[[Tensor], Tensor]  # [n, ...] -> [n, M], without gradients
    dim: int  # M
    behind: Backbone  # [n, M] -> [n, D]; its parameters have the names that they have in the whole


class Stem(NamedTuple):
    """The first part of a network that training never changes, and that no inner loop adapts."""

    embed: Callable[[Tensor], Tensor]  # examples [n, ...] -> [n, E]
    dim: int  # E
    fingerprint: Callable[[], str]  # of all that makes the outcome of an example


class Backbone(nn.Module):
    """What an algorithm, and whoever builds it, may know of its backbone."""

    feature_dim: int  # D
    uses_batch_statistics: bool
    map_shape: tuple[int, int, int] | None = None  # (C, h, w) where the D features are a feature map, flattened
    normalizes: bool = False  # whether it brings images from 0..1 to the values that it knows by itself: data sets then leave that to it
    by_itself: bool = False  # whether, in training too, the features of an example depend on no other example: then tasks pass it together
    pretrained_on: PretrainedOn | None = None  # None: its weights start at random

    @property
    def frozen(self) -> bool:
        """Whether training leaves it as it is: the features of an image are the same at every outer step."""
        return False

    @property
    def stem(self) -> Stem | None:
        """Where there is one, `forward` takes what it makes of examples, [n, E], in the place of examples: so each example passes it once."""
        return None

    def fingerprint(self) -> str:
        """Of all that makes features of an image: the layers, their settings and their weights. 32 hexadecimal digits."""
        digest = hashlib.blake2b(f"{type(self).__qualname__} {self!r}".encode(), digest_size=16)
        for name, tensor in self.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def in_two_parts(self) -> TwoParts | None:
        """The fixed layers apart from those behind them that change; None where all change, or none, or where they cannot be told apart."""
        return None

    def refuse_inner_loop(self) -> None:
        """Raises UserError where its parameters cannot be adapted to each task."""
        refuse_running_statistics(self)


def embed_tasks(backbone: nn.Module, x: Tensor, training: bool, mask: Tensor | None = None) -> Tensor:
    """The examples of T tasks through one backbone: [T, n, ...] -> [T, n, D].

    Where mask [T, n] is False there is padding, which does not pass: zeros in its place.
    """
    if backbone.by_itself:
        return _all_together(backbone, x, mask)
    if mask is not None:
        real = zip(x, mask, strict=True)
        features = [embed_tasks(backbone, task[there].unsqueeze(0), training)[0] for task, there in real]
        padded: Tensor = features[0].new_zeros(*mask.shape, features[0].shape[-1])
        return padded.masked_scatter(mask.unsqueeze(-1), torch.cat(features))
    if training or backbone.uses_batch_statistics:
        # Task by task: each is normalised with its own statistics, so the outcome does not depend on which tasks come together.
        return torch.stack([infer(backbone, task) for task in x])
    embedded = infer(backbone, x.flatten(0, 1))
    return embedded.view(*x.shape[:2], -1)


def _all_together(backbone: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """`embed_tasks` where no example's features depend on another's: padding may pass, as zeros, and has none of it afterwards."""
    if mask is not None:
        x = x.where(mask.view(*mask.shape, *[1] * (x.dim() - 2)), 0)  # else a NaN in it would get into the gradient
    features: Tensor = backbone(x.flatten(0, 1)).view(*x.shape[:2], -1)
    return features if mask is None else features.where(mask.unsqueeze(-1), 0)


def norm_layer(kind: str, channels: int, running_stats: bool, dims: int) -> nn.Module:
    if kind == "batch":
        layer = nn.BatchNorm2d if dims == 2 else nn.BatchNorm1d
        return layer(channels, track_running_stats=running_stats)
    if kind == "group":  # 8 channels to a group where that divides, else one group
        return nn.GroupNorm(channels // 8 if channels % 8 == 0 else 1, channels)
    return nn.Identity()


def feature_dim(backbone: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """D, by asking: one pass over blank images, in evaluation mode so that running statistics stay as they were."""
    with torch.no_grad():
        features: Tensor = backbone.eval()(torch.zeros(2, *image_shape))
    backbone.train()
    return features.shape[1]


def check_size(image_shape: tuple[int, int, int], halvings: int = 4) -> None:
    """Raises UserError where the halvings leave nothing."""
    _, height, width = image_shape
    if min(height, width) < 2**halvings:
        times = {4: "four times", 2: "twice"}[halvings]
        raise UserError(
            f"this backbone halves the image {times}: {height}x{width} pixels are too few (at least {2**halvings}x{2**halvings})"
        )
