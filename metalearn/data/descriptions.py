"""What describes classes: a text for each, or numbers (attributes). Tasks without support examples have nothing else to tell classes by.

C classes of a split, L bytes of the longest text, A numbers.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metalearn.data.classes import ClassId, ClassSplit
from metalearn.data.texts import as_bytes, longest
from metalearn.errors import UserError, nearest, one_line
from metalearn.sizes import count_text

NAMES = "names"  # of `dataset.descriptions`: the names of the classes, as words
_CLASS = ("class", "label", "category")  # what the column of the classes may be called
_TEXT = ("description", "text")  # likewise that of the texts
_TOGETHER = 256  # classes that are described at a time


class DescriptionForm(NamedTuple):
    """What descriptions look like."""

    text: bool  # texts in UTF-8, uint8 with zeros behind them; else float32 numbers
    shape: tuple[int, ...]  # of one: (L,) or (A,)

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> DescriptionForm | None:
        """Reads what `record` made."""
        return None if record is None else cls(record["text"], tuple(record["shape"]))

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return {"text": self.text, "shape": list(self.shape)}

    def alike(self, other: DescriptionForm | None) -> bool:
        """Whether what takes one of them takes the other: texts may be of any length, numbers are as many."""
        return other is not None and self.text == other.text and (self.text or self.shape == other.shape)

    def __str__(self) -> str:
        return "texts" if self.text else count_text(self.shape[0], "number")

    @property
    def describing(self) -> str:
        """`texts describe`, `6 numbers describe`, `1 number describes`: how a message goes on about the classes."""
        return f"{self} describe{'s' if not self.text and self.shape[0] == 1 else ''}"


@dataclass(frozen=True)
class Descriptions:
    """The descriptions of a data set's classes: name of the upright class -> its text, or its numbers float32 [A]."""

    of_class: Mapping[str, str] | Mapping[str, NDArray[np.float32]]

    @property
    def form(self) -> DescriptionForm:
        """What they look like, of all classes together."""
        one = next(iter(self.of_class.values()))
        if isinstance(one, str):
            return DescriptionForm(True, (longest(self._text(name, 270) for name in self.of_class),))
        return DescriptionForm(False, np.asarray(one).shape)

    def of(self, classes: Sequence[ClassId]) -> Tensor:
        """[C, ...] of classes in their order. The text of a turned class says by how much.

        Raises:
            UserError: a class is turned, and numbers describe it: they would be those of the upright one.
        """
        form = self.form
        if form.text:
            return torch.from_numpy(as_bytes([self._text(one.name, one.turn) for one in classes], *form.shape))
        turned = next((one for one in classes if one.turn), None)
        if turned is not None:
            raise UserError(
                f"dataset.rotations: '{turned.name}' turned by {turned.turn} degrees has the numbers of the upright class in "
                "dataset.descriptions (allowed: 1)"
            )
        return torch.from_numpy(np.stack([np.asarray(self.of_class[one.name]) for one in classes]))

    def of_names(self) -> Tensor:
        """[C, ...] of all classes, in the order of their names here."""
        return self.of([ClassId("", name) for name in self.of_class])

    def _text(self, name: str, turn: int) -> str:
        return f"{self.of_class[name]}{f', turned by {turn} degrees' if turn else ''}"


class ClassTable:
    """The descriptions of a split's classes on the device, for tasks that have some of the classes.

    Args:
        values: [C, ...].
        describe: what a network makes of them, [n, ...] -> [n, E], asked when the first task is made; None: they stay as they are.
    """

    def __init__(self, values: Tensor, describe: Callable[[Tensor], Tensor] | None = None) -> None:
        self._values, self._describe = values, describe

    def of(self, classes: Tensor) -> Tensor:
        """Numbers of classes int64 [T, N], on the device -> [T, N, ...]."""
        if self._describe is not None:
            describe, self._describe = self._describe, None
            with torch.no_grad():
                self._values = torch.cat([describe(part) for part in torch.split(self._values, _TOGETHER)])
        return self._values[classes]

    def described(self, describe: Callable[[Tensor], Tensor]) -> ClassTable:
        """The same classes as a network describes them."""
        assert self._describe is None
        return ClassTable(self._values, describe)


