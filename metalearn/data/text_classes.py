"""Data sets of texts: named classes, which belong to one split each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch

from metalearn.data.base import TEXTS, TrainedOn
from metalearn.data.classed import Classed
from metalearn.data.classes import SPLITS, ClassId, ClassSplit
from metalearn.data.container import FlatImages
from metalearn.data.descriptions import Descriptions, descriptions
from metalearn.data.look import AsStored
from metalearn.data.source import ClassTasks
from metalearn.data.store import Mapped, Resident
from metalearn.errors import UserError
from metalearn.kinds import CLASSIFICATION, Kind


@dataclass(frozen=True, eq=False)
class TextClasses(Classed):
    """C classes of texts, from which tasks of N classes are drawn. A text is a tensor of its bytes, uint8 [length] (texts.py).

    Attributes:
        name: of the data set.
        texts: those of all classes, one after another.
        class_names: [C], in the order of `texts`.
        split: which of them belong to train, val and test.
        origin: of the classes; None: the data set's name.
        mapped: whether tasks are gathered from the file that `texts` are mapped from; else a source copies its split to the device.
        descriptions: of the classes; None: there are none.
    """

    name: str
    texts: FlatImages
    class_names: tuple[str, ...]
    split: ClassSplit
    origin: str | None = None
    mapped: bool = False
    descriptions: Descriptions | None = None
    kind: Kind = field(default=CLASSIFICATION, init=False)
    rotations: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 1), init=False)
    examples_are: ClassVar[str] = "texts"

    @property
    def form(self) -> str:
        """See Dataset."""
        return TEXTS

    @property
    def stored(self) -> FlatImages:
        """See Classed."""
        return self.texts

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """(bytes of the longest text,)."""
        return self.texts.images.shape[1:]

    def brought_to(self, trained_on: TrainedOn) -> TextClasses:
        """See Dataset: texts stay as they are, as a model of texts takes those of any length."""
        if trained_on.form != TEXTS:
            raise UserError(
                f"{self.name} has texts, the model was trained on {trained_on.form} of the shape {list(trained_on.shape)}"
            )
        return self

    def kept_in_file(self) -> TextClasses:
        """See Dataset."""
        return replace(self, mapped=True)

    def classes(self, split: str) -> tuple[ClassId, ...]:
        """See Dataset."""
        return tuple(ClassId(self.origin or self.name, name) for name in self.split.classes[split])

    def without_small_classes(self, least: int) -> TextClasses:
        """The same data set without the classes of fewer than `least` texts (`dataset.min_texts`); see `split_without_small`."""
        split = self.split_without_small(least)
        return self if split is self.split else replace(self, split=split)

    def with_descriptions(self, asked: str | None) -> TextClasses:
        """The same data set, its classes described as `dataset.descriptions` says; UserError where a file does not describe them."""
        return replace(self, descriptions=descriptions(asked, self.class_names, self.split))

    def source(
        self, split: str, seed: int, device: torch.device, augment: Mapping[str, float] | None = None
    ) -> ClassTasks:
        """See Dataset."""
        self.check_augment(augment or {})
        numbers = self.numbers(split)
        store = (Mapped if self.mapped else Resident.of)(self.texts, numbers, 1, device)
        return ClassTasks(
            self.name,
            split,
            self.classes(split),
            self.texts.counts[numbers],
            store,
            seed,
            device,
            AsStored(),
            self.described_classes(split),
        )

    @property
    def one_example(self) -> str:
        """See Classed."""
        bytes_ = (self.texts.images != 0).sum(1)
        return f"{int(bytes_.min())} to {int(bytes_.max())} bytes (median {np.median(bytes_):g})"
