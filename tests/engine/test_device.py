"""A device that is not there is refused in one line that names those that are."""

from __future__ import annotations

import pytest
import torch

from metalearn.engine.device import choose_device
from metalearn.errors import UserError


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return monkeypatch


def test_auto_takes_cuda_and_never_apples_gpu(machine: pytest.MonkeyPatch) -> None:
    assert choose_device({"device": "auto"}).type == "cpu"
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device({"device": "auto"}).type == "cpu"
    assert choose_device({"device": "mps"}).type == "mps"
    machine.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device({"device": "auto"}).type == "cuda"


@pytest.mark.parametrize(
    ("device", "line"),
    [
        ("cuda", "device=cuda: torch sees no CUDA device here (allowed: auto, cpu)"),
        ("mps", "device=mps: torch sees no Apple GPU here (allowed: auto, cpu)"),
        ("cuda:1", "for one GPU of several, set CUDA_VISIBLE_DEVICES=1 and device=cuda"),
        ("tpu", "device=tpu is not allowed (auto, cpu, cuda, mps)"),
    ],
)
def test_what_is_not_there_is_refused(device: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        choose_device({"device": device})
    assert line in str(error.value)
