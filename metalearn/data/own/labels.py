"""A CSV file that says of each image, or of each text in it, its label, and perhaps its split."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from metalearn.errors import UserError, nearest

# What the columns may be called; the first name of each is the one that messages use.
_TEXT = ("text", "sentence", "utterance", "query", "content")
_PATH = ("path", "file", "filename", "file_name", "image")
_LABEL = ("label", "class", "category")
_SPLIT = ("split", "set", "subset")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_DELIMITERS = ",;\t"


class Row(NamedTuple):
    """One image or text. `path` is as written, with `/`, or the text; `split` is empty where the file names none."""

    path: str
    label: str
    split: str


def is_labels(content: bytes) -> bool:
    """Whether a CSV file has columns for paths and labels, by its first line."""
    try:
        first = next(iter(_lines(content.partition(b"\n")[0], "")), [])
    except UserError:
        return False
    return _column(first, _PATH) is not None and _column(first, _LABEL) is not None


def read_labels(content: bytes, name: str) -> list[Row]:
    """The rows of a CSV file: columns path, label and perhaps split, in any order, named in its first line.

    UTF-8 with or without a byte order mark; cells apart by comma, semicolon or tab, quoted or not. Without a first line of names, the columns are
    path, label and perhaps split in this order.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        UserError: a line has too few cells, a split is unknown, a path is listed twice, or a label stands in several splits.
    """
    lines = _numbered(content, name, "image")
    columns = _columns(lines[0][1], name)
    has_names = _column(lines[0][1], _PATH) is not None
    rows = [_row(cells, columns, f"{name}, line {number}", "path") for number, cells in lines[has_names:]]
    if not rows:
        raise UserError(f"{name} lists no image")
    rows = [row._replace(path=row.path.replace("\\", "/")) for row in rows]
    _check_paths(rows, name)
    _check_splits(rows, name)
    return rows


def read_texts(content: bytes, name: str) -> list[Row]:
    """The rows of a CSV file with the texts themselves: columns text, label and perhaps split, in any order, named in its first line.

    Otherwise as for `read_labels`; a text may come twice. `path` of a row is its text.

    Raises:
        UserError: a line has too few cells, a text or label is empty, a split is unknown, or a label stands in several splits.
    """
    lines = _numbered(content, name, "text")
    first = lines[0][1]
    text, label = _column(first, _TEXT), _column(first, _LABEL)
    if text is None or label is None:
        raise UserError(
            f"{name}: the first line must name the columns text,label or text,label,split; it is '{','.join(first)[:80]}'"
        )
    columns = text, label, _column(first, _SPLIT)
    rows = [_row(cells, columns, f"{name}, row {number}", "text") for number, cells in lines[1:]]
    if not rows:
        raise UserError(f"{name} lists no text")
    _check_splits(rows, name)
    return rows


def column_of_texts(content: bytes, name: str) -> list[str]:
    """The texts alone of a CSV file: its column text, or its only column; a first line that names no such column is a text itself.

    Raises:
        UserError: it has several columns and none of them is named text, or a row has no text.
    """
    lines = _numbered(content, name, "text", alone=True)
    column = _column(lines[0][1], _TEXT)
    if column is None and any(len(cells) > 1 for _, cells in lines):
        raise UserError(f"{name}: no column is named text; the first line is '{','.join(lines[0][1])[:80]}'")
    rows = lines[column is not None :]
    empty = next((number for number, cells in rows if not "".join(cells[column or 0 :][:1])), None)
    if empty is not None:
        raise UserError(f"{name}, row {empty} has an empty text (leave out the row, or fill it in)")
    return [cells[column or 0] for _, cells in rows]


def _numbered(content: bytes, name: str, what: str, alone: bool = False) -> list[tuple[int, list[str]]]:
    """The lines that are not empty, each with its number, from 1 on; `alone`: also those whose only cell is an empty text in quotes."""
    lines = [(number, [cell.strip() for cell in cells]) for number, cells in enumerate(_lines(content, name), 1)]
    filled = [(number, cells) for number, cells in lines if any(cells) or (alone and len(cells) == 1)]
    if not filled:
        raise UserError(f"{name} lists no {what}")
    return filled


def _lines(content: bytes, name: str) -> Iterator[list[str]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8: store it as CSV in UTF-8") from error
    first = text.lstrip().partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    try:
        yield from csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    except csv.Error as error:
        raise UserError(f"{name} is not a CSV file that can be read ({error})") from error


def _column(names: Sequence[str], known: tuple[str, ...]) -> int | None:
    lowered = [name.strip().lower() for name in names]
    return next((lowered.index(name) for name in known if name in lowered), None)


def _columns(first: list[str], name: str) -> tuple[int, int, int | None]:
    path, label = _column(first, _PATH), _column(first, _LABEL)
    if path is not None and label is not None:
        return path, label, _column(first, _SPLIT)
    # Without names: a first line that is itself an image, two or three cells wide.
    if path is None and label is None and len(first) in (2, 3) and "." in first[0]:
        return 0, 1, (2 if len(first) == 3 else None)
    raise UserError(
        f"{name}: the first line must name the columns path,label or path,label,split; it is '{','.join(first)[:80]}'"
    )


def _row(cells: list[str], columns: tuple[int, int, int | None], where: str, what: str) -> Row:
    first, label, split = columns
    if max(first, label, split or 0) >= len(cells):
        raise UserError(f"{where} has {len(cells)} cells (needed: {max(first, label, split or 0) + 1})")
    if not cells[first] or not cells[label]:
        raise UserError(f"{where} has an empty {'label' if cells[first] else what}")
    written = cells[split] if split is not None else ""
    part = SPLIT_NAMES.get(written.lower(), "")
    if written and not part:
        raise UserError(
            f"{where}: no split '{written}'{nearest(written.lower(), SPLIT_NAMES)} (allowed: train, val, test)"
        )
    return Row(cells[first], cells[label], part)


def _check_paths(rows: list[Row], name: str) -> None:
    labels: dict[str, str] = {}
    for row in rows:
        if row.path in labels:
            again = "twice" if labels[row.path] == row.label else f"as '{labels[row.path]}' and as '{row.label}'"
            raise UserError(f"{name} lists '{row.path}' {again}")
        labels[row.path] = row.label


def _check_splits(rows: list[Row], name: str) -> None:
    splits: dict[str, str] = {}
    if not any(row.split for row in rows):
        return
    for row in rows:
        if not row.split:
            raise UserError(f"{name} names no split for '{row.path[:80]}' (either all rows have one or none)")
        if (other := splits.setdefault(row.label, row.split)) != row.split:
            raise UserError(
                f"{name}: the label '{row.label}' is in the splits {other} and {row.split}; a split divides the classes, not the examples of a "
                "class (without the column the classes are divided at random)"
            )
