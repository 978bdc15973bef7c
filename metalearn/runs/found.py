"""A run, or a test of it, as its small files show it: its settings, its score, its status."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metalearn.config.tree import leaves
from metalearn.kinds import Scale, scale_of
from metalearn.runs.quick_config import scalar
from metalearn.status import Status

UNREADABLE = "unreadable"
_NAMES = ("algorithm", "dataset", "backbone", "experiment")


@dataclass(frozen=True)
class Found:
    """A run, or with `evaluation` one of its tests under other conditions.

    Attributes:
        path: the run directory.
        status: one of Status, or UNREADABLE.
        error: why it failed, or cannot be read.
        config: what config.yaml holds; empty where it cannot be read.
        results: what results.json or the evaluation's file holds; empty where there is none.
        evaluation: eval-<time>.json; None: the run's own test.
        label: what `metalearn runs mark` called it.
    """

    path: Path
    status: str
    error: str | None
    config: dict[str, Any]
    results: dict[str, Any]
    evaluation: Path | None = None
    label: str | None = None
    unreadable: tuple[str, ...] = field(default=())  # files that say less than they should, with the reason

    @property
    def is_run(self) -> bool:
        """Whether metalearn wrote it; other programs have files named config.yaml too. Of an unreadable one that cannot be told."""
        if self.config or self.results:
            return {"algorithm", "dataset"} <= set(self.config or self.results)
        return self.status == UNREADABLE or bool(self.unreadable)

    @property
    def file(self) -> Path:
        """What the scores come from."""
        return self.evaluation or self.path / "results.json"

    @property
    def tasks_file(self) -> Path:
        """Where the scores of single tasks are, if they are there."""
        return self.path / (f"{self.evaluation.stem}-tasks.npz" if self.evaluation else "test_tasks.npz")

    def name_of(self, what: str) -> str | None:
        """The name of its algorithm, dataset, backbone or experiment."""
        name = self.results.get(what) or _at(self.config, f"names.{what}")
        return None if name is None else str(name)

    @property
    def seed(self) -> Any:
        """The seed of its training; None where nothing says it."""
        return self.results.get("seed", self.config.get("seed"))

    @property
    def kind(self) -> Scale:
        """How its scores are read."""
        return scale_of(self.results)

    @property
    def test(self) -> dict[str, Any]:
        """The `test` entry; empty where there is none."""
        return self.results.get("test") or {}

    @property
    def score(self) -> float | None:
        """The score of its test, where it ended with one that is a number."""
        score = self.test.get(self.kind.score) if self.status == Status.DONE else None
        return score if isinstance(score, int | float) and math.isfinite(score) else None

    @property
    def eval_seed(self) -> Any:
        """The seed of its test tasks, as an override of the evaluation or the run's configuration says it."""
        return self.changes.get("eval.seed", _at(self.config, "eval.seed"))

    @functools.cached_property
    def changes(self) -> dict[str, Any]:
        """What an evaluation changed: key -> value, as the command line said it."""
        parts = (str(text).partition("=") for text in self.results.get("overrides", ()) if self.evaluation)
        return {key.lstrip("+"): scalar(value) for key, _, value in parts}

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Every setting by its dotted path, and what filters may ask for beside: names, status, label, seed, score."""
        return {
            **dict(leaves(self.config)),
            **{key: value for what in _NAMES if (value := self.name_of(key := what)) is not None},
            **{f"task.{key}": value for key, value in leaves(self.results.get("task") or {})},
            **self.changes,
            "seed": self.seed,
            "status": str(self.status),
            "label": self.label,
            "score": self.score,
            "run": str(self.path),
        }


def _at(config: Mapping[str, Any], dotted: str) -> Any:
    node: Any = config
    for part in dotted.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
