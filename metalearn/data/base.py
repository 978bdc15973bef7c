"""What every data set is: tasks of one kind, in three splits. Nobody outside `data` knows more of one than what stands here.

Letters: T tasks in a batch, N ways, K shots, Q queries per class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from metalearn.data.ahead import Request
from metalearn.data.classes import ClassId
from metalearn.data.descriptions import DescriptionForm
from metalearn.data.features import FeatureMemory
from metalearn.errors import UserError
from metalearn.kinds import Kind
from metalearn.tasks import Shape, TaskBatch

IMAGES, TEXTS, NUMBERS = "images", "texts", "numbers"  # what the examples of a data set are


class Split(Protocol):
    """How a data set is divided into train, val and test; what results.json says about it."""

    @property
    def name(self) -> str:
        """The name of the split: a published one, or how it was drawn."""

    @property
    def sha256(self) -> str:
        """Two results with equal hashes were measured on the same test tasks' classes (or distribution)."""


class TrainedOn(NamedTuple):
    """What a model knows of the data set that it was trained on. Checkpoints store it: other data are brought to it for an evaluation."""

    shape: tuple[int, ...]  # of one example, as the network sees it
    classes: int  # of the training split, turned ones counted
    normalize: Mapping[str, Any] | None = None  # `dataset.normalize`
    form: str = IMAGES  # or TEXTS, NUMBERS
    outputs: int | None = None  # D, see Dataset
    columns: Mapping[str, Any] | None = None  # of a table: names and units (columns.py)
    descriptions: DescriptionForm | None = None  # of the classes; None: there are none

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> TrainedOn:
        """Reads what `record` made, in this version or one that knew no texts."""
        shape = tuple(record["shape"])
        form = record.get("form") or form_of_shape(shape)
        described = DescriptionForm.of(record.get("descriptions"))
        return cls(
            shape, record["classes"], record["normalize"], form, record.get("outputs"), record.get("columns"), described
        )

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "shape": list(self.shape),
            "classes": self.classes,
            "normalize": self.normalize and dict(self.normalize),
            "form": self.form,
            **({} if self.outputs is None else {"outputs": self.outputs}),
            **({} if self.columns is None else {"columns": dict(self.columns)}),
            **({} if self.descriptions is None else {"descriptions": self.descriptions.record()}),
        }


def form_of_shape(shape: tuple[int, ...]) -> str:
    """What examples are that are no texts: images have (channels, height, width)."""
    return IMAGES if len(shape) == 3 else NUMBERS


class Embedding(NamedTuple):
    """A network, for a source of tasks whose examples are to pass it once."""

    embed: Callable[[Tensor], Tensor]  # examples as a network sees them, [n, ...] -> [n, D]
    dim: int  # D
    fingerprint: Callable[[], str] | None = (
        None  # of the network, where features are to be kept for other sources; None: for this one alone
    )
    memory: FeatureMemory | None = None  # where they are kept; None: on the disk


