"""A CSV file of numbers, read column by column: what `dataset=tabular` is made of and what predictions of numbers start from."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from metalearn.errors import UserError, nearest, one_line

_DELIMITERS = ",;\t"
_ROWS = 20_000  # that are in memory as texts at a time
_LOOKED_AT = 100  # rows that decide whether a column holds numbers

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Labels:
    """A column of texts.

    Attributes:
        names: the different ones, in the order of their first row.
        codes: which of them each row has, [n].
    """

    names: tuple[str, ...]
    codes: NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """What was read of a file.

    Attributes:
        name: of the file, for messages.
        columns: all names, in the order of the file.
        numbers: name -> float64 [n], all finite.
        labels: name -> its texts.
        rows: n.
    """

    name: str
    columns: tuple[str, ...]
    numbers: Mapping[str, Numbers]
    labels: Mapping[str, Labels]
    rows: int

    def matrix(self, names: Sequence[str]) -> Numbers:
        """Some of the numbers as float64 [n, columns]."""
        return np.stack([self.numbers[name] for name in names], axis=1) if names else np.empty((self.rows, 0))

    @property
    def others(self) -> tuple[str, ...]:
        """The columns that were not read."""
        return tuple(name for name in self.columns if name not in self.numbers and name not in self.labels)


def checked_file(file: str | None, setting: str) -> Path:
    """The file that a setting names; UserError where it is none."""
    if not file:
        raise UserError(f"{setting} must be set: a CSV file whose first line names its columns (docs/data/tables.md)")
    path = Path(file).expanduser()
    if not path.is_file():
        named = f"{setting} {file}" if setting.startswith("-") else f"{setting}={file}"
        raise UserError(f"{named} is {'no file' if path.exists() else 'not there'}")
    return path


def header_of(path: Path) -> tuple[str, ...]:
    """The names in the first line of a CSV file; UserError where it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            rows = csv.reader([first], delimiter=max(_DELIMITERS, key=first.count))
            return tuple(name.strip() for name in next(rows, []))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)})") from error


