"""Classification models of torchvision as backbones."""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metalearn.nn.late_compiler import without_compiler

with without_compiler():
    from torchvision import models

from metalearn.backbones.pretrained import Asked, Pretrained, Recipe
from metalearn.backbones.pretraining_data import UNKNOWN, imagenet1k
from metalearn.backbones.weights import Weights, check_sha256, load_into, read_weights, weights_folder
from metalearn.errors import UserError, one_line, shortened

_AUXILIARY = ("aux1", "aux2", "AuxLogits")  # heads on earlier layers, for training alone


class TorchvisionModel(Pretrained):
    """A classification model of torchvision without its last layer.

    Args:
        image_shape: (channels, height, width) of the images at hand.
        asked: the settings. Its weights are "default", or a name such as "IMAGENET1K_V1": torchvision's own, from `$METALEARN_DATA/weights`,
            torch's cache or the internet; "none"; or the path of a file.
        from_weights: False: the weights come from a checkpoint, so the file is not needed.

    Raises:
        UserError: torchvision has no such model, or the weights cannot be had or do not fit.
    """

    def __init__(self, image_shape: tuple[int, int, int], asked: Asked, from_weights: bool = True) -> None:
        name, weights = asked.name, asked.weights
        known = models.list_models(module=models)
        if name not in known:
            close = difflib.get_close_matches(name, known, 3)
            raise UserError(
                f"backbone.name={name}: torchvision has no classification model of this name"
                + (f" (close ones: {', '.join(close)})" if close else f" (it has {', '.join(known)})")
            )
        entries = models.get_model_weights(name)
        body, heads = without_head(_network(name))
        entry, seen = entries.DEFAULT, None
        if weights != "none" and from_weights:
            given, source = _given(weights, entries)
            check_sha256(given, asked.sha256, source, "backbone.weights")
            published = next((one for one in entries if given.sha256.startswith(_checksum(one))), None)
            entry, seen = published or entry, imagenet1k() if published else UNKNOWN
            load_into(body, given.tensors, heads, f"backbone.weights={source}")
            if hasattr(body, "transform_input"):
                body.transform_input = (
                    True  # as torchvision does where it loads weights: they were learned with other values
                )
        super().__init__(asked, body, _recipe(entry, asked.size), image_shape, seen)


def _network(name: str) -> nn.Module:
    """With random weights."""
    with warnings.catch_warnings():
        # Some warn of another initialisation to come, which weights will overwrite.
        warnings.simplefilter("ignore", FutureWarning)
        network: nn.Module = models.get_model(name, weights=None)
    return network


def without_head(network: Any) -> tuple[Any, list[str]]:
    """The network up to the features that its last layer takes, and the names of the layers that are gone."""
    gone = [name for name in _AUXILIARY if getattr(network, name, None) is not None]
    for name in gone:
        setattr(network, name, None)
    if gone:
        network.aux_logits = False
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    last, layer = layers[-1]
    if isinstance(layer, nn.Conv2d):  # a convolution gives the classes: its input is averaged instead
        network.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    else:
        owner, _, own = last.rpartition(".")
        setattr(network.get_submodule(owner), own, nn.Identity())
    return network, [*gone, last]


def _given(weights: str, entries: Any) -> tuple[Weights, str]:
    """The tensors that `backbone.weights` asks for, and where they come from."""
    names = [entry.name for entry in entries]
    if weights != "default" and weights not in names:
        if not Path(weights).suffix:
            raise UserError(
                f"backbone.weights={weights} is none of default, none, {', '.join(names)}, and no path of a file"
            )
        return read_weights(weights, "backbone.weights"), weights
    entry = entries.DEFAULT if weights == "default" else entries[weights]
    file = Path(entry.url).name
    folders = (weights_folder(), Path(torch.hub.get_dir()) / "checkpoints")
    for folder in folders:
        if (folder / file).is_file():
            given = read_weights(folder / file, "backbone.weights")
            check_sha256(given, _checksum(entry), folder / file, "backbone.weights")
            return given, str(folder / file)
    try:
        torch.hub.load_state_dict_from_url(
            entry.url, progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except (OSError, RuntimeError) as error:
        others = [
            f"{one.name} ({folder / Path(one.url).name})"
            for one in entries
            for folder in folders
            if (folder / Path(one.url).name).is_file()
        ]
        raise UserError(
            f"backbone.weights={weights}: {entry.url} cannot be fetched ({shortened(one_line(error), 120)}); put the file into {folders[0]}, or name "
            + (f"what is there: {', '.join(others)}" if others else "a file: backbone.weights=FILE")
        ) from error
    return read_weights(folders[1] / file, "backbone.weights"), str(folders[1] / file)


def _checksum(entry: Any) -> str:
    """What the sha256 of a published file begins with: its name says it."""
    return Path(entry.url).stem.rpartition("-")[2]


def _recipe(entry: Any, size: int | str) -> Recipe:
    """How the network takes its images, by torchvision's own transforms."""
    own = entry.transforms()
    return Recipe(
        own.crop_size[0] if size == "auto" else int(size), tuple(own.mean), tuple(own.std), own.interpolation.value
    )
