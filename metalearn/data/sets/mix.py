"""Several data sets in one: each task has its classes from one of them, its source (Triantafillou et al. 2020, https://arxiv.org/abs/1903.03096).

A training task's source is drawn by `weights`. Validation and test tasks come from the sources in turn, so that each has the same part of them:
with S sources, in the order of their names, task i is task i // S of source i % S, as that data set alone would have it.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from metalearn.data.ahead import Ahead, Request
from metalearn.data.base import Dataset, Embedding, TaskSource, TrainedOn
from metalearn.data.classes import SPLITS, ClassId
from metalearn.data.descriptions import DescriptionForm
from metalearn.data.files.published import About
from metalearn.data.fit import can_fit
from metalearn.data.normalize import Normalize
from metalearn.data.numbers import Stream, unit
from metalearn.errors import UserError
from metalearn.kinds import CLASSIFICATION, Kind
from metalearn.tasks import SOURCE, Shape, TaskBatch, VaryingShape, joined

ABOUT = About(
    "tasks from several data sets, each task from one", "https://arxiv.org/abs/1903.03096", "those of its sources"
)
_SOURCE = 5  # the purpose of the random word that draws a task's source


@dataclass(frozen=True)
class MixSplit:
    """How the sources are divided: each as it is by itself."""

    name: str
    sha256: str

    @classmethod
    def of(cls, sources: Mapping[str, Dataset]) -> MixSplit:
        text = "\n".join(f"{name}\t{source.split.sha256}" for name, source in sources.items())
        names = ", ".join(f"{name} {source.split.name}" for name, source in sources.items())
        return cls(names, hashlib.sha256(text.encode()).hexdigest())


class Mix(Dataset):
    """Tasks of several data sets of images.

    Args:
        sources: by name; their order means nothing.
        weights: name -> how often training tasks come from it, in proportion; None: equally often.
        size: height and width of the images in pixels; those of another size are resized.
        channels: 1 or 3; the other number becomes this one by repetition or as brightness.
        normalize: of all images, in place of what their data sets do; None: only divided by 255.

    Raises:
        UserError: a source has no images or classes, a source's training class is a validation or test class of another, the weights name
            other sources, or `normalize` is for another number of channels.
    """

    uneven: ClassVar[bool] = True
    name = "mix"
    kind: Kind = CLASSIFICATION

    def __init__(
        self,
        sources: Mapping[str, Dataset],
        weights: Mapping[str, float] | None,
        size: int,
        channels: int,
        normalize: Normalize | None = None,
    ) -> None:
        self.originals = dict(sorted(sources.items()))
        self.weights, self.normalize = weights, normalize
        if weights is not None and set(weights) != set(sources):
            raise UserError(
                f"dataset.weights: they are for {', '.join(sorted(weights))}; the sources are {', '.join(self.originals)}"
            )
        if normalize is not None:
            normalize.check(channels)
        self.input_shape = (channels, size, size)
        self.split = MixSplit.of(self.originals)
        self.sources = {name: self._brought(name, source) for name, source in self.originals.items()}
        self._refuse_leaks()

    def classes(self, split: str) -> tuple[ClassId, ...]:
        """Those of the first source, then those of the second, ..., which keep their origins."""
        return tuple(itertools.chain.from_iterable(source.classes(split) for source in self.sources.values()))

    @property
    def trained_on(self) -> TrainedOn:
        """See Dataset."""
        return super().trained_on._replace(normalize=None if self.normalize is None else self.normalize.record())

    def brought_to(self, trained_on: TrainedOn) -> Mix:
        """See Dataset: what the model saw takes the place of `size`, `channels` and `normalize`."""
        if len(trained_on.shape) != 3 or trained_on.shape[1] != trained_on.shape[2]:
            raise UserError(
                f"{self.name} has square images, the model was trained on examples of the shape {list(trained_on.shape)}"
            )
        channels, size, _ = trained_on.shape
        return Mix(self.originals, self.weights, size, channels, Normalize.of(trained_on.normalize))

    @property
    def resident_bytes(self) -> int | None:
        """See Dataset."""
        known = [source.resident_bytes for source in self.originals.values()]
        return None if None in known else sum(size for size in known if size is not None)

    def kept_in_file(self) -> Mix:
        """See Dataset."""
        mapped = {name: source.kept_in_file() for name, source in self.originals.items()}
        channels, size, _ = self.input_shape
        return Mix(mapped, self.weights, size, channels, self.normalize)

    @property
    def described_by(self) -> DescriptionForm | None:
        """See Dataset: where the descriptions of all sources are alike."""
        forms = [source.described_by for source in self.sources.values()]
        first = forms[0]
        if first is None or not all(first.alike(form) for form in forms):
            return None
        return first._replace(shape=max(form.shape for form in forms if form is not None))

    @property
    def notes(self) -> tuple[str, ...]:
        """What happens to the images of which source."""
        changed = {name: _change(source.input_shape, self.input_shape) for name, source in self.originals.items()}
        return tuple(f"images of {name}: {change}" for name, change in changed.items() if change)

    def check(self, split: str, shape: Shape) -> None:
        """See Dataset; each source has to serve such tasks."""
        for name, source in self.sources.items():
            if isinstance(shape, VaryingShape) and not source.uneven:
                raise UserError(f"dataset.sources: {name} has no tasks of uneven size (task=varying)")
            try:
                source.check(split, shape)
            except UserError as error:
                raise UserError(f"dataset.sources: {error}") from error

    def check_augment(self, augment: Mapping[str, float]) -> None:
        for source in self.sources.values():
            source.check_augment(augment)

    def source(
        self, split: str, seed: int, device: torch.device, augment: Mapping[str, float] | None = None
    ) -> TaskSource:
        """See Dataset."""
        parts = {name: source.source(split, seed, device, augment) for name, source in self.sources.items()}
        weights = [1.0 if self.weights is None else self.weights[name] for name in self.sources]
        return MixTasks(self.name, split, parts, weights, seed, device, self.described_by is not None)

    def _brought(self, name: str, source: Dataset) -> Dataset:
        """A source with images of the mix's shape."""
        if source.kind is not CLASSIFICATION or len(source.input_shape) != 3:
            raise UserError(f"dataset.sources: {name} has no classes of images")
        if not can_fit(source.input_shape[0], self.input_shape[0]):
            raise UserError(
                f"dataset.sources: {name} has images of {source.input_shape[0]} channels; dataset.channels={self.input_shape[0]} needs 1 or 3"
            )
        return source.brought_to(self._form(source))

    def _form(self, source: Dataset) -> TrainedOn:
        """What a source's images are brought to."""
        record = None if self.normalize is None else self.normalize.record()
        return TrainedOn(self.input_shape, len(source.classes("train")), record)

    def _refuse_leaks(self) -> None:
        upright = {
            name: {split: {one.upright for one in source.classes(split)} for split in SPLITS}
            for name, source in self.sources.items()
        }
        for one, other in itertools.permutations(self.sources, 2):
            for held_out in ("val", "test"):
                both = upright[one]["train"] & upright[other][held_out]
                if both:
                    raise UserError(
                        f"dataset.sources: {len(both)} training classes of {one} are {held_out} classes of {other}, '{min(both)}' for one"
                    )


