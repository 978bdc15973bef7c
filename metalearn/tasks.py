"""The one type that crosses every module border: a batch of few-shot tasks.

Letters, the same everywhere: T tasks in the batch, N ways, K shots (support examples per class), Q queries per class.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from metalearn.errors import UserError

VARYING = "varying"  # a size that is drawn for each task
SOURCE = "source"  # in `TaskBatch.about`: the data set that a task is from, where there are several


class TaskShape(NamedTuple):
    """How large a task is, where all are of one size."""

    ways: int  # N; 1 where a task has no classes
    shots: int  # K, support examples per class; 0: classes are described instead (`Examples.descriptions`)
    queries: int  # Q, query examples per class

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> TaskShape:
        """Of the configuration's `task` or `task.train`."""
        return cls(node["ways"], node["shots"], node["queries"])

    @property
    def most_ways(self) -> int:
        """The largest N."""
        return self.ways

    @property
    def most_shots(self) -> int:
        """The largest K."""
        return self.shots

    @property
    def examples(self) -> int:
        """How many examples a task has, on average."""
        return self.ways * (self.shots + self.queries)


class VaryingPoints(NamedTuple):
    """How many support points tasks have that are functions: drawn for each, evenly from `min_shots` to `max_shots`."""

    ways: int  # 1: there are no classes
    shots: str  # "varying"
    queries: int
    min_shots: int
    max_shots: int

    @property
    def most_ways(self) -> int:
        """The largest N."""
        return self.ways

    @property
    def most_shots(self) -> int:
        """The largest K."""
        return self.max_shots

    @property
    def examples(self) -> int:
        """How many examples a task has, on average."""
        return (self.min_shots + self.max_shots) // 2 + self.queries


class VaryingShape(NamedTuple):
    """How the sizes of tasks are drawn, each by itself; `metalearn/data/uneven.py` says how.

    `ways`, `shots` and `queries` are numbers where they are the same for all tasks, else "varying".
    """

    ways: int | str  # N
    shots: int | str  # support examples per class; a number is the same for every class
    queries: int | str  # query examples per class, the same for all classes of a task
    min_ways: int  # of ways=varying
    max_ways: int
    max_shots: int  # of shots=varying: what one class may add to the size of the support set before that is shared out
    max_support: int  # the most support examples of all classes together
    max_queries: int  # of queries=varying
    imbalance: float  # of shots=varying: a class's share is changed by a factor between 1 / imbalance and imbalance

    @property
    def most_ways(self) -> int:
        """The largest N."""
        return self.max_ways if isinstance(self.ways, str) else self.ways

    @property
    def examples(self) -> int:
        """About how many examples a task has, on average, of large classes."""
        ways = (self.min_ways + self.max_ways) // 2 if isinstance(self.ways, str) else self.ways
        shots = (self.max_shots + 1) // 2 if isinstance(self.shots, str) else self.shots
        queries = self.max_queries if isinstance(self.queries, str) else self.queries
        return min(ways * shots, self.max_support) + ways * queries

    def faults(self, key: str, split: str, classes: int, smallest: str, images: int, what: str = "images") -> list[str]:
        """Why such tasks cannot be drawn of so many classes, of which the smallest has so many images (or `what` its examples are).

        `key` is `task` or `task.train`.
        """
        least, name = (self.min_ways, "min_ways") if isinstance(self.ways, str) else (self.ways, "ways")
        found = []
        if least < 2:
            found.append(f"{key}.{name}={least}, tasks of classes need 2 or more")
        if isinstance(self.ways, str) and self.min_ways > self.max_ways:
            found.append(f"{key}.min_ways={self.min_ways} is more than {key}.max_ways={self.max_ways}")
        if least > classes:
            found.append(f"{key}.{name}={least} needs {least} classes, the {split} split has {classes}")
        shots, from_shots = (1, "") if isinstance(self.shots, str) else (self.shots, f"{key}.shots={self.shots} + ")
        if least * shots > self.max_support:
            found.append(
                f"{key}.max_support={self.max_support} is less than {least} ways ask for ({least * shots} or more)"
            )
        queries, asked = (
            (1, "1 query") if isinstance(self.queries, str) else (self.queries, f"{key}.queries={self.queries}")
        )
        if shots + queries > images:
            support = from_shots or "1 support example + "
            found.append(f"{support}{asked} need {shots + queries} {what} of every class, '{smallest}' has {images}")
        return found


