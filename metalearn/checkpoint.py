"""Checkpoints: tensors and plain containers only, written atomically, loaded without running anybody's code."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from metalearn.errors import UserError

FORMAT = 1  # raise it when the keys below change their meaning


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` so that `path` holds the old content or the new, whenever the process or the machine dies."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Raises UserError when there is no intact checkpoint of this format at `path`."""
    if not path.is_file():
        raise UserError(f"no checkpoint {path}")
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is not an intact checkpoint: {first_line}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} was not written by this version of metalearn")
    return state
