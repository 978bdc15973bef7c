"""scripts/bench_pipeline.py and scripts/mapped_memory.py: both sides make the tasks that are asked for, and the tables say what was measured."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from metalearn.report.text import between
from metalearn.tasks import TaskShape
from tests.scripts.load import load_script

PAGE = (
    "before\n<!-- pipeline:begin -->\nold\n<!-- pipeline:end -->\n<!-- mapped:begin -->\n<!-- mapped:end -->\nafter\n"
)


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    script = load_script("bench_pipeline")
    (tmp_path / "page.md").write_text(PAGE)
    monkeypatch.setattr(script, "PAGE", tmp_path / "page.md")
    return script


def small(script: ModuleType) -> Any:
    return script.Speed(12, 6, 16, TaskShape(2, 1, 2), tasks=4, batch=2, workers=(0, 2), rounds=2)


def test_all_sides_are_measured_and_shown(
    pipeline: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = small(pipeline)
    monkeypatch.setattr(pipeline, "Speed", lambda rounds=2: how._replace(rounds=rounds))
    threads = torch.get_num_threads()
    pipeline.main(["--json", str(tmp_path / "record.json"), "--rounds", "1"])
    torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "record.json").read_text())["rows"]
    sides = ["resident", "mapped", "DataLoader, 0 workers", "DataLoader, 2 workers"]
    assert [(row["side"], row["changed"]) for row in rows] == [
        (side, changed) for changed in (False, True) for side in sides
    ]
    assert all(row["tasks_per_second"]["median"] > 0 for row in rows)
    assert [len(row["ratios"]) for row in rows] == [2, 2, 0, 0] * 2
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("before\n<!-- pipeline:begin -->\n| ")
    assert page.count("| resident |") == 2
    pipeline.main(["--json", str(tmp_path / "record.json"), "--check"])
    (tmp_path / "page.md").write_text(PAGE)
    with pytest.raises(SystemExit, match="is out of date"):
        pipeline.main(["--json", str(tmp_path / "record.json"), "--check"])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("metalearn-ahead")]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_peer_makes_as_many_tasks_of_the_same_files(pipeline: ModuleType, tmp_path: Path, workers: int) -> None:
    how = small(pipeline)
    pipeline.write_jpegs(tmp_path / "images", how)
    assert len(list((tmp_path / "images").glob("class*/*.jpg"))) == 12 * 6
    made: list[int] = []
    loader = pipeline.DataLoader

    class Counting(loader):  # type: ignore[misc,valid-type]
        def __iter__(self) -> Any:
            for images, labels in super().__iter__():
                made.append(len(images))
                assert images.shape == (6, 3, 16, 16)
                assert len(labels.unique()) == 2
                yield images, labels

    pipeline.DataLoader = Counting
    for make in pipeline.theirs(tmp_path / "images", how, workers, changed=True):
        before = len(made)
        make()
        assert len(made) - before == how.tasks


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.slow
def test_a_run_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("mapped_memory")
    (tmp_path / "page.md").write_text(PAGE)
    monkeypatch.setattr(script, "PAGE", tmp_path / "page.md")
    how = script.Memory(classes=25, images=40, size=16, limit=8 * 2**30, steps=2)
    monkeypatch.setattr(script, "Memory", lambda: how)
    script.main(["--json", str(tmp_path / "record.json")])
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["file_bytes"] == 128 + 25 * 40 * 3 * 16 * 16
    for images in ("auto", "device"):
        run = record["runs"][images]
        assert (run["exit"], run["placement"]["place"]) == (0, "device")
        assert run["peak_mib"]["RssAnon"] > 50
    assert "| `images=auto` | device | done |" in (tmp_path / "page.md").read_text()
    script.main(["--json", str(tmp_path / "record.json"), "--check"])


def test_lines_are_put_between_two_others() -> None:
    assert between("a\nB\nold\nE\nz\n", "B", "E", ["new", "lines"]) == "a\nB\nnew\nlines\nE\nz\n"
    with pytest.raises(ValueError, match="lacks the lines B and F"):
        between("a\nB\nE\n", "B", "F", [])
