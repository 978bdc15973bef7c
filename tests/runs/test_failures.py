"""Runs that fail: what they say, and that nothing is lost that was there."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from metalearn.cli.main import main
from metalearn.engine import gradient as gradient_module
from metalearn.report.terminal import FileLog
from metalearn.runs import checkpoint
from tests.runs.test_resume import CPU, TINY, assert_equal_runs, contents, leaves_with

Act = Callable[[], None]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for handler in list(logging.getLogger().handlers):  # they hold run.log on a disk that goes away
        if isinstance(handler, FileLog):
            logging.getLogger().removeHandler(handler)
            with contextlib.suppress(OSError):  # the disk may be full still
                handler.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, small."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs to mount a tmpfs")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Act], None]:
    real = gradient_module.meta_gradient
    waiting: dict[int, Act] = {}

    def meta_gradient(algorithm: Any, *rest: Any) -> Any:
        waiting.pop(algorithm.outer_step + 1, lambda: None)()
        return real(algorithm, *rest)

    monkeypatch.setattr(gradient_module, "meta_gradient", meta_gradient)
    return waiting.__setitem__


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    main(["train", *TINY, f"hydra.run.dir={run_dir}"])
    return run_dir


def results(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "results.json").read_text())
    return found


@pytest.mark.thorough
@pytest.mark.parametrize(
    "error", [RuntimeError("out of luck"), MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), SystemExit(3)]
)
def test_whatever_goes_wrong_is_said_once_and_nothing_is_lost(
    error: BaseException,
    straight: Path,
    at_step: Callable[[int, Act], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    at_step(11, fail)
    assert leaves_with("train", *TINY, "hydra.run.dir=run") == 1
    found = results(Path("run"))
    assert (found["status"], found["step"]) == ("failed", 10)
    assert found["error"] == f"{type(error).__name__}: {error}"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"failed at step 10: {type(error).__name__}")
    log = Path("run/run.log").read_text()
    assert "Traceback" in log
    assert type(error).__name__ in log
    main(["train", "--resume", "run"])
    assert_equal_runs(Path("run"), straight)


def test_a_full_disk_while_it_trains(
    disk: Path, straight: Path, at_step: Callable[[int, Act], None], capsys: pytest.CaptureFixture[str]
) -> None:
    at_step(5, lambda: fill(disk))  # later ones take the place of the checkpoint before the previous one
    run_dir = disk / "run"
    assert leaves_with("train", *TINY, f"hydra.run.dir={run_dir}") == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert "No space left on device" in captured.err
    assert f"to go on from the last checkpoint: metalearn train --resume {run_dir}\n" in captured.err
    saved = checkpoint.newest(run_dir)
    assert saved is not None
    assert saved["step"] == 3
    (disk / "filler").unlink()
    main(["train", "--resume", str(run_dir)])
    assert_equal_runs(run_dir, straight)


def test_a_disk_that_is_full_from_the_beginning(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(disk)
    assert leaves_with("train", *TINY, f"hydra.run.dir={disk}/run") == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert "failed at step 0: OSError: [Errno 28] No space left on device" in captured.err
    assert "to go on" not in captured.err  # there is nothing to go on from
    assert "results.json cannot be written" in captured.err


def test_a_directory_that_becomes_read_only(
    disk: Path, straight: Path, at_step: Callable[[int, Act], None], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = disk / "run"

    def seal() -> None:
        # Files that are open for writing hold a remount up: the rest of the tree becomes read-only by another way.
        subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True)
        remount(disk, "bind,ro")

    at_step(11, seal)
    assert leaves_with("train", *TINY, f"hydra.run.dir={run_dir}") == 1
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert "Read-only file system" in captured.err
    assert "results.json cannot be written" in captured.err
    saved = checkpoint.newest(run_dir)
    assert saved is not None
    assert saved["step"] == 9
    main(["train", "--resume", str(run_dir)])
    assert_equal_runs(run_dir, straight)


def test_a_read_only_directory_is_said_in_lines_and_left_alone(
    disk: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = disk / "run"
    run_dir.mkdir()
    for file in straight.iterdir():
        if file.name != "results.json":
            (run_dir / file.name).write_bytes(file.read_bytes())
    before = contents(run_dir)
    remount(disk, "ro")
    assert leaves_with("train", "--resume", str(run_dir)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert "cannot be written: it cannot be gone on with" in captured.err
    assert contents(run_dir) == before


def test_a_failing_log_is_said_once_and_does_not_stop_the_run(
    disk: Path, straight: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: FileLog) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileLog, "_open", full)
    main(["train", *TINY, "hydra.run.dir=run"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "run.log cannot be written: [Errno 28] No space left on device" in line
    assert_equal_runs(Path("run"), straight)


def test_last_is_never_ahead_of_what_was_reported_on_the_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A power cut may undo what was not yet synced: rows must be before the checkpoint that counts them."""
    from metalearn.runs.tracking import Tracker

    order: list[str] = []
    real_sync, real_save = Tracker.sync, checkpoint.save_last
    monkeypatch.setattr(Tracker, "sync", lambda self: (order.append("rows"), real_sync(self)))
    monkeypatch.setattr(checkpoint, "save_last", lambda *a: (order.append("checkpoint"), real_save(*a)))
    main(["train", *TINY, "hydra.run.dir=run"])
    assert order == ["rows", "checkpoint"] * 8
    assert checkpoint.load(Path("run/last.pt"), CPU)["step"] == 24
