"""`metalearn runs`: the list, what may be removed, labels."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from metalearn.cli.main import main
from metalearn.errors import UserError
from metalearn.locks import folder_locked
from metalearn.runs.housekeeping import listed, mark, removable, remove, run_of
from metalearn.sweeps.directory import Job, SweepDir
from tests.runs.made_runs import config_of, make_run, task_scores


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "a", task_scores(0.9, 1), config_of("a"))


def test_the_list_says_status_score_and_size(run: Path) -> None:
    make_run(run.parent / "b", config=config_of("b"), status="failed")
    rows = {Path(row["path"]).name: row for row in listed([run.parent])}
    assert rows["a"]["status"] == "done"
    assert rows["a"]["score"] == pytest.approx(0.9, abs=0.03)
    assert rows["a"]["size"] == sum(file.stat().st_size for file in run.iterdir())
    assert (rows["b"]["status"], rows["b"]["error"], rows["b"]["score"]) == ("failed", "boom", None)
    assert [row["algorithm"] for row in listed([run.parent], ["status=failed"])] == ["b"]


def test_a_folder_that_cannot_be_read_is_passed_over_below_what_was_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = run.parent / "closed"
    closed.mkdir()
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("metalearn.runs.finding.os.scandir", refusing)
    assert [row["path"] for row in listed([run.parent])] == [str(run)]
    assert capsys.readouterr().err == f"warning: '{closed}' cannot be read: Permission denied; passed over\n"
    with pytest.raises(UserError, match="cannot be read: Permission denied"):
        listed([closed])


def test_jobs_of_a_sweep_that_have_not_started_are_pending(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = SweepDir(tmp_path / "multirun" / "grid")
    sweep.store([Job(name, {}, config_of(name)) for name in ("a", "b", "c")], "the command")
    assert {row["status"] for row in listed([tmp_path])} == {"pending"}
    make_run(sweep.run_dir("a"), task_scores(0.9, 1), config_of("a"))
    sweep.write_error("b", "no space\nleft")
    rows = {Path(row["path"]).name: row for row in listed([sweep.path])}
    assert {name: (row["status"], row["error"]) for name, row in rows.items()} == {
        "a": ("done", None),
        "b": ("failed", "no space left"),
        "c": ("pending", None),
    }
    assert (rows["c"]["algorithm"], rows["c"]["size"]) == ("c", 0)
    assert [row["status"] for row in listed([tmp_path], ["status=pending"])] == ["pending"]
    main(["runs", str(tmp_path)])
    assert "pending" in capsys.readouterr().out
    (sweep.path / "jobs" / "c.yaml").unlink()
    assert [row["status"] for row in listed([tmp_path], ["status=unreadable"])] == ["unreadable"]


def test_a_run_that_another_process_is_at_work_in_is_running_and_stays(run: Path) -> None:
    (run / "results.json").unlink()
    with folder_locked(run):
        assert listed([run])[0]["status"] == "running"
        with pytest.raises(UserError, match="another process is at work"):
            removable(run)
    assert listed([run])[0]["status"] == "interrupted"
    remove([removable(run)])
    assert not run.exists()


def test_a_done_run_that_is_resumed_meanwhile_stays(run: Path) -> None:
    chosen = removable(run)
    with folder_locked(run), pytest.raises(UserError, match="another process is at work"):
        remove([chosen])
    assert run.is_dir()


def test_only_run_directories_are_removed(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run directory"):
        removable(run.parent)
    with pytest.raises(UserError, match="is no directory"):
        removable(tmp_path / "none")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.yaml").write_text("db: {host: x}\n")
    with pytest.raises(UserError, match="not those of a run"):
        removable(foreign)
    (run / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"holds what no run writes: thesis\.tex"):
        removable(run)
    (run / "thesis.tex").unlink()
    (run / "calibration-f181644a5507.json").write_text("{}")  # which predict keeps there
    assert removable(run).path == run
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(UserError, match="is a link"):
        removable(tmp_path / "link")
    assert run.is_dir()


def test_rm_asks_and_without_a_terminal_wants_yes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["runs", "rm", str(run)])
    assert ended.value.code == 2
    assert "--yes" in capsys.readouterr().err
    assert run.is_dir()
    main(["runs", "rm", str(run), "--yes"])
    assert not run.exists()


def test_one_that_is_refused_keeps_all_others(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["runs", "rm", str(run), str(tmp_path), "--yes"])
    assert run.is_dir()


def test_a_label_is_shown_and_taken_away(run: Path) -> None:
    main(["runs", "mark", str(run), "paper"])
    assert listed([run])[0]["label"] == "paper"
    assert removable(run)
    mark(run_of(run), "")
    assert listed([run])[0]["label"] is None
    with pytest.raises(UserError, match="not allowed as a label"):
        mark(run_of(run), "two\nlines")


def test_the_list_as_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["runs", str(run.parent), "--json", "-"])
    assert json.loads(capsys.readouterr().out)[0]["algorithm"] == "a"
