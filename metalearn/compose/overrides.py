"""Overrides as Hydra parses them: their text, and what they mean for a run that is trained already."""

from __future__ import annotations

import re
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from metalearn.compose.mistakes import GROUPS
from metalearn.config.limits import check_limits
from metalearn.errors import UserError

# What an evaluation depends on. A learner's and a backbone's settings may count at test time, such as algorithm.test_inner_steps.
_OF_EVALUATION = re.compile(r"task\.(?!train(\.|$)).*|(dataset|eval|algorithm|backbone)\..*|device|images|dataset|task")
_INSTEAD = {"seed": "eval.seed", "train.task_chunk": "eval.task_chunk", "train.val_tasks": "eval.tasks"}


def text(override: Override) -> str:
    """The override as it was written."""
    assert override.input_line is not None
    return override.input_line


def for_evaluation(overrides: list[Override], command: str) -> tuple[dict[str, str], list[Override]]:
    """The choices of groups and the single settings among `overrides`.

    Raises:
        UserError: one of them cannot be given to a run that is trained already, or `command` is eval and it would have no effect.
    """
    chosen, settings = {}, []
    for override in overrides:
        key, value = override.key_or_group, override.value()
        if override.is_sweep_override():
            raise UserError(f"'{text(override)}': {command} takes one value")
        if override.is_add() or override.is_force_add() or override.is_delete():
            raise UserError(f"'{text(override)}': {command} changes settings, it neither adds nor removes any")
        if key == "experiment":
            raise UserError(f"'{text(override)}': the run is trained; choose task=, dataset= or single settings")
        if key in ("algorithm", "backbone"):
            raise UserError(
                f"'{text(override)}': the run's {key} is what was trained; single settings ({key}.KEY=...) may change"
            )
        if command == "eval":
            _refuse_without_effect(override)
        if key in GROUPS:
            chosen[key] = str(value)
        else:
            settings.append(override)
    return chosen, settings


def _refuse_without_effect(override: Override) -> None:
    key = override.key_or_group
    known = ("train", "seed", "precision", "sweep", "sweep_name", "names", "reference", "hydra", "limits")
    if _OF_EVALUATION.fullmatch(key) or not (key.startswith("task.train") or re.split(r"[./]", key)[0] in known):
        return  # what does not exist at all is refused with a hint
    instead = f"; did you mean '{_INSTEAD[key]}'?" if key in _INSTEAD else ""
    raise UserError(
        f"'{text(override)}' has no effect on an evaluation{instead} (task.*, dataset.*, eval.*, algorithm.*, backbone.*, device and images have)"
    )


def check_evaluated(checked: DictConfig, chosen: dict[str, str], settings: list[Override]) -> dict[str, Any]:
    """Checks the limits of a run's configuration with the choices and settings of `for_evaluation`; returns what `check_limits` does.

    Raises:
        UserError: as `check_limits`; where the user chose a data set and nothing of the task, it says that the run's own task does not fit.
    """
    try:
        return check_limits(checked)
    except UserError as error:
        asked = "task" in chosen or any(override.key_or_group.startswith("task.") for override in settings)
        if asked or "dataset" not in chosen or not str(error).startswith("task."):
            raise
        raise UserError(f"dataset={chosen['dataset']} cannot serve the run's own task: {error}") from None
