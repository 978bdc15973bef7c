"""The device that a run computes on."""

from __future__ import annotations

import logging
from typing import Any

import torch

from metalearn.errors import UserError

log = logging.getLogger("metalearn")


def choose_device(config: dict[str, Any]) -> torch.device:
    """The device that `device` names; `auto` is the GPU where CUDA has one, else the CPU.

    `auto` never takes Apple's GPU, on which nobody has run this program yet: `device=mps` does.

    Raises:
        UserError: there is no such device here.
    """
    asked = config["device"]
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device=cuda: torch sees no CUDA device here (allowed: {', '.join(_allowed())})")
    if asked == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"device=mps: torch sees no Apple GPU here (allowed: {', '.join(_allowed())})")
    if asked.startswith("cuda:"):
        number = asked.partition(":")[2]
        raise UserError(
            f"device={asked} is not allowed (auto, cpu, cuda, mps); for one GPU of several, set CUDA_VISIBLE_DEVICES={number} and device=cuda"
        )
    if asked not in ("cpu", "cuda", "mps"):
        raise UserError(f"device={asked} is not allowed (auto, cpu, cuda, mps)")
    return torch.device(asked)


def _allowed() -> list[str]:
    """The devices that are there."""
    gpus = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return ["auto", "cpu", *(name for name, there in gpus.items() if there)]
