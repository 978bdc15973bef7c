"""Which columns of a table a model reads and predicts, and in which units it does: numbers less their mean, over their deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """d input columns and D target columns.

    Attributes:
        inputs: names [d].
        targets: names [D].
        input_mean, input_std: of the training tasks' rows, [d]; 0 and 1 where inputs stay as they are.
        target_mean, target_std: likewise, [D].
        task: the column that names the task of a row; empty where there is none.
    """

    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    input_mean: tuple[float, ...]
    input_std: tuple[float, ...]
    target_mean: tuple[float, ...]
    target_std: tuple[float, ...]
    task: str = ""

    @classmethod
    def plain(cls, inputs: int, targets: int) -> Columns:
        """Of data without names or units: `x` and `y`, or `x1`, `x2`, ... and `y1`, `y2`, ... where there are several."""
        return cls(
            _named("x", inputs),
            _named("y", targets),
            (0.0,) * inputs,
            (1.0,) * inputs,
            (0.0,) * targets,
            (1.0,) * targets,
        )

    @classmethod
    def fitted(cls, x: Numbers, y: Numbers, inputs: Sequence[str], targets: Sequence[str], task: str) -> Columns:
        """Mean and deviation of inputs x [n, d] and targets y [n, D]. A column that is constant keeps its unit."""
        return cls(tuple(inputs), tuple(targets), *_units(x), *_units(y), task)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Columns:
        """Reads what `record` made."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in record.items()
        }
        return cls(**values)

    def record(self) -> dict[str, Any]:
        """Plain values."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values}

    @property
    def standardized(self) -> bool:
        """Whether the model's numbers are others than the table's."""
        return any(self.input_mean + self.target_mean) or any(std != 1 for std in self.input_std + self.target_std)

    def of_model(self, x: Numbers, which: str) -> Tensor:
        """The table's "inputs" or "targets" [n, d] as the model sees them: float32."""
        mean, std = self._units(which)
        return torch.from_numpy(((x - np.array(mean)) / np.array(std)).astype(np.float32))

    def in_units(self, outputs: Tensor) -> Tensor:
        """What the model predicts [..., D] in the units of the targets: float64."""
        mean, std = (
            torch.tensor(values, dtype=torch.float64, device=outputs.device) for values in self._units("targets")
        )
        return outputs.double() * std + mean

    def _units(self, which: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return (self.input_mean, self.input_std) if which == "inputs" else (self.target_mean, self.target_std)


def _units(numbers: Numbers) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = numbers.mean(0), numbers.std(0)
    constant = std <= 1e-12 * np.maximum(1.0, np.abs(mean))
    return tuple(mean.tolist()), tuple(np.where(constant, 1.0, std).tolist())


def _named(name: str, count: int) -> tuple[str, ...]:
    return (name,) if count == 1 else tuple(f"{name}{i}" for i in range(1, count + 1))
