"""Checkpoints: whole or not at all, and never code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from metalearn.errors import UserError
from metalearn.runs import checkpoint

CPU = torch.device("cpu")


def state(**changes: Any) -> dict[str, Any]:
    model = {"w": torch.arange(4.0), "n": torch.tensor(3), "half": torch.ones(2, 2, dtype=torch.bfloat16).T}
    return {"step": 3, "model": model, "config": {"a": [1, None, "x", True]}, "train_classes": ["b"], **changes}


def test_a_damaged_file_is_told_from_one_that_is_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "best.pt"
    for content, said in ((b"", "it is empty"), (b"PK" + 300 * b"x", "it is cut short, or something else")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=said):
            checkpoint.load(file, torch.device("cpu"))


def test_round_trip(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.pt", state())
    loaded = checkpoint.load(tmp_path / "last.pt", CPU)
    assert all(torch.equal(loaded["model"][name], value) for name, value in state()["model"].items())
    assert {key: loaded[key] for key in loaded if key != "model"} == {
        "format": checkpoint.FORMAT,
        **{key: value for key, value in state().items() if key != "model"},
    }
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path / "last.pt", state(step=1))

    def full_disk(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            checkpoint.save(tmp_path / "last.pt", state(step=2))
        assert checkpoint.load(tmp_path / "last.pt", CPU)["step"] == 1
        with pytest.raises(OSError, match="No space"):
            checkpoint.save_last(tmp_path, state(step=2))
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest["step"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    for step in (1, 2, 3):
        checkpoint.save_last(tmp_path, state(step=step))
    assert [checkpoint.load(tmp_path / f"{name}.pt", CPU)["step"] for name in ("previous", "last")] == [2, 3]


@pytest.mark.parametrize(
    "change",
    [
        {"step": 4},
        {"config": {"a": [1, None, "x", 1]}},
        {"config": {"a": [1, None, "x"], "b": True}},
        {"train_classes": ["c"]},
        {"model": {"w": torch.tensor([0.0, 1.0, 2.0, 4.0])}},
        {"model": {"w": torch.arange(4)}},
        {"model": {"w": torch.arange(4.0).view(2, 2)}},
        {"more": 1},
    ],
    ids=str,
)
def test_what_does_not_match_its_checksum_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    saved = state(model={"w": torch.arange(4.0)})
    checkpoint.save(tmp_path / "last.pt", saved)
    whole = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save(whole, tmp_path / "last.pt")
    assert checkpoint.load(tmp_path / "last.pt", CPU)["step"] == 3
    torch.save(whole | change, tmp_path / "last.pt")
    with pytest.raises(UserError, match="does not match its checksum"):
        checkpoint.load(tmp_path / "last.pt", CPU)


def test_the_format_before_checksums_is_read(tmp_path: Path) -> None:
    torch.save({"format": 1, **state()}, tmp_path / "last.pt")
    assert checkpoint.load(tmp_path / "last.pt", CPU)["step"] == 3


@pytest.mark.parametrize("key", ["step", "model", "config", "train_classes"])
def test_one_of_something_else_is_refused(tmp_path: Path, key: str) -> None:
    checkpoint.save(tmp_path / "last.pt", state(**{key: "x"}))
    with pytest.raises(UserError, match=f"no usable {key}"):
        checkpoint.load(tmp_path / "last.pt", CPU)


def test_a_missing_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint .*best\.pt"):
        checkpoint.load(tmp_path / "best.pt", CPU)


@pytest.mark.parametrize("keep", [0, 1, 100, 400])
def test_a_truncated_one_is_refused(tmp_path: Path, keep: int) -> None:
    checkpoint.save(tmp_path / "last.pt", state())
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


@pytest.mark.parametrize("content", [[1], 3, {}, {"format": []}], ids=str)
def test_something_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(UserError, match="not written by this version"):
        checkpoint.load(tmp_path / "last.pt", CPU)
