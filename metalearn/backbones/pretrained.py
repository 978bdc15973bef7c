"""Networks of a library, with weights that were learned elsewhere, as backbones: what such libraries have in common.

A library's module (from_torchvision.py, from_timm.py) makes the network without its last layer and says how it takes its images. Here images
are brought to that, and the network is frozen, in part or whole, or given low-rank adapters.

Departures from the networks as their authors train them: an image is resized to the network's size as a whole, nothing is cut off; no dropout
and no stochastic depth, so that a task's loss depends on nothing but the task.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from metalearn.backbones.base import Backbone, PretrainedOn, TwoParts
from metalearn.backbones.last_block import choose_changing
from metalearn.backbones.low_rank import add_adapters
from metalearn.backbones.pretraining_data import UNKNOWN, imagenet1k, stated
from metalearn.errors import UserError, one_line, shortened
from metalearn.nn.division import Division, FixedLayers, divided
from metalearn.nn.memory_format import channels_last

# That a CPU thread takes at a time where no gradient follows, so that what layers hand on stays in its cache. MobileNetV2 on one core of an AMD
# EPYC, ms per image: 3.4 instead of 9.7 with 256 images of 96x96 at a time, 20 instead of 62 with 64 of 224x224.
_PIXELS = 200_000
_INTERPOLATIONS = ("bilinear", "bicubic")
_DROPPING = ("p", "drop_prob")  # of dropout, and of stochastic depth
# More weights than this, and the length of the features is found from shapes alone. That imports torch's compiler, more than a CPU second: longer
# than two images take on one core with ViT-B/16 (86 million weights), 0.8 s, or MobileNetV2, 0.06 s.
_LARGE = 100_000_000


class Recipe(NamedTuple):
    """How a network takes its images."""

    size: int  # height and width in pixels
    mean: tuple[float, ...]  # of red, green and blue, in 0..1
    std: tuple[float, ...]
    interpolation: str  # "bilinear" or "bicubic"


class Asked(NamedTuple):
    """The settings that the networks of all libraries have, under the names that they have in `conf/backbone/`."""

    name: str  # as the library knows it
    weights: str  # "default", "none" for random ones, a name of the library's own, or the path of a file
    sha256: str | None  # what the file's checksum must begin with; None: anything
    size: int | str  # of the images that it is given, in pixels; "auto": what its weights were learned with
    train: str  # what training changes: "none", "last_block" or "all"
    lora_rank: int  # above 0: adapters of this rank are trained instead
    pretrained_on: str  # the classes that the weights saw: "auto", "imagenet1k", "nothing" or "unknown"


class Pretrained(Backbone):
    """A network that knows colour images of a size of its own.

    Args:
        asked: the settings.
        body: [n, 3, size, size] -> [n, D].
        recipe: how it takes its images.
        image_shape: (channels, height, width) of the images at hand, one channel or three.
        seen: the data that the weights come from; None: they start at random.

    Raises:
        UserError: the images have another number of channels, the network cannot take images of this size, or `train` and `lora_rank` exclude
            each other.
    """

    normalizes = True
    uses_batch_statistics = False
    mean: Tensor
    std: Tensor
    known: Tensor

    def __init__(
        self,
        asked: Asked,
        body: nn.Module,
        recipe: Recipe,
        image_shape: tuple[int, int, int],
        seen: PretrainedOn | None,
    ) -> None:
        super().__init__()
        name, train, lora_rank = asked.name, asked.train, asked.lora_rank
        pretrained_on = stated(asked.pretrained_on, seen)
        recipe = recipe._replace(mean=_single(recipe.mean), std=_single(recipe.std))  # as a checkpoint gives them back
        if image_shape[0] not in (1, 3):
            raise UserError(f"backbone.name={name} takes grey or colour images, these have {image_shape[0]} channels")
        if lora_rank and train != "none":
            raise UserError(
                f"backbone.lora_rank={lora_rank} trains adapters instead of weights: it needs backbone.train=none, not {train}"
            )
        self.name, self.changes, self.lora_rank = name, train, lora_rank
        self.recipe, self.pretrained_on = recipe, pretrained_on
        self._made: dict[str, Any] = {}  # of the layers, when it is first asked for
        _never_drop(body)
        self.feature_dim = _feature_dim(name, body, recipe.size)
        self.body = body
        self._trained = choose_changing(body, train)
        if lora_rank:
            add_adapters(body, lora_rank)
        self.register_buffer("mean", torch.tensor(recipe.mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(recipe.std, dtype=torch.float32).view(3, 1, 1))
        # With these a checkpoint is whole: it can be used where the file of weights is not.
        known = [None, imagenet1k(), UNKNOWN].index(pretrained_on)
        self.register_buffer("known", torch.tensor([recipe.size, _INTERPOLATIONS.index(recipe.interpolation), known]))
        self.register_load_state_dict_post_hook(Pretrained._as_loaded)  # type: ignore[no-untyped-call]
        self.train()

    def _as_loaded(self, _: object) -> None:
        """What a checkpoint says of the weights replaces what the configuration made of them."""
        size, interpolation, known = self.known.tolist()
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        self.recipe = Recipe(size, tuple(mean), tuple(std), _INTERPOLATIONS[interpolation])
        self.pretrained_on = [None, imagenet1k(), UNKNOWN][known]
        self._made = {}

    @property
    def frozen(self) -> bool:
        return self.changes == "none" and not self.lora_rank

    def train(self, mode: bool = True) -> Pretrained:
        """Only what is trained is ever in training mode: the running statistics of the rest stay as they are."""
        super().train(False)
        self.training = mode
        for module in self._trained:
            module.train(mode)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}  # a copy makes its own

    def extra_repr(self) -> str:
        return f"{self.name}, {self.recipe}"

    def refuse_inner_loop(self) -> None:
        if self.changes != "all":
            how = f"backbone.lora_rank={self.lora_rank}" if self.lora_rank else f"backbone.train={self.changes}"
            raise UserError(
                f"{how} leaves weights of the backbone fixed, this algorithm adapts all of them to each task: backbone.train=all, or an "
                "algorithm that adapts the head alone"
            )
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules()):
            raise UserError(
                f"backbone.name={self.name} has batch normalisation: an inner loop cannot use running statistics, they fit no task's own "
                "parameters; take a network with layer normalisation (vit_*, swin_*, convnext_*), or an algorithm that adapts the head alone"
            )

    def in_two_parts(self) -> TwoParts | None:
        if "parts" not in self._made:
            self._made["parts"] = self._divided() if self.changes == "last_block" else None
        parts: TwoParts | None = self._made["parts"]
        return parts

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, c, H, W] from 0 to 1 -> [n, D]."""
        here = x.device.type == "cpu" and not torch.compiler.is_compiling()
        parts = self.in_two_parts() if here and not x.requires_grad else None
        if parts is not None:
            features: Tensor = parts.behind(parts.fixed(x))
            return features
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if not here or torch.is_grad_enabled() or (self.training and not self.frozen):
                whole: Tensor = self.body(self.taken(x))
                return whole
            return self._by_pieces(x, self._fixed_layers().now() if self.frozen else self.body)

    def _by_pieces(self, x: Tensor, layers: Callable[[Tensor], Tensor]) -> Tensor:
        together = max(1, _PIXELS // self.recipe.size**2) * torch.get_num_threads()
        return torch.cat([layers(channels_last(self.taken(part))) for part in torch.split(x, together)])

    def _fixed_layers(self) -> FixedLayers:
        """All of them, where the network is frozen."""
        if "layers" not in self._made:
            self._made["layers"] = FixedLayers(self.body)
        layers: FixedLayers = self._made["layers"]
        return layers

    def _divided(self) -> TwoParts | None:
        generator = torch.Generator().manual_seed(0)
        examples = torch.randn(2, 3, self.recipe.size, self.recipe.size, generator=generator).to(self.mean)
        was_training = self.training
        self.train(False)  # the examples must not count in running statistics
        division = divided(self.body, self._trained, examples)
        self.train(was_training)
        if division is None:
            return None
        layers = FixedLayers(self.body, division.fixed)

        def fixed(x: Tensor) -> Tensor:
            now = layers.now()
            with torch.no_grad():
                return self._by_pieces(x, lambda images: torch.cat([part.flatten(1) for part in now(images)], 1))

        behind = _Behind(self.body, self._trained, division, self.feature_dim)
        return TwoParts(fixed, sum(shape.numel() for shape in division.shapes), behind)

    def taken(self, x: Tensor) -> Tensor:
        """Images [n, c, H, W] from 0 to 1 as the network knows them: [n, 3, size, size]."""
        height, width = x.shape[-2:]
        if (height, width) != (self.recipe.size, self.recipe.size):
            # Interpolation is linear in the pixels: two products of matrices do it, under vmap too, and grey images once for all channels.
            down, across = (
                _resizing(edge, self.recipe.size, self.recipe.interpolation).to(x) for edge in (height, width)
            )
            x = (down @ x @ across.T).clamp(0, 1)
        return (x - self.mean) / self.std


class _Behind(Backbone):
    """The layers of a network that change: what crosses to them from the fixed ones, flattened, [n, M] -> [n, D]."""

    uses_batch_statistics = False

    def __init__(self, body: nn.Module, trained: list[nn.Module], division: Division, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim, self.body, self._trained = feature_dim, body, trained
        self._shapes = division.shapes
        self._run = fx.Interpreter(body, graph=division.behind).run

    def train(self, mode: bool = True) -> _Behind:
        """The fixed layers stay as they are."""
        self.training = mode
        for module in self._trained:
            module.train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        crossing = torch.split(x, [shape.numel() for shape in self._shapes], 1)
        # Copies, so that no operation in place reaches what is kept.
        given = [
            channels_last(one.reshape(len(x), *shape).clone())
            for one, shape in zip(crossing, self._shapes, strict=True)
        ]
        features: Tensor = self._run(*given)
        return features


def _single(values: tuple[float, ...]) -> tuple[float, ...]:
    """In single precision."""
    return tuple(torch.tensor(values, dtype=torch.float32).tolist())


def _never_drop(body: nn.Module) -> None:
    for module in body.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ in (
            "StochasticDepth",
            "DropPath",
        ):
            for name in _DROPPING:
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0


def _feature_dim(name: str, body: nn.Module, size: int) -> int:
    """D, of a network that may be left in evaluation mode."""
    large = sum(weight.numel() for weight in body.parameters()) > _LARGE
    layers, device = (copy.deepcopy(body).to("meta"), "meta") if large else (body, "cpu")
    try:
        with torch.no_grad():
            features: Tensor = layers.eval()(torch.zeros(2, 3, size, size, device=device))
    except Exception as error:  # each network has words of its own for a size that it cannot take
        raise UserError(
            f"backbone.size={size}: {name} cannot take images of {size}x{size} pixels: {shortened(one_line(error), 200)}"
        ) from error
    if features.dim() != 2:
        raise UserError(f"backbone.name={name} returns {list(features.shape)}, not one vector for each image")
    return features.shape[1]


@functools.lru_cache(maxsize=16)
def _resizing(edge: int, size: int, interpolation: str) -> Tensor:
    """[size, edge]: what interpolation does to a column of pixels; where it becomes shorter, with averages over all that is covered."""
    columns = functional.interpolate(
        torch.eye(edge).view(1, 1, edge, edge),
        (size, edge),
        mode=interpolation,
        align_corners=False,
        antialias=size < edge,
    )
    return columns[0, 0]