Shape = TaskShape | VaryingShape | VaryingPoints


def shape_of(node: Mapping[str, Any], key: str = "task") -> Shape:
    """Of the configuration's `task` or `task.train`, whose name is `key`.

    Raises:
        UserError: a size varies, and nothing says how it is drawn.
    """
    varying = [name for name in TaskShape._fields if node[name] == VARYING]
    if not varying:
        return TaskShape.of(node)
    if set(VaryingPoints._fields) <= set(node) and varying == ["shots"]:
        return VaryingPoints(*(node[name] for name in VaryingPoints._fields))
    missing = [name for name in VaryingShape._fields if name not in node]
    if missing:
        raise UserError(
            f"{key}.{varying[0]}={VARYING}: nothing says how it is drawn ({key}.{missing[0]} and more); task=varying does"
        )
    return VaryingShape(*(node[name] for name in VaryingShape._fields))


class Examples(NamedTuple):
    """Labelled examples of T tasks, in blocks by label: the first K (or Q) of each task carry label 0, the next 1, ... Regression has one block.

    Tasks of uneven size have `counts`. Their blocks may be of unequal length, and where T > 1 the shorter tasks are padded at their end, with zeros
    in x and label 0. A single task is never padded.

    Support examples may come with a description of each class, in label order: a text in UTF-8 with zeros behind it, uint8 [T, N, L], or numbers,
    float32 [T, N, A]. Zero-shot tasks have nothing else: their x is [T, 0, ...].
    """

    x: Tensor  # [T, N*K, ...] float32; of texts [T, N*K, length] uint8 (metalearn/data/texts.py)
    y: Tensor  # [T, N*K] int64 in 0..N-1; of regression [T, K, D] float32
    ways: int  # N, in regression D; a Python number, so that no algorithm has to wait for the device to learn it. Of uneven tasks the largest
    counts: tuple[int, ...] | None = None  # of uneven tasks: how many examples each has, [T]
    task_ways: tuple[int, ...] | None = None  # of uneven tasks: the ways of each, [T]
    descriptions: Tensor | None = (
        None  # [T, N, ...], zeros of classes that a task does not have; None of queries, and where nothing describes the classes
    )

    def to(self, device: torch.device) -> Examples:
        described = None if self.descriptions is None else self.descriptions.to(device)
        return self._replace(x=self.x.to(device), y=self.y.to(device), descriptions=described)

    def slice(self, start: int, stop: int) -> Examples:
        """Tasks start .. stop-1; uneven ones with no more padding than the largest of them asks for."""
        x, y = self.x[start:stop], self.y[start:stop]
        described = None if self.descriptions is None else self.descriptions[start:stop]
        if self.counts is None or self.task_ways is None:
            return Examples(x, y, self.ways, descriptions=described)
        counts, ways = self.counts[start:stop], self.task_ways[start:stop]
        described = None if described is None else described[:, : max(ways)]
        return Examples(x[:, : max(counts)], y[:, : max(counts)], max(ways), counts, ways, described)

    @property
    def zero_shot(self) -> bool:
        """Whether there are no examples, only descriptions of the classes."""
        return self.y.shape[1] == 0

    @property
    def mask(self) -> Tensor | None:
        """Which examples are none of the padding, [T, n] bool; None where nothing is padded."""
        if self.counts is None or min(self.counts) == self.y.shape[1]:
            return None
        counts = torch.tensor(self.counts).to(self.y.device, non_blocking=True)
        return torch.arange(self.y.shape[1], device=self.y.device) < counts[:, None]

    def by_task(self, measure: Callable[[Tensor, Tensor], Tensor], outputs: Tensor) -> Tensor:
        """`measure` of (outputs [T, n, N], y [T, n]) -> [T], without the padding: of uneven tasks, each is measured at its own size."""
        if self.counts is None or self.task_ways is None:
            return measure(outputs, self.y)
        sizes = enumerate(zip(self.counts, self.task_ways, strict=True))
        return torch.cat([measure(outputs[t : t + 1, :n, :ways], self.y[t : t + 1, :n]) for t, (n, ways) in sizes])


