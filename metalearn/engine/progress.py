"""How far training has got: what is counted, the losses since the last report, and what a step reports."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn.errors import Diverged
from metalearn.kinds import Kind


@dataclass
class Outcome:
    """The state and the results of training so far. Every checkpoint holds it, and it can be read after a run fails."""

    steps: int = 0  # outer steps done
    reported: int = 0  # of these, validated and logged too, where that was due
    seconds: float = 0.0  # of training alone, without validation
    data_seconds: float = 0.0  # of these, making tasks
    validation_seconds: float = 0.0
    task_chunk: int = 0
    precision: str = ""  # what `precision` came to; empty before that is settled
    best: dict[str, float] = field(default_factory=dict)  # score by its name, ci95, step of the best validation
    validations_without_gain: int = 0

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what a checkpoint holds; a count that it does not know, as it is older, starts at its default.

        Raises:
            KeyError: it does not hold the steps.
        """
        for name in ("steps", "reported"):
            setattr(self, name, state[name])
        for entry in fields(self):
            setattr(self, entry.name, state.get(entry.name, getattr(self, entry.name)))


class Score(NamedTuple):
    """The result of a validation."""

    value: float  # mean over tasks of the kind's score
    ci95: float  # half the width of its 95 % interval
    loss: float
    not_finite: int  # tasks without a score, as an output was not finite
    kind: Kind

    @property
    def values(self) -> dict[str, float]:
        """By the tags of metrics.csv."""
        return {f"val/{self.kind.score}": self.value, "val/ci95": self.ci95, "val/loss": self.loss}


class Reported(NamedTuple):
    """One report of the outer loop, after an outer step."""

    step: int
    values: dict[str, float]  # tag -> value; empty where nothing was due
    score: Score | None  # where this step was validated
    is_best: bool  # whether that is the best score so far
    is_last: bool  # whether no further step follows


class Window:
    """The steps since the last report. Their losses stay on the device until they are needed."""

    def __init__(self, outcome: Outcome, max_loss: float) -> None:
        self._outcome, self._max_loss = outcome, max_loss
        self._steps: list[tuple[int, dict[str, Tensor]]] = []
        self._seconds = 0.0

    def add(self, step: int, sums: dict[str, Tensor], seconds: float, data_seconds: float) -> None:
        """Counts an outer step."""
        self._steps.append((step, sums))
        self._pass(seconds)
        self._outcome.data_seconds += data_seconds

    def check(self) -> None:
        """Raises Diverged at the first step whose loss is not a number below the limit."""
        if not self._steps:
            return
        waited = time.perf_counter()
        losses = torch.stack([sums["loss"] for _, sums in self._steps]).tolist()
        self._pass(time.perf_counter() - waited)
        for (step, _), loss in zip(self._steps, losses, strict=True):
            if not math.isfinite(loss) or loss > self._max_loss:
                raise Diverged(step, f"the training loss was {loss:g}")

    def means(self) -> dict[str, float]:
        """Tag -> mean over these steps, after `check`."""
        self.check()
        return {tag: float(values.mean()) for tag, values in self._stacked().items()}

    def close(self, tasks_per_step: int) -> dict[str, float]:
        """The times of this window; the next one begins."""
        tasks_per_second = len(self._steps) * tasks_per_step / max(self._seconds, 1e-9)
        self._steps, self._seconds = [], 0.0
        return {"time/tasks_per_second": tasks_per_second, "time/seconds": self._outcome.seconds}

    def state(self) -> dict[str, Any]:
        """A checkpoint may fall between two reports."""
        return {"steps": [step for step, _ in self._steps], "sums": self._stacked(), "seconds": self._seconds}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Continues the window of a checkpoint."""
        sums = {tag: values.to(device).unbind() for tag, values in state["sums"].items()}
        self._steps = [(step, {tag: sums[tag][i] for tag in sums}) for i, step in enumerate(state["steps"])]
        self._seconds = state["seconds"]

    def _stacked(self) -> dict[str, Tensor]:
        """tag -> [steps]"""
        tags = self._steps[0][1] if self._steps else ()
        return {tag: torch.stack([sums[tag] for _, sums in self._steps]) for tag in tags}

    def _pass(self, seconds: float) -> None:
        self._seconds += seconds
        self._outcome.seconds += seconds
