"""results.json of a run and eval-<time>.json of an evaluation: which keys they hold, in which order, and how they are written and read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalearn.errors import UserError
from metalearn.runs.directory import mapping, read_text, write_json
from metalearn.runs.tested import TestRecord
from metalearn.status import Status

if TYPE_CHECKING:  # whoever only reads results needs no torch
    from metalearn.data.base import Split
    from metalearn.engine.placement import Placement
    from metalearn.engine.settings import Names
    from metalearn.kinds import Scale


@dataclass(frozen=True, kw_only=True)
class TrainRecord:
    """The `train` entry: how long training took."""

    steps: int  # outer steps
    seconds: float  # of training alone, without validation
    validation_seconds: float
    tasks_per_second: float
    data_wait_fraction: float  # of `seconds`, spent making tasks
    task_chunk: int
    peak_memory_mib: float
    precision: str | None = None  # what precision=auto came to; None: the configuration says it

    def to_json(self) -> dict[str, Any]:
        """What the file holds, keys in their order."""
        return {key: value for key, value in asdict(self).items() if (key, value) != ("precision", None)}


@dataclass(frozen=True, kw_only=True)
class Results:
    """What both files hold."""

    status: Status
    error: str | None
    names: Names
    seed: int
    split: Split | None  # None: the run failed before its test
    kind: Scale | None  # of the tasks; None: the run failed before it was known
    task: dict[str, Any]  # the shape of test tasks
    test: TestRecord | None
    environment: dict[str, Any]
    notes: tuple[str, ...] = ()  # of the data set: what a reader has to know
    placement: Placement | None = None  # None: the data set has none, or the run failed before it was known

    def _beginning(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "error": self.error,
            "algorithm": self.names.algorithm,
            "dataset": self.names.dataset,
            "backbone": self.names.backbone,
        }

    def _tested(self) -> dict[str, Any]:
        return {
            "split": self.split and {"name": self.split.name, "sha256": self.split.sha256},
            **({"notes": list(self.notes)} if self.notes else {}),
            "kind": self.kind and self.kind.record(),
            "task": self.task,
            "test": self.test and self.test.to_json(),
            "placement": self.placement and asdict(self.placement),
        }


@dataclass(frozen=True, kw_only=True)
class RunResults(Results):
    """results.json. `task` holds the shape of training tasks too, as `train`."""

    config_hash: str
    val: dict[str, float] | None = None  # the best validation: score by its name, ci95, step
    train: TrainRecord | None = None
    step: int | None = None  # where a run that is not done stopped

    def to_json(self) -> dict[str, Any]:
        """What results.json holds, keys in their order."""
        return {
            **self._beginning(),
            "experiment": self.names.experiment,
            "seed": self.seed,
            "config_hash": self.config_hash,
            **self._tested(),
            "val": self.val,
            "train": self.train and self.train.to_json(),
            "environment": self.environment,
            **({} if self.step is None else {"step": self.step}),
        }


@dataclass(frozen=True, kw_only=True)
class EvalResults(Results):
    """eval-<time>.json."""

    overrides: list[str]  # what the user changed
    images: dict[str, Any] | None = (
        None  # `shape` of the data set's images, and `as` which shape the model saw them, where that is another
    )
    seconds: float  # of the evaluation, building included
    conditions: str | None = None  # what it is of: equal ones come to the same number
    # The first test tasks that are functions of one number (curves.py).
    curves: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """What the file holds, keys in their order."""
        return {
            **self._beginning(),
            "seed": self.seed,
            "overrides": self.overrides,
            **({} if self.conditions is None else {"conditions": self.conditions}),
            **({} if self.images is None else {"images": self.images}),
            **self._tested(),
            **({"curves": self.curves} if self.curves else {}),
            "seconds": self.seconds,
            "environment": self.environment,
        }


def write_results(run_dir: Path, results: RunResults) -> None:
    """Writes results.json atomically."""
    write_json(run_dir / "results.json", results.to_json())


def read_results(run_dir: Path) -> dict[str, Any]:
    """The run's results.

    Raises:
        UserError: there is no results.json, or it is not a mapping.
    """
    path = run_dir / "results.json"
    text = read_text(path)
    try:
        results = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return mapping(path, results)


def is_done(run_dir: Path) -> bool:
    """Whether the run has finished; a results.json that cannot be read says nothing."""
    try:
        return read_results(run_dir).get("status") == "done"
    except UserError:
        return False
