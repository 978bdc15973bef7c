"""The page of `metalearn predict --html`, of classes and of numbers, in its file."""

from __future__ import annotations

from pathlib import Path

from metalearn import atomic
from metalearn.errors import UserError


def write_page(file: Path, text: str) -> None:
    """Writes the page and makes the folders that it lies in; UserError where it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(file, text.encode())
    except OSError as error:
        raise UserError(f"--html {file} cannot be written ({error.strerror or error})") from error
