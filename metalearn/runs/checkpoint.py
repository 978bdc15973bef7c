"""Checkpoints: tensors and plain containers only, written atomically, checked by a checksum, loaded without running anybody's code."""

from __future__ import annotations

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metalearn import atomic
from metalearn.errors import UserError

log = logging.getLogger("metalearn")

LAST, PREVIOUS = "last.pt", "previous.pt"
FORMAT = 2  # raise it when the keys below change their meaning
_UNCHECKED = 1  # the format before checksums: good for an evaluation still
_KEYS = {"step": int, "model": dict, "config": dict, "train_classes": list}  # what everybody may rely on


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` so that `path` holds the old content or the new, whenever the process or the machine dies."""
    state = {"format": FORMAT, **state}
    # In memory first: on a full disk torch's own writer hides the system's word for it behind one of its own.
    content = io.BytesIO()
    torch.save({**state, "checksum": _checksum(state)}, content)
    atomic.write(path, content.getvalue())


def save_last(run_dir: Path, state: dict[str, Any]) -> None:
    """Writes last.pt and keeps the one before as previous.pt; at every moment one of them is whole."""
    if (run_dir / LAST).exists():
        (run_dir / LAST).replace(run_dir / PREVIOUS)
    save(run_dir / LAST, state)


def newest(run_dir: Path) -> dict[str, Any] | None:
    """What the newest intact checkpoint to go on from holds, on the CPU; None where there is none, intact."""
    for name in (LAST, PREVIOUS):
        try:
            return load(run_dir / name, torch.device("cpu"))
        except UserError as error:
            if (run_dir / name).exists():
                log.warning("%s", error)
    return None


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Raises UserError when there is no intact checkpoint of this format at `path`."""
    if not path.is_file():
        raise UserError(f"no checkpoint {path}")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        stated = state.pop("checksum", None) if isinstance(state, dict) else None
        computed = _checksum(state)
    except Exception as error:  # whatever torch's reader stumbles over in a damaged file
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is not an intact checkpoint: {first_line}") from error
    if not isinstance(state, dict) or state.get("format") not in (FORMAT, _UNCHECKED):
        raise UserError(f"{path} was not written by this version of metalearn")
    if state["format"] != _UNCHECKED and stated != computed:
        raise UserError(f"{path} is not an intact checkpoint: its content does not match its checksum")
    wrong = [key for key, kind in _KEYS.items() if not isinstance(state.get(key), kind)]
    if wrong:
        raise UserError(f"{path} is not a checkpoint of a run: no usable {', '.join(wrong)}")
    return state


def _checksum(state: dict[str, Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)

    def add(value: Any) -> None:
        if isinstance(value, dict):
            digest.update(b"{%d" % len(value))
            for key, item in value.items():
                add(key)
                add(item)
        elif isinstance(value, list | tuple):
            digest.update(b"[%d" % len(value))
            for item in value:
                add(item)
        elif isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(f"{type(value).__name__}{value!r};".encode())

    add(state)
    return digest.hexdigest()
