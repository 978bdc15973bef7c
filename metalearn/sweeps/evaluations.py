"""Several evaluations in one call: which settings are varied, and the configuration of each cell of the grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metalearn.errors import UserError, one_line
from metalearn.runs.directory import saved_config
from metalearn.runs.evaluation_grid import Cell
from metalearn.sweeps.choices import Choice, choices_of

if TYPE_CHECKING:
    from metalearn.compose.composer import Composer


def asked_cells(composing: Composer, run_dirs: Sequence[Path], overrides: list[str]) -> list[Cell]:
    """Every run under every combination of the values, all of them checked; of the settings the last one varies fastest.

    A combination that some runs cannot take, as they have no such setting, is a cell with an error for those.

    Raises:
        UserError: a run is not there or is named twice, a setting is given twice, or no run can take a combination.
    """
    if len({run_dir.resolve() for run_dir in run_dirs}) < len(run_dirs):
        raise UserError("a run directory is named twice")
    saved = {run_dir: saved_config(run_dir) for run_dir in run_dirs}
    parts = _parts(composing, overrides)
    varied = {part[0].key for part in parts if len(part) > 1}
    made: dict[tuple[Path, int], Cell] = {}
    for number, choices in enumerate(itertools.product(*parts)):
        texts, values = [one.override for one in choices], {one.key: one.value for one in choices if one.key in varied}
        errors = []
        for run_dir in run_dirs:
            try:
                config, error = composing.evaluation(saved[run_dir], texts), None
            except UserError as mistake:
                config, error = None, one_line(mistake)
                errors.append(mistake)
            made[run_dir, number] = Cell(run_dir, values, texts, config, error)
        if len(errors) == len(run_dirs):
            raise errors[0]
    return [made[run_dir, number] for run_dir in run_dirs for number in range(len(made) // len(run_dirs))]


def _parts(composing: Composer, overrides: list[str]) -> list[list[Choice]]:
    """The values of each setting, each once."""
    parts = []
    for override in composing.parse(overrides):
        values = {choice.override: choice for choice in choices_of(composing, override)}
        parts.append(list(values.values()))
    keys = [part[0].key for part in parts]
    if again := [part[0].key for part in parts if len(part) > 1 and keys.count(part[0].key) > 1]:
        raise UserError(f"{again[0]} is given twice, once with several values")
    return parts
