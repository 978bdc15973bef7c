"""A model that has learned one of the user's functions from a few points: what `metalearn predict` of a run of numbers makes, and `--save` writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.data.base import TrainedOn
from metalearn.data.columns import Columns
from metalearn.engine.device import choose_device
from metalearn.errors import UserError
from metalearn.runs.adapt import QUERIES_AT_ONCE
from metalearn.runs.loaded import LoadedRun, algorithm_of, kind_named
from metalearn.runs.stored import built, modules_of, save_adapted
from metalearn.tasks import Examples

_CHECKED = 60  # support points that `check` holds out at most

Numbers = NDArray[np.float64]


class Predicted(NamedTuple):
    """Of Q rows and D targets, in the units of the columns.

    Attributes:
        values: float64 [Q, D].
        deviations: the standard deviation of the distribution that the algorithm predicts, float64 [Q, D]; None: it predicts none.
    """

    values: Tensor
    deviations: Tensor | None


class Checked(NamedTuple):
    """How well support points are predicted from the others.

    Attributes:
        points: how many were held out.
        mse: of each target, [D].
        of_mean: what the mean of the other points comes to, [D].
    """

    points: int
    mse: tuple[float, ...]
    of_mean: tuple[float, ...]


@dataclass(frozen=True)
class Regressor:
    """A trained algorithm, adapted to points of one task.

    Attributes:
        run: what the algorithm is from, in words.
        step: outer steps that it was trained for.
        config: of the run.
        trained_on: the form of its examples.
        algorithm: in evaluation mode.
        adapted: what `Algorithm.adapt` returned.
        columns: names and units of inputs and targets.
        points: how many it learned from.
    """

    run: str
    step: int
    config: dict[str, Any]
    trained_on: TrainedOn
    algorithm: Algorithm
    adapted: Any
    columns: Columns
    points: int

    @classmethod
    def of(cls, run: LoadedRun, x: Numbers, y: Numbers) -> Regressor:
        """Adapts the run's algorithm to inputs x [n, d] with targets y [n, D], in the units of the columns.

        Raises:
            UserError: the run does not predict numbers.
        """
        columns = columns_of(run.trained_on)
        adapted = adapted_to(run.algorithm, columns, x, y, run.device)
        where = f"{run.directory}: {run.name}"
        return cls(where, run.state["step"], run.config, run.trained_on, run.algorithm, adapted, columns, len(x))

    @property
    def device(self) -> torch.device:
        """Where the algorithm is."""
        return choose_device(self.config)

    def predict(self, x: Numbers) -> Predicted:
        """The targets of inputs x [Q, d], which are in the units of the columns."""
        return predicted(self.algorithm, self.adapted, self.columns, x, self.device)

    def save(self, path: Path) -> None:
        """Writes a file of tensors and plain values: the weights, what was adapted, names and units of the columns.

        Raises:
            UserError: it cannot be written, or the algorithm keeps what such a file cannot hold.
        """
        own = {
            "step": self.step,
            "trained_on": self.trained_on.record(),
            "run": self.run,
            "kind": self.algorithm.kind.name,
            "columns": self.columns.record(),
            "points": self.points,
        }
        save_adapted(path, self.algorithm, self.adapted, self.config, own)


def load_regressor(path: Path, state: dict[str, Any], config: dict[str, Any]) -> Regressor:
    """What `Regressor.save` wrote.

    Args:
        state: the content of the file.
        config: the configuration in it, checked.

    Raises:
        UserError: it does not fit this version.
    """
    device, trained_on = choose_device(config), TrainedOn.of(state["trained_on"])
    kind = kind_named(state["kind"], config)
    algorithm = algorithm_of(config, trained_on, state["model"], device, str(path), kind)
    try:
        adapted = built(state["adapted"], modules_of(algorithm), device)
        columns = Columns.of(state["columns"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} was written by another version of metalearn: save it again") from error
    return Regressor(state["run"], state["step"], config, trained_on, algorithm, adapted, columns, state["points"])


def is_regressor(state: dict[str, Any]) -> bool:
    """Whether a saved file predicts numbers, not classes."""
    return "columns" in state


def columns_of(trained_on: TrainedOn) -> Columns:
    """Names and units of what a model predicts from what; `x` and `y` where its data had none.

    Raises:
        UserError: its examples are no rows of numbers.
    """
    if trained_on.columns is not None:
        return Columns.of(trained_on.columns)
    if len(trained_on.shape) != 1:
        raise UserError(
            f"this run learned examples of the shape {list(trained_on.shape)}: predict of numbers needs rows of numbers"
        )
    return Columns.plain(trained_on.shape[0], trained_on.outputs or 1)


def adapted_to(algorithm: Algorithm, columns: Columns, x: Numbers, y: Numbers, device: torch.device) -> Any:
    """What the algorithm learns from inputs x [n, d] with targets y [n, D], in the units of the columns."""
    inputs, targets = columns.of_model(x, "inputs"), columns.of_model(y, "targets")
    with torch.no_grad():
        return algorithm.adapt(Examples(inputs[None].to(device), targets[None].to(device), len(columns.targets)))


@torch.no_grad()
def predicted(algorithm: Algorithm, adapted: Any, columns: Columns, x: Numbers, device: torch.device) -> Predicted:
    """What an adapted algorithm predicts of inputs x [Q, d]; together where rows depend on each other."""
    inputs = columns.of_model(x, "inputs")
    values, deviations = [], []
    for part in [inputs] if algorithm.transductive else torch.split(inputs, QUERIES_AT_ONCE):
        distribution = algorithm.predict_distribution(adapted, part[None].to(device))
        outputs = algorithm.predict(adapted, part[None].to(device)) if distribution is None else distribution.mean
        values.append(columns.in_units(outputs[0].float().cpu()))
        if distribution is not None:
            deviations.append(
                distribution.std[0].double().cpu() * torch.tensor(columns.target_std, dtype=torch.float64)
            )
    return Predicted(torch.cat(values), torch.cat(deviations) if deviations else None)


def check(regressor: Regressor, x: Numbers, y: Numbers) -> Checked | None:
    """Predicts points that the regressor learned from by the others; None where there is only one."""
    n = len(x)
    if n < 2:
        return None
    count = min(n, _CHECKED)
    held = [round(i * (n - 1) / max(1, count - 1)) for i in range(count)]
    errors, of_mean = np.empty((count, y.shape[1])), np.empty((count, y.shape[1]))
    for row, i in enumerate(held):
        rest = np.delete(np.arange(n), i)
        adapted = adapted_to(regressor.algorithm, regressor.columns, x[rest], y[rest], regressor.device)
        found = predicted(regressor.algorithm, adapted, regressor.columns, x[i : i + 1], regressor.device)
        errors[row] = found.values[0].numpy() - y[i]
        of_mean[row] = y[rest].mean(0) - y[i]
    mse, simple = (tuple(np.square(values).mean(0).tolist()) for values in (errors, of_mean))
    return Checked(count, mse, simple)
