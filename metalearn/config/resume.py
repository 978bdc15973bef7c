"""Which settings may change when a run is resumed: places, what is logged, device and speed, but not what is computed."""

from __future__ import annotations

from typing import Any

from metalearn.config.identity import MUST_STAY, compared, differences
from metalearn.errors import UserError

_SCHEDULES_OF_ANY_LENGTH = ("constant", "step")


def refuse_changes(before: dict[str, Any], now: dict[str, Any], whose: str) -> None:
    """Raises UserError where the run of `before`, say a checkpoint's, cannot go on as `now` wants; a setting that it does not know is none."""
    known = compared(before, MUST_STAY)
    changed = [key for key in differences(before, now, MUST_STAY) if key in known]
    if changed:
        raise UserError(
            f"{whose} has another {', '.join(changed)}; a run that goes on may change train.steps, device, where data lie and how often "
            "something is logged or saved, nothing that changes the result"
        )
    steps, before_steps, schedule = now["train"]["steps"], before["train"].get("steps"), now["train"]["schedule"]
    if steps != before_steps and schedule not in _SCHEDULES_OF_ANY_LENGTH:
        raise UserError(
            f"train.steps={steps}: train.schedule={schedule} was laid out for {before_steps} steps; "
            f"only {' and '.join(_SCHEDULES_OF_ANY_LENGTH)} can go on for longer"
        )
