"""Checkpoints: tensors and plain containers only, written atomically, checked by a checksum, loaded without running anybody's code."""

from __future__ import annotations

import hashlib
import io
import logging
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from metalearn import atomic
from metalearn.config.limits import minutes
from metalearn.engine.loop import OuterLoop
from metalearn.engine.progress import Reported
from metalearn.errors import UserError

log = logging.getLogger("metalearn")

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
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


def drop(run_dir: Path, keep: str) -> None:
    """Removes the checkpoints of a finished run that `train.keep` does not name."""
    stay = {"all": (LAST, PREVIOUS, BEST), "last": (LAST,), "best": (BEST,), "none": ()}[keep]
    for name in {LAST, PREVIOUS, BEST} - set(stay):
        (run_dir / name).unlink(missing_ok=True)
    for snapshot in run_dir.glob("snapshot-*.pt") if keep == "none" else ():
        snapshot.unlink(missing_ok=True)


def is_there(run_dir: Path) -> bool:
    """Whether `run_dir` holds a checkpoint to go on from, intact or not."""
    return any((run_dir / name).exists() for name in (LAST, PREVIOUS))


def newest(run_dir: Path) -> dict[str, Any] | None:
    """The content of the newest intact checkpoint, on the CPU; None if there is none."""
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
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever torch's reader stumbles over in a damaged file
        raise UserError(f"{path} is not an intact checkpoint: {_damage(path, error)}") from error
    if not isinstance(state, dict) or state.get("format") not in (FORMAT, _UNCHECKED):
        raise UserError(f"{path} was not written by this version of metalearn")
    if state["format"] != _UNCHECKED and stated != computed:
        raise UserError(f"{path} is not an intact checkpoint: its content does not match its checksum")
    wrong = [key for key, kind in _KEYS.items() if not isinstance(state.get(key), kind)]
    if wrong:
        raise UserError(f"{path} is not a checkpoint of a run: no usable {', '.join(wrong)}")
    return state


def _damage(path: Path, error: Exception) -> str:
    """What is wrong with a file that torch cannot read; of one that is cut short torch says `Invalid argument`."""
    if not path.stat().st_size:
        return "it is empty"
    if not zipfile.is_zipfile(path):  # its table of contents stands at its end
        return "it is cut short, or something else"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class Keeps(Protocol):
    """What keeps the states of validations, such as Snapshots."""

    def add(self, step: int, score: float, state: dict[str, Any]) -> None:
        """Takes the state of a validated step, without what only training needs."""


class Keeper:
    """Writes last.pt and best.pt of a run that is being trained.

    Args:
        always: stored in every checkpoint beside the state of training: the configuration and the training classes.
        every: `train.checkpoint_every`.
        writes: whether this process does; of several, the others only look at the losses when it does.
        snapshots: keeps the states of validations beside; None: none.
        before_saving: puts on the disk what was reported, so that last.pt is never ahead of it.
    """

    def __init__(
        self,
        run_dir: Path,
        always: dict[str, Any],
        every: int | str,
        *,
        writes: bool = True,
        snapshots: Keeps | None = None,
        before_saving: Callable[[], None] = lambda: None,
    ) -> None:
        self._run_dir, self._always = run_dir, always
        self._is_due, self._writes, self._before_saving = saving_due(every), writes, before_saving
        self._has_saved, self._snapshots = False, snapshots

    def before_validating(self, loop: OuterLoop) -> None:
        """Saves what was trained so far where nothing is saved yet: the first validation may fail."""
        if not self._has_saved:
            self.save_last(loop)

    def saw(self, reported: Reported, loop: OuterLoop, last: bool = False) -> None:
        """Saves what is due after an outer step.

        Args:
            last: whether training ends here, for another reason than the loop's own.
        """
        if reported.is_best:
            self._save_best(loop)
        if reported.score is not None and self._snapshots is not None:
            # Before last.pt: a run that goes on from there does not validate this step again.
            state = _without_training(loop.state_dict()) | self._always
            if self._writes:
                self._snapshots.add(reported.step, reported.score.value, state)
        if self._is_due(reported.step) or reported.is_last or last:
            self.save_last(loop)

    def save_last(self, loop: OuterLoop) -> None:
        """Writes last.pt; raises Diverged, before that, where the losses say so."""
        state = loop.state_dict()
        if self._writes:
            self._before_saving()
            save_last(self._run_dir, state | self._always)
            self._has_saved = True

    def _save_best(self, loop: OuterLoop) -> None:
        state = loop.state_dict()
        if self._writes:
            save(self._run_dir / BEST, _without_training(state) | self._always)


def _without_training(state: dict[str, Any]) -> dict[str, Any]:
    """The part of a state that an evaluation needs. It is a third of the size, since Adam keeps two numbers for every weight."""
    return {key: state[key] for key in ("step", "model", "outcome")}


def saving_due(every: int | str) -> Callable[[int], bool]:
    """`train.checkpoint_every`: whether last.pt is to be written after this outer step."""
    if isinstance(every, int):
        return lambda step: step % every == 0
    seconds, since = 60 * minutes(every), time.monotonic()

    def due(step: int) -> bool:
        nonlocal since
        if time.monotonic() - since < seconds:
            return False
        since = time.monotonic()
        return True

    return due


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
