"""Data sets of images: named classes, which belong to one split each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch

from metalearn.data.augment import Augment
from metalearn.data.base import Dataset, TrainedOn
from metalearn.data.classes import SPLITS, ClassId, ClassSplit
from metalearn.data.container import FlatImages
from metalearn.data.fit import can_fit
from metalearn.data.normalize import Normalize
from metalearn.data.source import ImageTasks
from metalearn.data.store import Mapped, Resident
from metalearn.errors import UserError
from metalearn.kinds import CLASSIFICATION, Kind
from metalearn.tasks import Shape, TaskShape, VaryingShape


@dataclass(frozen=True, eq=False)
class ImageClasses(Dataset):
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
    kind: Kind = field(default=CLASSIFICATION, init=False)
    uneven: ClassVar[bool] = True

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
                f"{self.name} has images of {channels} channels, the model was trained on examples of the shape {list(shape)}"
            )
        return replace(self, shape=shape, normalize=Normalize.of(trained_on.normalize))

    def numbers(self, split: str) -> list[int]:
        """The indices in `images` of a split's classes, in the order of the split."""
        index = {name: number for number, name in enumerate(self.class_names)}
        return [index[name] for name in self.split.classes[split]]

    @property
    def resident_bytes(self) -> int:
        """See Dataset."""
        one = int(np.prod(self.images.images.shape[1:]))
        return sum(one * int(self.images.counts[self.numbers(split)].sum()) * self.rotations[split] for split in SPLITS)

    def kept_in_file(self) -> ImageClasses:
        """See Dataset."""
        return replace(self, mapped=True)

    def classes(self, split: str) -> tuple[ClassId, ...]:
        """Turned classes stand behind the upright ones: class c of C turned r times has the number r * C + c."""
        turns = self.rotations[split]
        names = self.split.classes[split]
        return tuple(ClassId(self.origin or self.name, name, r * 360 // turns) for r in range(turns) for name in names)

    def without_small_classes(self, least: int) -> ImageClasses:
        """The same data set without the classes of fewer than `least` images (`dataset.min_images`); its split says so in its name.

        Raises:
            UserError: a split is left without a class.
        """
        small = {name for name, count in zip(self.class_names, self.images.counts, strict=True) if count < least}
        kept = {
            split: tuple(name for name in names if name not in small) for split, names in self.split.classes.items()
        }
        if kept == self.split.classes:
            return self
        for split, names in kept.items():
            if not names and self.split.classes[split]:
                most = max(int(count) for count in self.images.counts[self.numbers(split)])
                raise UserError(
                    f"dataset.min_images={least} leaves no class in the {split} split of {self.name} (at most {most} does)"
                )
        return replace(self, split=ClassSplit(f"{self.split.name}-min{least}", kept))

    def source(
        self, split: str, seed: int, device: torch.device, augment: Mapping[str, float] | None = None
    ) -> ImageTasks:
        """See Dataset."""
        numbers, turns = self.numbers(split), self.rotations[split]
        store = (Mapped if self.mapped else Resident.of)(self.images, numbers, turns, device)
        return ImageTasks(
            self.name,
            split,
            self.classes(split),
            self.images.counts[numbers],
            store,
            seed,
            device,
            Augment(**augment or {}),
            self.normalize,
            self.shape,
        )

    def check_augment(self, augment: Mapping[str, float]) -> None:
        """Images can be changed by any amount that the configuration allows; colours only where they have one or three channels."""
        channels, asked = self.input_shape[0], Augment(**augment)
        if channels not in (1, 3) and asked.coloured:
            key = next(key for key in ("contrast", "saturation", "hue") if getattr(asked, key))
            raise UserError(
                f"train.augment.{key}={getattr(asked, key)}: the images of {self.name} have {channels} channels (needed: 1 or 3; allowed here: 0)"
            )

    def check(self, split: str, shape: Shape) -> None:
        """See Dataset."""
        names = self.split.classes[split]
        if not names:
            raise UserError(f"{self.name} cannot serve the {split} tasks: its {split} split has no class")
        key = "task.train" if split == "train" else "task"
        counts = dict(zip(names, self.images.counts[self.numbers(split)].tolist(), strict=True))
        classes = len(names) * self.rotations[split]
        smallest = min(names, key=lambda name: counts[name])
        images = counts[smallest]
        if isinstance(shape, VaryingShape):
            if faults := shape.faults(key, split, classes, smallest, images):
                raise UserError(f"{self.name} cannot serve the {split} tasks: {'; '.join(faults)}")
            return
        assert isinstance(shape, TaskShape)  # the data set does not say `varying_points`
        ways, shots, queries = shape
        faults = []
        if ways < 2:
            raise UserError(
                f"{self.name} cannot serve the {split} tasks: {key}.ways={ways}, tasks of classes need 2 or more"
            )
        if ways > classes:
            faults.append(f"{key}.ways={ways} needs {ways} classes, the {split} split has {classes}")
        if shots + queries > images:
            faults.append(
                f"{key}.shots={shots} + {key}.queries={queries} need {shots + queries} images of every class, '{smallest}' has {images}"
            )
        if faults:
            largest = f"{min(ways, classes)} ways"
            if images >= 2:
                fitting = min(shots, images - 1)
                largest += f", {fitting} shots, {min(queries, images - fitting)} queries"
            raise UserError(
                f"{self.name} cannot serve the {split} tasks: {'; '.join(faults)}; the largest that fits: {largest}"
            )
