"""`metalearn export` of a run that predicts numbers: what it learned of one function as a program, rows of inputs to rows of targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from metalearn.data.columns import Columns
from metalearn.errors import UserError
from metalearn.report.numbers_card import numbers_card
from metalearn.runs.classifier import read_saved
from metalearn.runs.directory import saved_config, stored_config
from metalearn.runs.export import check_exportable, described_run, in_new_folder
from metalearn.runs.loaded import load_run, results_of
from metalearn.runs.predict_numbers import Learned, learn, notes_of
from metalearn.runs.program_formats import FORMATS
from metalearn.runs.programs import CHECKED_AT, Part, write
from metalearn.runs.regressor import Regressor, load_regressor


class RowsProgram(nn.Module):
    """Rows float32 [n, d] -> float32 [n, D], both in the units of the columns.

    Args:
        columns: names and units.
        network: [n, d] -> [n, D], as the model sees them.
    """

    def __init__(self, columns: Columns, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.input_mean: Tensor
        self.input_std: Tensor
        self.target_mean: Tensor
        self.target_std: Tensor
        for name in ("input_mean", "input_std", "target_mean", "target_std"):
            self.register_buffer(name, torch.tensor(getattr(columns, name), dtype=torch.float64))

    def forward(self, rows: Tensor) -> Tensor:
        # In float64: numbers far from 0 with a small deviation lose their digits otherwise.
        inputs = (rows.double() - self.input_mean) / self.input_std
        values: Tensor = self.network(inputs.float()).double() * self.target_std + self.target_mean
        return values.float()


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        learned: of the user's points.
        run_dir: the run; None where a saved file stands alone.
        results: what the run's results.json holds; empty where there is none.
    """

    learned: Learned
    run_dir: Path | None
    results: Mapping[str, Any]


def source_of(
    run_dir: Path | None, support: str | None, adapted: str | None, composed: Callable[[DictConfig], dict[str, Any]]
) -> Source:
    """Learns the points at `support`, or loads what was learned before, on the CPU.

    Args:
        run_dir: None where `adapted` stands alone.
        support: a CSV file, as for `learn`.
        adapted: a file that `Regressor.save` wrote.
        composed: a stored configuration with the user's changes.

    Raises:
        UserError: one of them cannot be used, or predictions depend on the rows that come together.
    """
    results = {} if run_dir is None else results_of(run_dir)
    if adapted is not None:
        file = Path(adapted).expanduser()
        state = read_saved(file)
        regressor = load_regressor(file, state, composed(stored_config(file, state["config"])) | {"device": "cpu"})
        learned = Learned(regressor, None, notes_of(regressor))
    elif run_dir is not None and support is not None:
        run = load_run(run_dir, composed(saved_config(run_dir)) | {"device": "cpu"}, results, numbers=True)
        learned = learn(run, support)
    else:
        raise UserError(
            "this run predicts numbers of a task that it has learned from points: give --support POINTS.csv, or --adapted FILE, which "
            "metalearn predict --save wrote"
        )
    check_exportable(learned.regressor.algorithm, with_classes=True)
    return Source(learned, run_dir, results)


def export_numbers(source: Source, out: Path, formats: tuple[str, ...] = FORMATS) -> dict[str, Any]:
    """Writes the programs, the weights, export.json and the model card; returns what export.json holds.

    Args:
        out: from `checked_target`; it is there afterwards with all files, or as it was before.
        formats: some of FORMATS, in any order.

    Raises:
        UserError: a program cannot be made, or does not give what the model gives.
    """
    ordered = [kind for kind in FORMATS if kind in formats]

    def fill(folder: Path) -> tuple[dict[str, Any], str]:
        written = write(part_of(source.learned.regressor), rows_of(source.learned.regressor.columns), ordered, folder)
        made = _record(source) | {"files": [file.record() for file in written]}
        return made, numbers_card(made)

    return in_new_folder(out, fill)


def part_of(regressor: Regressor) -> Part:
    """What becomes a program."""
    columns = regressor.columns

    def reference(rows: Tensor) -> Tensor:
        return regressor.predict(rows.double().numpy()).values.float()

    module = RowsProgram(columns, regressor.algorithm.deployed(regressor.adapted))
    about = {
        "input": {"name": "rows", "columns": list(columns.inputs), "dtype": "float32"},
        "targets": list(columns.targets),
    }
    return Part("regressor", "values", module, reference, about, input="rows")


def rows_of(columns: Columns) -> Tensor:
    """What the program is compared on: as many rows as are needed, around the mean of the training rows, float32 [n, d]."""
    generator = np.random.Generator(np.random.Philox(key=0))
    drawn = generator.standard_normal((CHECKED_AT[-1], len(columns.inputs)))
    return torch.from_numpy(drawn * columns.input_std + columns.input_mean).float()


def _record(source: Source) -> dict[str, Any]:
    regressor, results, checked = source.learned.regressor, source.results, source.learned.checked
    columns = regressor.columns
    return {
        **described_run(regressor.config, regressor.step, results, source.run_dir),
        "kind": results.get("kind"),
        "test": results.get("test"),
        "inputs": list(columns.inputs),
        "targets": list(columns.targets),
        "units": columns.record(),
        "points": regressor.points,
        "support_check": checked and checked._asdict(),
        "parameters": sum(parameter.numel() for parameter in regressor.algorithm.parameters()),
        "notes": list(source.learned.notes),
    }
