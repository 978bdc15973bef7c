"""Data sets of images: named classes, which belong to one split each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from metalearn.data.augment import Augment
from metalearn.data.base import TrainedOn
from metalearn.data.classed import Classed
from metalearn.data.classes import ClassId, ClassSplit
from metalearn.data.container import FlatImages
from metalearn.data.descriptions import Descriptions, descriptions
from metalearn.data.fit import can_fit
from metalearn.data.look import AsPixels
from metalearn.data.normalize import Normalize
from metalearn.data.source import ClassTasks
from metalearn.data.store import Mapped, Resident
from metalearn.errors import UserError
from metalearn.kinds import CLASSIFICATION, Kind
from metalearn.sizes import count_text


@dataclass(frozen=True, eq=False)
class ImageClasses(Classed):
    """C classes of images, from which tasks of N classes are drawn.

    Attributes:
        name: of the data set.
        images: those of all classes, one after another.
        class_names: [C], in the order of `images`.
        split: which of them belong to train, val and test.
        rotations: split -> 1, 2 or 4: every class again, turned by multiples of 90 degrees.
        origin: of the classes; None: the data set's name. Data sets made of the same images share one, and their names of classes: a class is
            recognised across them.
        normalize: what happens to each channel, once it is divided by 255; None: nothing.
        shape: (channels, height, width) that every image is brought to (`fit.fitted`); None: as they are stored.
        mapped: whether tasks are gathered from the file that `images` are mapped from; else a source copies its split to the device.
        descriptions: of the classes; None: there are none.

    Raises:
        UserError: `normalize` is for another number of channels, or images that are not square are to be turned by 90 degrees.
    """

    name: str
    images: FlatImages
    class_names: tuple[str, ...]
    split: ClassSplit
    rotations: Mapping[str, int]
    origin: str | None = None
    normalize: Normalize | None = None
    shape: tuple[int, ...] | None = None
    mapped: bool = False
    descriptions: Descriptions | None = None
    kind: Kind = field(default=CLASSIFICATION, init=False)

    def __post_init__(self) -> None:
        if self.normalize is not None:
            self.normalize.check(self.input_shape[0])
        _, height, width = self.images.images.shape[1:]
        turned = [split for split, turns in self.rotations.items() if turns == 4]
        if turned and height != width:
            raise UserError(
                f"dataset.rotations.{turned[0]}=4: the images of {self.name} have {height}x{width} pixels, "
                "only square ones can be turned by 90 degrees (allowed: 1 or 2)"
            )

    @property
    def stored(self) -> FlatImages:
        """See Classed."""
        return self.images

    @property
    def one_example(self) -> str:
        """See Classed."""
        channels, height, width = self.input_shape
        colours = "grey" if channels == 1 else "RGB" if channels == 3 else f"{channels} channels"
        return f"{width}x{height} pixels, {colours}"

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """(channels, height, width)."""
        return self.shape or self.images.images.shape[1:]

    @property
    def trained_on(self) -> TrainedOn:
        """See Dataset."""
        return super().trained_on._replace(normalize=None if self.normalize is None else self.normalize.record())

    def brought_to(self, trained_on: TrainedOn) -> ImageClasses:
        """See Dataset: images of another size are resized, a grey channel is repeated, colours become grey."""
        channels, shape = self.images.images.shape[1], trained_on.shape
        if len(shape) != 3 or not can_fit(channels, shape[0]):
            raise UserError(
                f"{self.name} has images of {count_text(channels, 'channel')}, the model was trained on {trained_on.form} of the shape {list(shape)}"
            )
        return replace(self, shape=shape, normalize=Normalize.of(trained_on.normalize))

    def kept_in_file(self) -> ImageClasses:
        """See Dataset."""
        return replace(self, mapped=True)

    def classes(self, split: str) -> tuple[ClassId, ...]:
        """Turned classes stand behind the upright ones: class c of C turned r times has the number r * C + c."""
        turns = self.rotations[split]
        names = self.split.classes[split]
        return tuple(ClassId(self.origin or self.name, name, r * 360 // turns) for r in range(turns) for name in names)

    def without_small_classes(self, least: int) -> ImageClasses:
        """The same data set without the classes of fewer than `least` images (`dataset.min_images`); see `split_without_small`."""
        split = self.split_without_small(least)
        return self if split is self.split else replace(self, split=split)

    def with_descriptions(self, asked: str | None) -> ImageClasses:
        """The same data set, its classes described as `dataset.descriptions` says; UserError where a file does not describe them."""
        return replace(self, descriptions=descriptions(asked, self.class_names, self.split))

    def source(
        self, split: str, seed: int, device: torch.device, augment: Mapping[str, float] | None = None
    ) -> ClassTasks:
        """See Dataset."""
        numbers, turns = self.numbers(split), self.rotations[split]
        store = (Mapped if self.mapped else Resident.of)(self.images, numbers, turns, device)
        return ClassTasks(
            self.name,
            split,
            self.classes(split),
            self.images.counts[numbers],
            store,
            seed,
            device,
            AsPixels(Augment(**augment or {}), self.normalize, self.shape),
            self.described_classes(split),
        )

    def check_augment(self, augment: Mapping[str, float]) -> None:
        """Images can be changed by any amount that the configuration allows; colours only where they have one or three channels."""
        channels, asked = self.input_shape[0], Augment(**augment)
        if channels not in (1, 3) and asked.coloured:
            key = next(key for key in ("contrast", "saturation", "hue") if getattr(asked, key))
            raise UserError(
                f"train.augment.{key}={getattr(asked, key)}: the images of {self.name} have {channels} channels (needed: 1 or 3; allowed here: 0)"
            )
