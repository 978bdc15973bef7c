"""Where files with typefaces lie: a folder of the user's, or those of the system."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from metalearn.data.files.archives import fingerprint
from metalearn.errors import UserError
from metalearn.places import data_dir, expanded


def folders(root: str | None) -> list[Path]:
    """Where typefaces are looked for: `root`, or `$METALEARN_DATA/fonts`, or the folders of the system and the user.

    Raises:
        UserError: there is no such folder.
    """
    own = data_dir("fonts") if root is None else expanded(Path(root), "dataset.root")
    if own.is_dir():
        return [own]
    if root is not None:
        raise UserError(f"dataset.root={root} is not a folder")
    if found := [folder for folder in _of_the_system() if folder.is_dir()]:
        return found
    raise UserError("this system has none of the usual folders of typefaces: dataset.root=DIR names one")


def _of_the_system() -> list[Path]:
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
        return [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts", local / "Microsoft" / "Windows" / "Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    return [
        Path("/usr/share/fonts"),
        Path("/usr/local/share/fonts"),
        home / ".local" / "share" / "fonts",
        home / ".fonts",
    ]


def state(places: Sequence[Path]) -> str:
    """Changes when a file with typefaces does."""
    return fingerprint(places, _is_font)


def font_files(places: Sequence[Path]) -> list[Path]:
    """The files with typefaces at any depth of the folders, sorted by path."""
    return sorted(file for place in places for file in place.rglob("*") if _is_font(file.name) and file.is_file())


def _is_font(name: str) -> bool:
    return name.lower().endswith((".ttf", ".otf", ".ttc"))