class TaskBatch(NamedTuple):
    """T tasks: what a learner adapts to (support) and what it is scored on (query)."""

    support: Examples
    query: Examples
    classes: Tensor  # [T, N] int64, the split's class ids, or zeros where it has none; for reports and non-episodic baselines only. -1 is padding
    about: Mapping[
        str, tuple[Any, ...]
    ] = {}  # what reports group the tasks by: name -> a number or a text for each, [T]

    @property
    def tasks(self) -> int:
        return self.classes.shape[0]

    @property
    def uneven(self) -> bool:
        """Whether tasks may differ in size, or classes in their number of examples."""
        return self.support.counts is not None

    def to(self, device: torch.device) -> TaskBatch:
        return TaskBatch(self.support.to(device), self.query.to(device), self.classes.to(device), self.about)

    def chunks(self, size: int) -> list[TaskBatch]:
        """The same tasks in order, at most `size` at a time."""
        return [self._part(i, i + size) for i in range(0, self.tasks, size)]

    def _part(self, start: int, stop: int) -> TaskBatch:
        support, query = self.support.slice(start, stop), self.query.slice(start, stop)
        about = {name: values[start:stop] for name, values in self.about.items()}
        return TaskBatch(support, query, self.classes[start:stop, : support.ways], about)


def joined(batches: list[TaskBatch]) -> TaskBatch:
    """The tasks of several batches in one; uneven ones are padded."""
    support, query = ([getattr(batch, part) for batch in batches] for part in ("support", "query"))
    names = batches[0].about
    return TaskBatch(
        _joined(support),
        _joined(query),
        torch.cat(padded([batch.classes for batch in batches], -1)),
        {name: tuple(itertools.chain.from_iterable(batch.about[name] for batch in batches)) for name in names},
    )


def _joined(parts: list[Examples]) -> Examples:
    x, y = (torch.cat(padded([getattr(part, name) for part in parts], 0)) for name in ("x", "y"))
    ways = max(part.ways for part in parts)
    described = _joined_descriptions([part.descriptions for part in parts])
    if parts[0].counts is None:
        return Examples(x, y, ways, descriptions=described)
    counts, task_ways = (tuple(itertools.chain.from_iterable(_all(parts, name))) for name in ("counts", "task_ways"))
    return Examples(x, y, ways, counts, task_ways, described)


def _joined_descriptions(parts: list[Tensor | None]) -> Tensor | None:
    """Of all tasks, texts as long as the longest; None where a part has none."""
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        return None
    longest = max(part.shape[-1] for part in there)
    return torch.cat(padded([F.pad(part, (0, longest - part.shape[-1])) for part in there], 0))


def _all(parts: list[Examples], name: str) -> Iterator[tuple[int, ...]]:
    return (getattr(part, name) for part in parts)


def padded(parts: list[Tensor], value: int) -> list[Tensor]:
    """Tensors [t, n, ...] with n of their own -> all with the largest n; what is added holds `value`."""
    most = max(part.shape[1] for part in parts)
    return [
        part
        if part.shape[1] == most
        else torch.cat([part, part.new_full((part.shape[0], most - part.shape[1], *part.shape[2:]), value)], dim=1)
        for part in parts
    ]
