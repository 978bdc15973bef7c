"""`train.init`: training that starts from the weights of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metalearn.algorithms.embedding import MetricScale
from metalearn.errors import UserError
from metalearn.runs import checkpoint


def read_initial(where: str) -> dict[str, Any]:
    """What a checkpoint holds: of a run directory best.pt, else last.pt. Raises UserError where there is none."""
    path = Path(where).expanduser()
    if path.is_dir():
        path = path / (checkpoint.BEST if (path / checkpoint.BEST).is_file() else checkpoint.LAST)
    try:
        return checkpoint.load(path, torch.device("cpu"))
    except UserError as error:
        raise UserError(f"train.init={where}: {error}") from error


def start_from(algorithm: nn.Module, settings: Mapping[str, Any], state: dict[str, Any], where: str) -> str:
    """Copies the weights of `state` whose names and shapes match; another algorithm's backbone is found by its name.

    A learned factor of similarities (`MetricScale`) is taken only from the same algorithm with the same distance and transform: one of
    squared distances, 4 / D say, would leave nothing of cosines.

    Args:
        settings: of `algorithm`.
        where: the earlier run, for messages.

    Returns:
        One line that says what was taken and what was not.

    Raises:
        UserError: no weight matches.
    """
    theirs = {_common(name): tensor for name, tensor in state["model"].items()}
    if not _compares_alike(settings, state["config"]["algorithm"]):
        scales = [name for name, module in algorithm.named_modules() if isinstance(module, MetricScale)]
        theirs = {name: tensor for name, tensor in theirs.items() if name.rpartition(".")[0] not in scales}
    own = algorithm.state_dict()
    taken = {
        name: theirs[_common(name)]
        for name, tensor in own.items()
        if _common(name) in theirs and theirs[_common(name)].shape == tensor.shape
    }
    if not any(name in taken for name, _ in algorithm.named_parameters()):
        raise UserError(f"train.init={where}: no weight there has the name and shape of one of this model's")
    algorithm.load_state_dict(own | taken)
    left = [name for name in own if name not in taken]
    rest = f"; not found there: {', '.join(left[:5])}{', ...' if len(left) > 5 else ''}" if left else ""
    return f"train.init: {len(taken)} of {len(own)} tensors from {where}{rest}"


def _compares_alike(settings: Mapping[str, Any], earlier: Mapping[str, Any]) -> bool:
    """Whether a factor of similarities means the same to two algorithms."""
    return all(settings.get(key) == earlier.get(key) for key in ("_target_", "distance", "transform"))


def _common(name: str) -> str:
    """The part of a tensor's name that algorithms share: from `backbone.` on."""
    start = name.find("backbone.")
    return name[start:] if start >= 0 else name