class MixTasks(TaskSource):
    """The tasks of one split of a mix.

    Args:
        sources: the tasks of each, by name.
        weights: [S], how often training tasks come from each.
        described: whether tasks come with the descriptions of their classes.
    """

    kind: Kind = CLASSIFICATION

    def __init__(
        self,
        name: str,
        split: str,
        sources: Mapping[str, TaskSource],
        weights: Sequence[float],
        seed: int,
        device: torch.device,
        described: bool = False,
    ) -> None:
        self.name, self.split, self.device, self._described = name, split, device, described
        self.has_raw_descriptions = described
        self.classes = tuple(itertools.chain.from_iterable(source.classes for source in sources.values()))
        counts = [len(source.classes) for source in sources.values()]
        self._first_class = [sum(counts[:number]) for number in range(len(counts))]
        self._names = list(sources)
        self._keep(list(sources.values()))
        self._ends = np.cumsum(weights) / np.sum(weights)
        self._stream = Stream(seed, split)

    def tasks(self, first: int, count: int, shape: Shape) -> TaskBatch:
        """See TaskSource; `about` says the source of each."""
        return self.finish(self._prepared(Request(first, count, shape)))

    def prepare(self, request: Request) -> list[tuple[int, Any]]:
        """See TaskSource: the source of each task, and what that prepared."""
        places = map(self.place, range(request.first, request.first + request.count))
        return [(which, self._sources[which].prepare(Request(there, 1, request.shape))) for which, there in places]

    def finish(self, prepared: list[tuple[int, Any]]) -> TaskBatch:
        """See TaskSource."""
        return joined([self._task(which, task) for which, task in prepared])

    @property
    def gathered(self) -> bool:
        """See TaskSource."""
        return any(source.gathered for source in self._sources)

    def close(self) -> None:
        """See TaskSource."""
        if self._ahead is not None:
            self._ahead.close()

    def place(self, number: int) -> tuple[int, int]:
        """Which source task `number` is from, and its number there."""
        if self.split != "train":
            return number % len(self._sources), number // len(self._sources)
        drawn = unit(self._stream.words(number, 1, 1, _SOURCE))[0, 0]
        return int(np.searchsorted(self._ends, drawn, side="right")), number

    def _keep(self, sources: list[TaskSource]) -> None:
        self._sources = sources
        self._ahead = Ahead(self.prepare) if self.gathered else None
        self._prepared = self._ahead or self.prepare

    def _task(self, which: int, prepared: Any) -> TaskBatch:
        task = self._sources[which].finish(prepared)
        about = {**task.about, SOURCE: (self._names[which],)}
        support = task.support if self._described else task.support._replace(descriptions=None)
        return TaskBatch(support, task.query, task.classes + self._first_class[which], about)

    @property
    def examples(self) -> int | None:
        known = [source.examples for source in self._sources]
        return sum(number for number in known if number is not None) if None not in known else None

    def every_example(self) -> Iterator[Tensor]:
        """See TaskSource: those of one source after the other."""
        return itertools.chain.from_iterable(source.every_example() for source in self._sources)

    def embedded(self, embedding: Embedding) -> MixTasks:
        """See TaskSource."""
        made = copy.copy(self)
        made._keep([source.embedded(embedding) for source in self._sources])
        made.is_embedded = True
        return made

    def described_once(self, describe: Callable[[Tensor], Tensor]) -> MixTasks:
        """See TaskSource."""
        made = copy.copy(self)
        made._keep([source.described_once(describe) for source in self._sources])
        made.has_raw_descriptions = False
        return made


def load(
    sources: Mapping[str, Dataset],
    weights: Mapping[str, float] | None,
    size: int,
    channels: int,
    normalize: Mapping[str, Sequence[float]] | None,
) -> Mix:
    """See Mix; the settings of `conf/dataset/mix.yaml`."""
    return Mix(sources, weights, size, channels, Normalize.of(normalize))


def _change(shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """`105x105 to 28x28 pixels, 3 channels to 1`; nothing where images stay as they are."""
    parts = []
    if wanted[1:] != shape[1:]:
        parts.append(f"{shape[1]}x{shape[2]} to {wanted[1]}x{wanted[2]} pixels")
    if wanted[0] != shape[0]:
        parts.append(f"{shape[0]} channel{'s' if shape[0] > 1 else ''} to {wanted[0]}")
    return ", ".join(parts)
