"""`train.average`: the exponential moving average of what outer steps change, which is validated, saved and tested in its place.

An average over the last iterates has less of the noise of single steps than any of them (Polyak and Juditsky 1992,
https://doi.org/10.1137/0330046), so the learning rate need not fall as far. Training itself goes on from the weights.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

_Tensors = tuple[Tensor, ...] | list[Tensor]  # as torch gives them


class Average:
    """The average of a model's parameters and buffers: after s outer steps, decay * the average after s - 1 + (1 - decay) * the model.

    Running statistics are averaged like weights. Integers, such as counters and keys of random numbers, are the model's own.

    Args:
        model: of which the average after the first step is a copy.
        decay: within 0..1, the part of the average that a step keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        ema = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

        def move(averages: _Tensors, values: _Tensors, steps: Tensor | int) -> None:
            if averages[0].is_floating_point():
                ema(averages, values, steps)
            else:  # of which torch would round the average
                for average, value in zip(averages, values, strict=True):
                    average.copy_(value)

        self._model = model
        self._averaged = AveragedModel(model, multi_avg_fn=move, use_buffers=True)

    def update(self) -> None:
        """Takes in the model after an outer step."""
        self._averaged.update_parameters(self._model)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Has the model hold the average for a while; what is fitted or chosen meanwhile becomes the average's.

        Values move, tensors stay where they are: the optimizer, parts that share them and recorded CUDA graphs know them.
        """
        if not self._steps:
            yield
            return
        trained = [tensor.clone() for tensor in _tensors(self._model)]
        _copy(_tensors(self._averaged.module), _tensors(self._model))
        try:
            yield
        finally:
            _copy(_tensors(self._model), _tensors(self._averaged.module))
            _copy(trained, _tensors(self._model))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: `model`, what is tested; `trained`, the weights that training goes on from; `averaged`, the steps taken in."""
        model = self._averaged.module if self._steps else self._model
        return {"model": model.state_dict(), "trained": self._model.state_dict(), "averaged": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Sets the model and its average to what `state_dict` returned."""
        self._model.load_state_dict(state["trained"])
        self._averaged.module.load_state_dict(state["model"])
        self._averaged.n_averaged.fill_(state["averaged"])

    @property
    def _steps(self) -> int:
        return int(self._averaged.n_averaged)


class NoAverage:
    """The same where there is none: the model is tested as it is trained."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def update(self) -> None:
        pass

    def in_place(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        return {"model": self._model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state["model"])


def average_of(model: nn.Module, decay: float | None) -> Average | NoAverage:
    """`train.average`."""
    return NoAverage(model) if decay is None else Average(model, decay)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in itertools.chain(model.parameters(), model.buffers())]


def _copy(values: list[Tensor], to: list[Tensor]) -> None:
    for target, value in zip(to, values, strict=True):
        target.copy_(value)
