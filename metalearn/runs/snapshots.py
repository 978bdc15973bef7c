"""snapshot-<step>.pt of a run: its states at the best and at the last validations (`train.snapshots`).

And which checkpoints form an ensemble.
"""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

import torch

from metalearn.errors import UserError
from metalearn.kinds import Scale
from metalearn.runs import checkpoint

log = logging.getLogger("metalearn")

_NAME = re.compile(r"snapshot-(\d+)\.pt")
_SCORE = "val_score"  # beside what every checkpoint holds


def snapshot_files(run_dir: Path) -> dict[int, Path]:
    """Outer step -> file, the earliest first."""
    found = {int(match[1]): file for file in run_dir.iterdir() if (match := _NAME.fullmatch(file.name))}
    return dict(sorted(found.items()))


class Snapshots:
    """Keeps the states of a run's best `keep` validations and of its last `keep` ones.

    Args:
        keep: `train.snapshots`; 0: none.
        scale: of the validation scores.
        step: of the checkpoint that training goes on from; what is later will be validated again. None: it begins.
    """

    def __init__(self, run_dir: Path, keep: int, scale: Scale, step: int | None = None) -> None:
        self._run_dir, self._keep, self._scale = run_dir, keep, scale
        self._scores: dict[int, float] = {}
        for of, file in snapshot_files(run_dir).items() if keep else ():
            score = None if step is None or of > step else _score_of(file)
            if score is None:
                file.unlink()
            else:
                self._scores[of] = score

    def add(self, step: int, score: float, state: dict[str, Any]) -> None:
        """Writes the state of a validated step, and removes those that are neither among the best nor among the last any more.

        Where the disk is full, training goes on without this one.
        """
        if not self._keep or not math.isfinite(score):
            return
        try:
            checkpoint.save(self._run_dir / f"snapshot-{step}.pt", state | {_SCORE: score})
        except OSError as error:
            log.warning(
                "snapshot-%d.pt cannot be written (%s): training goes on without it", step, error.strerror or error
            )
            return
        self._scores[step] = score
        stay = {*ranked(self._scores, self._scale)[: self._keep], *sorted(self._scores)[-self._keep :]}
        for gone in set(self._scores) - stay:
            del self._scores[gone]
            (self._run_dir / f"snapshot-{gone}.pt").unlink(missing_ok=True)


def ranked(scores: dict[int, float], scale: Scale) -> list[int]:
    """Steps, the best validation first; of equal ones the earlier, as best.pt is."""
    return sorted(scores, key=lambda step: (-scores[step] if scale.higher_is_better else scores[step], step))


def members(run_dir: Path, which: str, wanted: int, scale: Scale, device: torch.device) -> list[dict[str, Any]]:
    """What the best or the last `wanted` checkpoints of a run hold, the one that a single evaluation takes first.

    Args:
        which: best or last.

    Raises:
        UserError: the run has fewer.
    """
    first = checkpoint.load(run_dir / f"{which}.pt", device)
    others: dict[int, dict[str, Any]] = {}
    files = list(snapshot_files(run_dir).values())
    if which == "last" and (run_dir / checkpoint.PREVIOUS).exists():
        files.append(run_dir / checkpoint.PREVIOUS)
    for file in files:
        state = checkpoint.load(file, device)
        if state["step"] != first["step"]:
            others.setdefault(state["step"], state)
    scores = {step: float(state.get(_SCORE, scale.worst)) for step, state in others.items()}
    order = ranked(scores, scale) if which == "best" else sorted(others, reverse=True)
    found = [first, *(others[step] for step in order)]
    if len(found) < wanted:
        raise UserError(
            f"eval.ensemble={wanted}: {run_dir} keeps {len(found)} checkpoint{'' if len(found) == 1 else 's'} for eval.checkpoint={which}; "
            f"metalearn train ... train.snapshots={wanted} keeps enough of them, and so does --resume of an unfinished run"
        )
    return found[:wanted]


def member_files(run_dir: Path) -> list[Path]:
    """The files that an ensemble may be made of, beside best.pt and last.pt."""
    previous = run_dir / checkpoint.PREVIOUS
    return [*snapshot_files(run_dir).values(), *([previous] if previous.exists() else [])]


def _score_of(file: Path) -> float | None:
    """The validation score that a snapshot holds; None where it is damaged."""
    try:
        return float(checkpoint.load(file, torch.device("cpu"))[_SCORE])
    except (UserError, KeyError, TypeError) as error:
        log.warning("%s is left out: %s", file, error)
        return None
