"""A lock is one process's, ends with it, and can be asked about; by flock and, as on Windows, by filelock."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from metalearn import locks

HOLDER = """
import sys
from pathlib import Path
from metalearn import locks
if {windows}:
    locks.fcntl = None
with locks.{name}(Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=[False, True], ids=["flock", "filelock"])
def windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param:
        monkeypatch.setattr(locks, "fcntl", None)
    return bool(request.param)


@contextmanager
def holder(windows: bool, name: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    code = HOLDER.format(windows=windows, name=name)
    environment = os.environ | {"PYTHONPATH": str(Path(locks.__file__).parents[1])}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=pipe, stdout=pipe, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_another_processs_lock_is_seen_and_dies_with_it(windows: bool, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not locks.is_locked(path)
    with holder(windows, "locked", path) as process:
        assert locks.is_locked(path)
        with locks.locked(path) as held:
            assert not held
        process.kill()
        process.wait()
        assert not locks.is_locked(path)
        with locks.locked(path, wait=True) as held:
            assert held


def test_a_folder_is_one_processs(windows: bool, tmp_path: Path) -> None:
    with holder(windows, "folder_locked", tmp_path), locks.folder_locked(tmp_path) as held:
        assert not held
    with locks.folder_locked(tmp_path) as held:
        assert held


def test_a_file_system_without_locks_has_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refused)
    with pytest.raises(locks.NoLocksError, match="No locks available"), locks.locked(tmp_path / "lock"):
        pass
