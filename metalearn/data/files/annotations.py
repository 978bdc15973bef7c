"""Text files beside the images of a data set, which say what these show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from metalearn.data.files.archives import members
from metalearn.errors import UserError


def texts(place: Path, names: Sequence[str]) -> dict[str, str]:
    """Small text files from the archive or folder that also holds the images; `names` are the ends of their paths.

    Raises:
        UserError: one is not there.
    """
    found: dict[str, str] = {}

    def name_of(path: str) -> str | None:
        return next((name for name in names if f"/{path}".endswith(f"/{name}")), None)

    for path, content in members(place, lambda path: name_of(path) is not None):
        name = name_of(path)
        assert name is not None
        found[name] = content.decode("utf-8", "replace")
        if len(found) == len(names):  # a packed tar is not read to its end
            break
    for name in names:
        if name not in found:
            raise UserError(f"{place} has no {name}: it is not the published file")
    return found


def table(text: str, name: str, columns: int) -> Iterator[list[str]]:
    """The lines of a text file, cut at spaces into `columns` parts; the last may hold spaces itself.

    Raises:
        UserError: a line has fewer.
    """
    for number, line in enumerate(text.splitlines(), 1):
        cells = line.strip().split(" ", columns - 1)
        if len(cells) == columns:
            yield cells
        elif line.strip():
            raise UserError(f"{name}, line {number}: {columns} values were expected, '{line.strip()[:60]}' is there")


def numbers(cells: Sequence[str], name: str) -> list[float]:
    """The cells of a line as numbers; UserError naming the file where one is none."""
    try:
        return [float(cell) for cell in cells]
    except ValueError as error:
        raise UserError(f"{name}: numbers were expected, '{' '.join(cells)[:60]}' is there") from error