def read_table(
    path: Path,
    labels: Mapping[str, str] | None = None,
    numbers: Mapping[str, str] | None = None,
    if_there: Iterable[str] = (),
    others: bool = False,
) -> Table:
    """Reads columns by the names in the file's first line: UTF-8, cells apart by comma, semicolon or tab, quoted or not.

    Args:
        labels: columns of texts -> the setting that names each, for messages; their cells must not be empty.
        numbers: columns of numbers -> likewise, "" where no setting does; every cell must be a finite number.
        if_there: further columns of texts, which a file may lack; their cells may be empty.
        others: also read every other column that holds numbers: more than half of its first cells, and then every one must be one.

    Raises:
        UserError: a column is missing, or a cell is not what it must be; the message names its line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _Reading(path, file, labels or {}, numbers or {}, tuple(if_there), others).table()
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8: store it as CSV in UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path.name} is not a CSV file that can be read ({error})") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({one_line(error)})") from error


class _Reading:
    """One pass through a file."""

    def __init__(
        self,
        path: Path,
        file: Iterable[str],
        labels: Mapping[str, str],
        numbers: Mapping[str, str],
        if_there: tuple[str, ...],
        others: bool,
    ) -> None:
        self._path, self._name, self._others = path, path.name, others
        lines = iter(file)
        first = next(lines, "")
        self._delimiter = max(_DELIMITERS, key=first.count)
        self._rows = _rows(itertools.chain([first], lines), self._delimiter)
        self._header = tuple(name.strip() for name in next(self._rows, []))
        self._check_header({**labels, **numbers})
        self._labels = {name: bool(labels.get(name)) for name in (*labels, *if_there) if name in self._header}
        self._numbers = list(numbers)

    def _check_header(self, asked: Mapping[str, str]) -> None:
        if not any(self._header):
            raise UserError(f"{self._name} is empty: its first line must name the columns")
        named = [name for name in self._header if name]
        if twice := next((name for name in named if named.count(name) > 1), None):
            raise UserError(f"{self._name} has two columns '{twice}'")
        for name, setting in asked.items():
            if name not in self._header or not name:
                shown = ", ".join(named[:20]) + (", ..." if named[20:] else "")
                raise UserError(
                    f"{f'{setting}={name}: ' * bool(setting)}{self._name} has no column '{name}'{nearest(name, named)} (columns: {shown})"
                )

    def table(self) -> Table:
        codes: dict[str, list[NDArray[np.int64]]] = {name: [] for name in self._labels}
        known: dict[str, dict[str, int]] = {name: {} for name in self._labels}
        parts: dict[str, list[Numbers]] = {}
        done = 0
        while chunk := list(itertools.islice(self._rows, _ROWS)):
            self._check_widths(chunk, done)
            cells = dict(zip(self._header, zip(*chunk, strict=True), strict=True))
            if not done:
                self._numbers += self._holding_numbers(cells) if self._others else []
                parts = {name: [] for name in self._numbers}
            for name, required in self._labels.items():
                codes[name].append(self._coded(name, cells[name], known[name], required, done))
            for name in self._numbers:
                parts[name].append(self._parsed(name, cells[name], done))
            done += len(chunk)
        if not done:
            raise UserError(f"{self._name} has no row below its first line")
        return Table(
            self._name,
            self._header,
            {name: np.concatenate(part) for name, part in parts.items()},
            {name: Labels(tuple(known[name]), np.concatenate(codes[name])) for name in self._labels},
            done,
        )

    def _check_widths(self, chunk: list[list[str]], done: int) -> None:
        width = len(self._header)
        wrong = next((i for i, row in enumerate(chunk) if len(row) != width), None)
        if wrong is not None:
            found = len(chunk[wrong])
            raise UserError(
                f"{self._name}, line {self._line(done + wrong)} has {found} cell{'s' * (found != 1)} (needed: {width})"
            )

    def _holding_numbers(self, cells: Mapping[str, Sequence[str]]) -> list[str]:
        """The columns nobody asked for that hold numbers; one without a name, as some programs write for row numbers, is none."""
        return [
            name
            for name, column in cells.items()
            if name and name not in self._labels and name not in self._numbers
            if sum(map(_is_number, column[:_LOOKED_AT])) > len(column[:_LOOKED_AT]) / 2
        ]

    def _coded(
        self, name: str, column: Sequence[str], known: dict[str, int], required: bool, done: int
    ) -> NDArray[np.int64]:
        texts = [text.strip() for text in column]
        if required and "" in texts:
            raise UserError(f"{self._name}, line {self._line(done + texts.index(''))}: column '{name}' is empty")
        return np.fromiter((known.setdefault(text, len(known)) for text in texts), np.int64, len(texts))

    def _parsed(self, name: str, column: Sequence[str], done: int) -> Numbers:
        try:
            parsed = np.fromiter(map(float, column), np.float64, len(column))
        except ValueError:
            self._refuse(name, column, done)
        if not np.isfinite(parsed).all():
            self._refuse(name, column, done)
        return parsed

    def _refuse(self, name: str, column: Sequence[str], done: int) -> NoReturn:
        """Raises UserError for the first cell that is no finite number."""
        wrong = next(i for i, text in enumerate(column) if not _is_number(text) or not np.isfinite(float(text)))
        cell, where = column[wrong].strip(), f"{self._name}, line {self._line(done + wrong)}: column '{name}'"
        if not cell:
            raise UserError(f"{where} is empty (leave out the row, or fill it in)")
        if _is_number(cell):
            raise UserError(f"{where} holds '{cell}': a finite number is needed (leave out the row, or fill it in)")
        hint = " (write a decimal point)" if _is_number(cell.replace(",", ".")) else ""
        raise UserError(f"{where} holds '{cell[:40]}', which is no number{hint}")

    def _line(self, row: int) -> int:
        """Of row number `row`, from 0 on: a quoted cell may go over several lines, so the file is read again."""
        with self._path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=self._delimiter, strict=True)
            rows = (reader.line_num for cells in reader if any(cells))
            return next(itertools.islice(rows, row + 1, None))


def _rows(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """Without blank lines."""
    return (cells for cells in csv.reader(lines, delimiter=delimiter, strict=True) if any(cells))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
