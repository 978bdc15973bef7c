"""Models of timm, PyTorch Image Models (https://github.com/huggingface/pytorch-image-models), as backbones."""

from __future__ import annotations

from typing import Any

from metalearn.backbones.base import PretrainedOn
from metalearn.backbones.pretrained import Asked, Pretrained, Recipe
from metalearn.backbones.pretraining_data import UNKNOWN, imagenet1k
from metalearn.backbones.weights import check_sha256, load_into, read_weights
from metalearn.errors import UserError, nearest, one_line, shortened

_KNOWN = ("in1k", "in12k", "in21k", "in22k")  # in a tag: sets that hold the classes of ImageNet-1k


class TimmModel(Pretrained):
    """A model of timm without its last layer.

    Args:
        image_shape: (channels, height, width) of the images at hand.
        asked: the settings. Its name has the tag of weights: "vit_small_patch14_dinov2.lvd142m". Its weights are "default", those of the tag, from
            the cache of Hugging Face's hub or the internet; "none"; or the path of a file. `pretrained_on="auto"` knows that a tag such as "in1k"
            stands for ImageNet's classes; of all other weights they are unknown.
        from_weights: as for TorchvisionModel.

    Raises:
        UserError: timm is not installed or has no such model, or the weights cannot be had or do not fit.
    """

    def __init__(self, image_shape: tuple[int, int, int], asked: Asked, from_weights: bool = True) -> None:
        name, weights = asked.name, asked.weights
        timm = _timm()
        if not timm.is_model(name):
            raise UserError(
                f"backbone.name={name}: timm has no model of this name{nearest(name.partition('.')[0], timm.list_models())}"
            )
        fetched = weights == "default" and from_weights
        try:
            body = timm.create_model(name, pretrained=fetched, num_classes=0)
        except (OSError, RuntimeError, ValueError) as error:
            wanted = f"backbone.weights={weights}" if fetched else f"backbone.name={name}"
            cure = "; a file that is there: backbone.weights=FILE" if fetched else ""
            raise UserError(f"{wanted}: {name} cannot be had: {shortened(one_line(error), 200)}{cure}") from error
        seen: PretrainedOn | None = None
        if fetched:
            seen = _seen(str(body.pretrained_cfg.get("tag") or ""))
        elif weights != "none" and from_weights:
            given, seen = read_weights(weights, "backbone.weights"), UNKNOWN
            check_sha256(given, asked.sha256, weights, "backbone.weights")
            heads = body.pretrained_cfg.get("classifier") or ()
            load_into(body, given.tensors, (heads,) if isinstance(heads, str) else heads, f"backbone.weights={weights}")
        super().__init__(asked, body, _recipe(timm, body, asked.size), image_shape, seen)


def _timm() -> Any:
    try:
        import timm  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        raise UserError("backbone=timm needs the package timm: pip install timm") from error
    return timm


def _seen(tag: str) -> PretrainedOn:
    return imagenet1k() if any(tag.endswith(known) or f"{known}_" in tag for known in _KNOWN) else UNKNOWN


def _recipe(timm: Any, body: Any, size: int | str) -> Recipe:
    """How the network takes its images, by timm's own configuration of its weights."""
    own = timm.data.resolve_data_config({}, model=body)
    return Recipe(
        own["input_size"][1] if size == "auto" else int(size),
        tuple(own["mean"]),
        tuple(own["std"]),
        own["interpolation"] if own["interpolation"] == "bicubic" else "bilinear",
    )