def descriptions(asked: str | None, class_names: Sequence[str], split: ClassSplit) -> Descriptions | None:
    """What the setting `dataset.descriptions` says of a data set's classes.

    Args:
        asked: "names", the name of each class as words; the path of a CSV file; None: nothing describes them.
        class_names: of the data set.
        split: those of them that are to be described.

    Raises:
        UserError: the file cannot be read, lacks a class of the split, or has one that the data set does not.
    """
    if asked is None:
        return None
    if asked == NAMES:
        return Descriptions({name: as_words(name) for name in class_names})
    found, known = read_descriptions(asked, "dataset.descriptions"), set(class_names)
    if strange := [name for name in found.of_class if name not in known]:
        raise UserError(
            f"dataset.descriptions={asked} describes {count_text(len(strange), 'class', 'classes')} that the data set does not have, '{strange[0]}'"
            f"{'' if len(strange) == 1 else ' for one'}{nearest(strange[0], known)}"
        )
    used = itertools.chain.from_iterable(split.classes.values())
    if missing := [name for name in used if name not in found.of_class]:
        raise UserError(
            f"dataset.descriptions={asked} lacks {count_text(len(missing), 'class', 'classes')}, '{missing[0]}'"
            f"{'' if len(missing) == 1 else ' for one'}"
        )
    return found


def as_words(name: str) -> str:
    """The name of a class as words: `oscar_mike/bank_transfer` -> `oscar mike bank transfer`, `012.colt's foot` -> `colt's foot`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"^\d+[._ -]+(?=\D)", "", name))
    return re.sub(r"[\s_/\\.-]+", " ", words).strip() or name


def read_descriptions(path: str, key: str) -> Descriptions:
    """The CSV file at `path`: a first line of names, then a class and its description in each line.

    The columns are `class,description`, a text for each class, or `class` and any names of numbers.

    Args:
        path: of the file; `~` stands for the home directory.
        key: of the setting or flag that names it, for messages.

    Raises:
        UserError: it cannot be read, or it is no such file.
    """
    where = f"{key}={path}" if not key.startswith("-") else f"{key} {path}"
    rows = list(_rows(path, where))
    if not rows:
        raise UserError(f"{where} is empty (needed: a first line class,description, or class and names of numbers)")
    names = [cell.lower() for cell in rows[0][1]]
    if names[0] not in _CLASS or len(names) < 2:
        raise UserError(
            f"{where}: the first line must be class,description, or class and names of numbers; it is '{','.join(rows[0][1])[:80]}'"
        )
    if len(rows) < 2:
        raise UserError(f"{where} describes no class")
    texts = len(names) == 2 and names[1] in _TEXT
    found: dict[str, Any] = {}
    for number, cells in rows[1:]:
        line = f"{where}, line {number}"
        if len(cells) != len(names):
            raise UserError(f"{line} has {len(cells)} cells (needed: {len(names)}, as the first line has)")
        if not cells[0] or not cells[1]:
            raise UserError(f"{line} has an empty {'description' if cells[0] else 'class'}")
        if cells[0] in found:
            raise UserError(f"{line} describes '{cells[0]}' again")
        found[cells[0]] = cells[1] if texts else _numbers(cells[1:], line)
    return Descriptions(found)


def _rows(path: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """The number of each line that is not empty, and its cells."""
    try:
        text = Path(path).expanduser().read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror or one_line(error)})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8: store it as CSV in UTF-8") from error
    first = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise UserError(f"{where} is not a CSV file that can be read ({error})") from error


def _numbers(cells: list[str], line: str) -> NDArray[np.float32]:
    values = []
    for cell in cells:
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(
                f"{line}: '{cell}' is no number (a column of texts is called description, and is the only one)"
            )
        values.append(value)
    return np.array(values, dtype=np.float32)
