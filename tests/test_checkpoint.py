"""Checkpoints: whole or not at all, and never code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from metalearn import checkpoint
from metalearn.errors import UserError

CPU = torch.device("cpu")


def test_round_trip(tmp_path: Path) -> None:
    state = {"step": 3, "model": {"w": torch.arange(4.0)}, "config": {"a": [1, None, "x"]}}
    checkpoint.save(tmp_path / "last.pt", state)
    loaded = checkpoint.load(tmp_path / "last.pt", CPU)
    assert torch.equal(loaded["model"]["w"], torch.arange(4.0))
    assert (loaded["step"], loaded["config"]) == (3, state["config"])
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path / "last.pt", {"step": 1})

    def full_disk(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path / "last.pt", {"step": 2})
    assert checkpoint.load(tmp_path / "last.pt", CPU)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_missing_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint .*best\.pt"):
        checkpoint.load(tmp_path / "best.pt", CPU)


@pytest.mark.parametrize("keep", [0, 1, 100, 400])
def test_a_truncated_one_is_refused(tmp_path: Path, keep: int) -> None:
    checkpoint.save(tmp_path / "last.pt", {"model": {"w": torch.zeros(100)}})
    content = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(content[:keep])
    with pytest.raises(UserError, match="not an intact checkpoint"):
        checkpoint.load(tmp_path / "last.pt", CPU)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_it_is_not_run(tmp_path: Path, how: str) -> None:
    victim, file = tmp_path / "victim", tmp_path / "last.pt"
    if how == "torch":
        torch.save({"format": checkpoint.FORMAT, "model": Payload(victim)}, file)
    else:
        file.write_bytes(pickle.dumps(Payload(victim), protocol=2))
    with pytest.raises(UserError, match="not an intact checkpoint"):
        checkpoint.load(file, CPU)
    assert not victim.exists()


def test_another_format_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 999}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="not written by this version"):
        checkpoint.load(tmp_path / "last.pt", CPU)
