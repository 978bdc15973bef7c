"""Data sets of named classes, which belong to one split each; tasks of N classes are drawn from them. What images and texts have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from torch import Tensor

from metalearn.data.base import Dataset
from metalearn.data.classes import SPLITS, ClassSplit
from metalearn.data.container import FlatImages
from metalearn.data.descriptions import DescriptionForm, Descriptions
from metalearn.errors import UserError
from metalearn.sizes import count_text
from metalearn.tasks import Shape, TaskShape, VaryingShape


class Classed(Dataset):
    """C classes of stored examples.

    Attributes:
        class_names: [C], in the order of what is stored.
        split: which of them belong to train, val and test.
        rotations: split -> how many classes of its tasks are made of one class.
        descriptions: of the classes; None: there are none.
    """

    class_names: tuple[str, ...]
    split: ClassSplit
    rotations: Mapping[str, int]
    descriptions: Descriptions | None
    examples_are: ClassVar[str] = "images"  # for messages
    uneven: ClassVar[bool] = True

    @property
    @abstractmethod
    def stored(self) -> FlatImages:
        """The examples of all classes, one after another."""

    @property
    @abstractmethod
    def one_example(self) -> str:
        """How large an example is, for people: `28x28 pixels, grey`."""

    @property
    def described_by(self) -> DescriptionForm | None:
        """See Dataset."""
        return None if self.descriptions is None else self.descriptions.form

    def described_classes(self, split: str) -> Tensor | None:
        """What describes each class of a split, in the order of `classes`: [C, ...]; None where nothing does."""
        return None if self.descriptions is None else self.descriptions.of(self.classes(split))

    def numbers(self, split: str) -> list[int]:
        """The indices in what is stored of a split's classes, in the order of the split."""
        index = {name: number for number, name in enumerate(self.class_names)}
        return [index[name] for name in self.split.classes[split]]

    def counts(self, split: str) -> list[int]:
        """How many examples each class of a split has, in the order of the split."""
        counts: list[int] = self.stored.counts[self.numbers(split)].tolist()
        return counts

    @property
    def resident_bytes(self) -> int:
        """See Dataset."""
        one = int(np.prod(self.stored.images.shape[1:]))
        return sum(one * sum(self.counts(split)) * self.rotations[split] for split in SPLITS)

    def split_without_small(self, least: int) -> ClassSplit:
        """The split without the classes of fewer than `least` examples (`dataset.min_images`, `dataset.min_texts`), which says so in its name.

        Raises:
            UserError: a part is left without a class.
        """
        small = {name for name, n in zip(self.class_names, self.stored.counts, strict=True) if n < least}
        kept = {
            split: tuple(name for name in names if name not in small) for split, names in self.split.classes.items()
        }
        if kept == self.split.classes:
            return self.split
        for split, names in kept.items():
            if not names and self.split.classes[split]:
                raise UserError(
                    f"dataset.min_{self.examples_are}={least} leaves no class in the {split} split of {self.name} "
                    f"(at most {max(self.counts(split))} does)"
                )
        return ClassSplit(f"{self.split.name}-min{least}", kept)

    def check(self, split: str, shape: Shape) -> None:
        """See Dataset."""
        names, what = self.split.classes[split], self.examples_are
        if not names:
            raise UserError(f"{self.name} cannot serve the {split} tasks: its {split} split has no class")
        key = "task.train" if split == "train" else "task"
        counts = dict(zip(names, self.counts(split), strict=True))
        classes = len(names) * self.rotations[split]
        smallest = min(names, key=lambda name: counts[name])
        there = counts[smallest]
        if isinstance(shape, VaryingShape):
            if faults := shape.faults(key, split, classes, smallest, there, what):
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
        if shots + queries > there:
            faults.append(
                f"{key}.shots={shots} + {key}.queries={queries} need {shots + queries} {what} of every class, '{smallest}' has {there}"
            )
        if faults:
            largest = count_text(min(ways, classes), "way")
            if there >= 2:
                fitting = min(shots, there - 1)
                largest += (
                    f", {count_text(fitting, 'shot')}, {count_text(min(queries, there - fitting), 'query', 'queries')}"
                )
            raise UserError(
                f"{self.name} cannot serve the {split} tasks: {'; '.join(faults)}; the largest that fits: {largest}"
            )