class TaskSource(ABC):
    """A seeded stream of tasks from one split. Task i is a pure function of (seed, split, i) and of the shape that is asked for."""

    name: str  # of the data set
    kind: Kind
    split: str  # "train", "val" or "test"
    device: torch.device  # where the batches are made
    classes: tuple[ClassId, ...]  # of the split, in the order of TaskBatch.classes; empty where tasks have none
    has_raw_descriptions: bool = (
        False  # whether tasks have descriptions of their classes, of which `described_once` made nothing yet
    )
    is_embedded: bool = False  # whether `embedded` made it

    @abstractmethod
    def tasks(self, first: int, count: int, shape: Shape) -> TaskBatch:
        """Tasks first .. first+count-1: support x [count, N*K, ...], query x [count, N*Q, ...].

        Where the data set describes its classes, support has their descriptions. A VaryingShape is only asked for where the data set says `uneven`,
        VaryingPoints where it says `varying_points`.
        """

    @property
    def examples(self) -> int | None:
        """How many different examples all tasks are made of; None where that is not known, or where each is changed at random."""
        return None

    def prepare(self, request: Request) -> Any:
        """The part of making tasks that needs no device, for `finish`; any thread may do it. By default nothing."""
        return request

    def finish(self, prepared: Any) -> TaskBatch:
        """The tasks of a request that was prepared; each once."""
        return self.tasks(prepared.first, prepared.count, prepared.shape)

    @property
    def gathered(self) -> bool:
        """Whether `prepare` reads examples from a file, so that it is worth doing ahead."""
        return False

    def close(self) -> None:
        """Ends what goes on in the background, by default nothing; the tasks can still be asked for."""
        return

    def embedded(self, embedding: Embedding) -> TaskSource:
        """The same tasks of features [n, D]: each example passes the network once, when a task first has it; only where `examples` is a number."""
        raise NotImplementedError

    def described_once(self, describe: Callable[[Tensor], Tensor]) -> TaskSource:
        """The same tasks, with what a network makes of the descriptions of classes, [n, ...] -> [n, E]: each passes it once, when a task first asks.

        Only where tasks have descriptions, and nothing was made of them yet.
        """
        raise NotImplementedError

    def further_scores(self, tasks: TaskBatch, outputs: Tensor) -> dict[str, Tensor]:
        """What reports say of test tasks beside their score, such as the error in a unit of the user's: name -> [T]; by default nothing.

        Args:
            outputs: what was predicted for the queries, [T, n, ...].
        """
        return {}

    def every_example(self) -> Iterator[Tensor]:
        """Every example that tasks are made of once, in chunks [n, ...], as a network sees it, but not changed at random.

        Raises:
            UserError: there is no end of them.
        """
        raise UserError(
            f"{self.name} makes its examples as it goes, or does not list them: nothing can be taken from all of them"
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes as checkpoints store them."""
        return tuple(str(class_) for class_ in self.classes)


class Dataset(ABC):
    """Tasks of one kind. Made from `conf/dataset/<name>.yaml` by a class, or by a function annotated to return one."""

    name: str
    kind: Kind
    input_shape: tuple[int, ...]  # of one example, without the task's axes
    split: Split
    outputs: int | None = (
        None  # D, the numbers that are predicted for an example; None: 1, or as many as a task has classes
    )
    uneven: ClassVar[bool] = False  # whether its sources and `check` know VaryingShape: tasks of uneven size
    varying_points: ClassVar[bool] = (
        False  # whether they know VaryingPoints: functions with other numbers of support points
    )

    @property
    def form(self) -> str:
        """What the examples are: IMAGES, TEXTS (uint8 [length], see texts.py) or NUMBERS."""
        return form_of_shape(self.input_shape)

    @abstractmethod
    def check(self, split: str, shape: Shape) -> None:
        """Raises UserError, with both numbers and the largest task that fits, where the split cannot serve such tasks."""

    @abstractmethod
    def source(
        self, split: str, seed: int, device: torch.device, augment: Mapping[str, float] | None = None
    ) -> TaskSource:
        """The stream of tasks of one split.

        Args:
            split: "train", "val" or "test".
            seed: of the stream.
            device: where the examples live and the batches are made.
            augment: `train.augment`, how much every example is changed at random; None or zeros: not at all.

        Raises:
            UserError: this data set cannot be augmented so.
        """

    @property
    def trained_on(self) -> TrainedOn:
        """What a model that is trained on this data set knows of it."""
        return TrainedOn(
            self.input_shape,
            len(self.classes("train")),
            form=self.form,
            outputs=self.outputs,
            descriptions=self.described_by,
        )

    def brought_to(self, trained_on: TrainedOn) -> Dataset:
        """This data set, its examples in the form of those that a model was trained on.

        Raises:
            UserError: they cannot be brought to it.
        """
        if (trained_on.form, trained_on.shape) != (self.form, self.input_shape):
            raise UserError(
                f"{self.name} has {self.form} of the shape {list(self.input_shape)}, the model was trained on {trained_on.form} "
                f"of the shape {list(trained_on.shape)}"
            )
        return self

    @property
    def resident_bytes(self) -> int | None:
        """What the sources of all splits together keep on the device; None, as by default: nothing that could lie elsewhere."""
        return None

    def kept_in_file(self) -> Dataset:
        """The same data set, whose sources gather examples from a mapped file instead of keeping them on the device; only with `resident_bytes`."""
        raise NotImplementedError

    def classes(self, split: str) -> tuple[ClassId, ...]:
        """The classes that the split's tasks are made of; none by default."""
        return ()

    def described(self, split: str) -> str:
        """What a split holds, for `metalearn data check`; by default nothing."""
        return ""

    @property
    def described_by(self) -> DescriptionForm | None:
        """What the descriptions of the classes look like that the tasks of all splits come with; None, as by default: nothing describes them."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever reads a result has to know of the examples, one line each; by default nothing."""
        return ()

    def check_augment(self, augment: Mapping[str, float]) -> None:
        """Raises UserError where `train.augment` asks for what this data set cannot do; by default any amount above 0 is too much."""
        asked = {key: amount for key, amount in augment.items() if amount}
        if asked:
            key, amount = next(iter(asked.items()))
            raise UserError(
                f"train.augment.{key}={amount}: {self.name} has no images that could be changed (allowed: 0)"
            )
