"""When Python looks for garbage."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalearn.garbage import collect_as_usual, collect_rarely


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    collect_as_usual()
    gc.unfreeze()
    assert gc.get_threshold() == before


def test_rarely_and_then_as_before() -> None:
    usual = gc.get_threshold()
    collect_rarely()
    collect_rarely()  # a second call does not take the first one's thresholds for Python's own
    assert gc.get_threshold()[0] > 10 * usual[0]
    collect_as_usual()
    assert gc.get_threshold() == usual


def test_what_was_imported_is_not_looked_at_again() -> None:
    frozen = gc.get_freeze_count()
    collect_rarely()
    collect_as_usual()
    assert gc.get_freeze_count() > frozen


def test_as_usual_changes_nothing_of_a_process_that_is_not_ours() -> None:
    """Whoever calls metalearn.train from a program of their own keeps their thresholds."""
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    collect_as_usual()
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, frozen)


def test_a_run_collects_as_usual_from_its_first_step_on(tmp_path: Path) -> None:
    program = """
import atexit, gc, sys
usual = gc.get_threshold()
atexit.register(lambda: print("thresholds", usual == gc.get_threshold(), gc.get_freeze_count() > 0))
from metalearn.cli.main import main
main()
"""
    settings = [
        "dataset=glyphs",
        "train.steps=1",
        "train.val_every=1",
        "train.val_tasks=2",
        "eval.tasks=2",
        "eval.pictures=0",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, "train", *settings, f"hydra.run.dir={tmp_path / 'run'}"],
        capture_output=True,
        text=True,
    )
    assert "thresholds True True" in done.stdout, done.stdout + done.stderr
