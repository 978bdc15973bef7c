"""What tests of sweeps share: an empty directory, in which runs are fakes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from metalearn.sweeps import pool, queue, slots
from tests import fake_run


def pretend(monkeypatch: pytest.MonkeyPatch, cwd: Path) -> None:
    """Makes `cwd` the working directory, runs fakes, waits short, and this machine one without GPUs."""
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["metalearn"])
    fake_run.install(monkeypatch)
    monkeypatch.setattr(pool, "_WORKER", (sys.executable, "-m", "tests.fake_run"))
    monkeypatch.setattr(pool, "_POLL", 0.01)
    monkeypatch.setattr(queue, "_WAIT", 0.05)
    monkeypatch.setattr(slots, "visible_gpus", list)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory with signs in its name that mean something in an address."""
    pretend(monkeypatch, cwd := tmp_path / "a b ü?%20")
    return cwd
