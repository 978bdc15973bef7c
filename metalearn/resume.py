"""What may change when a run goes on: where things lie and how often they are saved, not what is computed."""

from __future__ import annotations

from typing import Any

from metalearn.config import leaves
from metalearn.errors import UserError

MAY_CHANGE = ("train.steps", "train.checkpoint_every", "device", "dataset.root", "dataset.download")
_LABELS = ("sweep_name", "names.", "reference")
_SCHEDULES_OF_ANY_LENGTH = ("constant", "step")


def refuse_changes(before: dict[str, Any], now: dict[str, Any], whose: str) -> None:
    """Raises UserError where the run of `before`, say a checkpoint's, cannot go on as `now` wants; a setting that it does not know is none."""
    of_now = dict(leaves(now))
    compared = {key: value for key, value in leaves(before) if not key.startswith(_LABELS)}
    changed = [key for key, value in compared.items() if key not in MAY_CHANGE and of_now.get(key) != value]
    if changed:
        raise UserError(
            f"{whose} has another {', '.join(changed)}; a run that goes on may change {', '.join(MAY_CHANGE)} only"
        )
    schedule = now["train"]["schedule"]
    if of_now["train.steps"] != compared.get("train.steps") and schedule not in _SCHEDULES_OF_ANY_LENGTH:
        raise UserError(
            f"train.steps={of_now['train.steps']}: train.schedule={schedule} was laid out for {compared.get('train.steps')} steps; "
            f"only {' and '.join(_SCHEDULES_OF_ANY_LENGTH)} can go on for longer"
        )
