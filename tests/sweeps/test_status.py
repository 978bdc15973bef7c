"""How far a sweep is: from files alone, while others write them; time left; what Slurm has of it; what the console shows meanwhile."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from metalearn.cli.main import main
from metalearn.errors import UserError
from metalearn.kinds import CLASSIFICATION, REGRESSION
from metalearn.report import jobs as report
from metalearn.report import terminal
from metalearn.report.text import short_names
from metalearn.runs.progress import ProgressFile, reach
from metalearn.sweeps import slurm
from metalearn.sweeps.directory import Job, SweepDir
from metalearn.sweeps.pace import job_left, sweep_left
from metalearn.sweeps.status import Watcher, status_of
from metalearn.sweeps.view import SweepView

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sweep(tmp_path: Path) -> SweepDir:
    """Four jobs: done, running, dead, pending."""
    made = SweepDir(tmp_path / "grid")
    config = {"train": {"steps": 100}, "algorithm": {}, "dataset": {}}
    made.store([Job(f"seed={seed}", {"seed": seed}, config) for seed in range(4)], "metalearn train -m seed=0,1,2,3")
    for seed in range(3):
        made.run_dir(f"seed={seed}").mkdir()
        (made.run_dir(f"seed={seed}") / "config.yaml").write_text("train:\n  steps: 100\n")
    done = {
        "status": "done",
        "val": {"accuracy": 0.9},
        "test": {"accuracy": 0.875, "ci95": 0.01, "seconds": 20.0},
        "train": {"steps": 100, "seconds": 90.0, "validation_seconds": 10.0, "tasks_per_second": 50.0},
    }
    (made.run_dir("seed=0") / "results.json").write_text(json.dumps(done))
    for seed, step in ((1, 40), (2, 10)):
        (made.run_dir(f"seed={seed}") / "progress.json").write_text(json.dumps(at_work(step)))
    return made


def at_work(step: int, **more: Any) -> dict[str, Any]:
    said = {"phase": "train", "step": step, "steps": 100, "since": 0, "seconds": 2.0 * step, "val": 0.8}
    return said | {"kind": CLASSIFICATION.record(), "host": "node7", "tasks_per_second": 25.0, "at": time.time()} | more


def test_every_job_is_where_its_files_and_its_lock_say(sweep: SweepDir, capsys: pytest.CaptureFixture[str]) -> None:
    with sweep.lock("seed=1"):
        record = status_of(sweep.path)
        main(["status", str(sweep.path)])
    rows = {row["job"]: row for row in record["jobs"]}
    assert {name: (row["status"], row["dead"]) for name, row in rows.items()} == {
        "seed=0": ("done", False),
        "seed=1": ("running", False),
        "seed=2": ("interrupted", True),
        "seed=3": ("pending", False),
    }
    assert (rows["seed=1"]["step"], rows["seed=1"]["steps"], rows["seed=1"]["host"]) == (40, 100, "node7")
    assert rows["seed=1"]["left"] == pytest.approx(60 * 2 + 20), "its own speed, and a test as long as the other's"
    alike = (1 + 2 + 2) / 3  # seconds of a step: of the done job, the running one, and the dead one until it died
    assert rows["seed=3"]["left"] == pytest.approx(100 * alike + 20)
    assert rows["seed=2"]["left"] == pytest.approx(90 * alike + 20), "from its last step on"
    assert record["left"] == pytest.approx(sum(rows[f"seed={seed}"]["left"] for seed in (1, 2, 3))), "one at a time"
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["job", "status", "step", "validation", "test", "tasks/s", "time", "left"]
    assert out[2].split() == ["seed=1", "running", "40/100", "80.0", "%", "25", "2:20", "left"]
    assert out[3].split() == ["seed=2", "interrupted", "(dead)", "10/100", "80.0", "%", "25"]
    assert out[5].startswith("1 of 4 jobs done, 1 running, 1 pending, 1 interrupted (1 dead); ")


def test_one_that_said_it_was_interrupted_is_not_dead(sweep: SweepDir, capsys: pytest.CaptureFixture[str]) -> None:
    stopped = {"status": "interrupted", "error": "stopped by SIGTERM", "train": {"steps": 10, "seconds": 5.0}}
    (sweep.run_dir("seed=2") / "results.json").write_text(json.dumps(stopped))
    record = status_of(sweep.path)
    assert [row["dead"] for row in record["jobs"]] == [False, True, False, False], "seed=1 has no lock now"
    assert record["left"] is None, "nobody works on it"
    main(["status", str(sweep.path)])
    out = capsys.readouterr().out
    assert "seed=2: stopped by SIGTERM (" in out
    assert out.endswith("no process runs a job of it; to go on: metalearn train -m seed=0,1,2,3\n")


def test_json_has_it_all_and_torch_is_not_needed(sweep: SweepDir) -> None:
    program = "import sys; from metalearn.cli.main import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    told = subprocess.run(
        [sys.executable, "-c", program, "status", str(sweep.path), "--json"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    record = json.loads(told.stdout)
    assert (record["total"], record["counts"]) == (4, {"pending": 1, "interrupted": 2, "done": 1})
    assert record["jobs"][0]["score"] == 0.875


def test_a_single_run_and_what_is_none(sweep: SweepDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = "algorithm: {}\ndataset: {}\ntrain:\n  steps: 100\n"
    (sweep.run_dir("seed=2") / "config.yaml").write_text(config)
    (row,) = status_of(sweep.run_dir("seed=2"))["jobs"]
    assert (row["status"], row["dead"], row["step"]) == ("interrupted", True, 10)
    with pytest.raises(UserError, match=r"is neither a sweep nor a run; the newest below it is .*grid"):
        status_of(tmp_path)
    for words, said in (
        (["nowhere"], "'nowhere' is no directory"),
        ([], "status needs one sweep or run"),
        ([str(sweep.path), "--watch", "--json"], "only one of --watch and --json"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["status", *words])
        assert left.value.code == 2
        assert said in capsys.readouterr().err


def test_watching_ends_when_nobody_works(sweep: SweepDir, capsys: pytest.CaptureFixture[str]) -> None:
    main(["status", str(sweep.path), "--watch"])
    assert "to go on: metalearn train" in capsys.readouterr().out


def test_a_job_without_the_file_is_read_from_its_rows(sweep: SweepDir) -> None:
    run = sweep.run_dir("seed=1")
    (run / "progress.json").write_text('{"phase": "tra')
    (run / "metrics.csv").write_text(
        "step,train/loss,time/tasks_per_second,val/mse,val/ci95\n20,1.5,33.5,0.25,0.1\n40,1"
    )
    found = reach(run)
    assert (found.step, found.val, found.tasks_per_second, found.kind) == (40, 0.25, 33.5, REGRESSION)


def test_jobs_take_as_long_as_those_that_share_most_settings() -> None:
    def row(algorithm: str, **more: Any) -> dict[str, Any]:
        base = {"status": "pending", "phase": None, "per_step": None, "step": None, "steps": 10, "test_seconds": None}
        return base | {"choices": {"algorithm": algorithm, "seed": 0}} | more

    others = [row("slow", status="done", per_step=10.0), row("fast", status="done", per_step=1.0)]
    assert job_left(row("slow"), others) == 100
    assert job_left(row("fast"), others) == 10
    assert job_left(row("new"), others) == 55, "shares nothing: the mean of all"
    assert job_left(row("new"), []) is None
    testing = row("slow", status="running", phase="test", phase_left=7.0)
    assert job_left(testing, others) == 7


@pytest.mark.parametrize(("at_once", "left"), [(1, 60), (2, 30), (3, 30), (0, None)])
def test_the_whole_takes_as_long_as_its_fullest_place(at_once: int, left: float | None) -> None:
    rows = [{"status": "pending", "left": seconds} for seconds in (30.0, 20.0, 10.0)]
    assert sweep_left(rows, at_once) == left
    assert sweep_left([*rows, {"status": "done", "left": 0.0}], at_once) == left


def test_what_a_run_writes_is_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with ProgressFile(tmp_path, 500, 80, CLASSIFICATION) as file:
        assert (reach(tmp_path).phase, reach(tmp_path).step, reach(tmp_path).slurm) == ("start", 80, "77_3")
        for step in range(81, 92):
            clock.now += 60.0 if step == 81 else 1.0  # the start takes a minute
            file.passed(step)
        file.reported(91, {"val/accuracy": 0.5, "time/tasks_per_second": 16.0})
        clock.now += 2.0
        file.passed(92)
        found = reach(tmp_path)
        assert (found.step, found.val, found.tasks_per_second) == (92, 0.5, 16.0)
        assert found.per_step == pytest.approx(12 / 11), "the start is no part of a step"
        file.tested(0, 40)
        clock.now += 5.0
        file.tested(10, 40)
        assert (reach(tmp_path).phase, reach(tmp_path).phase_left) == ("test", pytest.approx(15.0))
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    with ProgressFile(tmp_path / "gone", 10, 0, CLASSIFICATION) as file:
        file.passed(1)


def test_two_hundred_jobs_are_read_at_once(tmp_path: Path) -> None:
    sweep = SweepDir(tmp_path / "many")
    config = {"train": {"steps": 100}, "algorithm": {"inner_lr": 0.4}, "dataset": {"root": "there"}}
    sweep.store([Job(f"seed={seed}", {"seed": seed}, config) for seed in range(200)], "command")
    for seed in range(100):
        sweep.run_dir(f"seed={seed}").mkdir()
        (sweep.run_dir(f"seed={seed}") / "results.json").write_text('{"status": "done", "train": {}, "test": {}}')
    watcher = Watcher(sweep)
    started = time.process_time()
    assert watcher.record()["counts"] == {"done": 100, "pending": 100}
    assert time.process_time() - started < 0.5


# --- Slurm ------------------------------------------------------------------------------------------------------------


def test_the_arrays_of_a_sweep_and_their_logs(tmp_path: Path) -> None:
    folder = tmp_path / ".submitit"
    for name in ("4711", "4711_0", "4711_1", "98", "555", "%j"):
        (folder / name).mkdir(parents=True)
    for job in ("4711", "98"):
        (folder / job / f"{job}_submission.sh").write_text("#!/bin/bash\n#SBATCH --array=0-1\n")
    found = slurm.arrays(tmp_path)
    assert [(array["id"], array["jobs"]) for array in found] == [("98", 1), ("4711", 2)], "555 is a process"
    line = report.array_line(found[1])
    assert line == f"Slurm 4711: an array of 2 jobs; squeue -j 4711; logs: {folder}/4711_*/*.out"
    assert slurm.arrays(tmp_path / "nowhere") == []


@pytest.mark.parametrize("accounting", [True, False])
def test_without_accounting_one_line_says_so_and_sacct_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], accounting: bool
) -> None:
    sacct = tmp_path / "sacct"
    sacct.write_text(f"#!/bin/sh\necho Slurm accounting storage is disabled >&2\nexit {0 if accounting else 1}\n")
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    watcher = SimpleNamespace(_make_command=lambda: ["sacct"])
    fake = SimpleNamespace(SlurmJob=SimpleNamespace(watcher=watcher))
    monkeypatch.setitem(sys.modules, "submitit", fake)
    before = logging.getLogger("submitit").level
    with slurm.quiet_submitit():
        assert watcher._make_command() == (["sacct"] if accounting else None)
        assert not logging.getLogger("submitit").isEnabledFor(logging.WARNING)
    assert logging.getLogger("submitit").level == before
    assert capfd.readouterr().out.count("Slurm keeps no accounts here (Slurm accounting storage is disabled)") == (
        0 if accounting else 1
    )


# --- the console ------------------------------------------------------------------------------------------------------


def test_the_live_view_shows_running_jobs_and_the_whole(sweep: SweepDir) -> None:
    with sweep.lock("seed=1"):
        record = Watcher(sweep, at_once=2, total=6).record()
    view = report.LiveJobs()
    view._record = record
    console = Console(width=100, height=20, record=True, file=io.StringIO())
    console.print(view)
    lines = console.export_text().splitlines()
    assert lines[0].startswith("seed=1")
    assert "40/100" in lines[0]
    assert "val 80.0 %" in lines[0]
    assert lines[0].rstrip().endswith("2:20 left")
    assert lines[1].startswith("1 of 6 jobs done, 1 running, 3 pending, 1 interrupted (1 dead); ")
    assert len(lines) == 2


def test_a_plain_line_names_a_few_jobs(sweep: SweepDir) -> None:
    with sweep.lock("seed=1"):
        line = report.progress_line(Watcher(sweep).record())
    assert line.endswith(" left | seed=1 40/100 val 80.0 %")


def test_settings_are_named_by_their_ends() -> None:
    keys = ["backbone.filters", "train.augment.degrees", "task.shots", "task.train.shots", "seed"]
    assert list(short_names(keys).values()) == ["filters", "degrees", "task.shots", "train.shots", "seed"]


def test_a_quiet_thread_says_errors_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.quiet():
        terminal.say("unheard")
        terminal.table(["head"], [["cell"]])
        terminal.error_line("wrong")
    terminal.say("heard")
    assert capsys.readouterr() == ("heard\n", "wrong\n")


def test_the_view_of_a_launchers_jobs_says_what_changed(sweep: SweepDir, capsys: pytest.CaptureFixture[str]) -> None:
    view = SweepView(Watcher(sweep), tells=True)
    view._look(Watcher(sweep).record())
    assert capsys.readouterr() == ("", ""), "nothing has changed yet"
    (sweep.path / ".submitit" / "12").mkdir(parents=True)
    (sweep.path / ".submitit" / "12" / "12_submission.sh").write_text("#SBATCH --time=1\n")
    with sweep.lock("seed=1"), sweep.lock("seed=3"):
        view._look(Watcher(sweep).record())
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("Slurm 12: a job; squeue -j 12; logs: ")
    assert out[1:] == ["job 2 of 4: seed=1", "job 4 of 4: seed=3"]
    done = {"status": "done", "test": {"accuracy": 0.5, "ci95": 0.01}, "train": {"steps": 100, "seconds": 61.0}}
    sweep.run_dir("seed=3").mkdir()
    (sweep.run_dir("seed=3") / "results.json").write_text(json.dumps(done))
    view._look(Watcher(sweep).record())
    out, err = capsys.readouterr()
    assert out == "job 4 of 4: seed=3: done  50.00 ± 1.00 %  1:01\n"
    assert err.startswith("job 2 of 4: seed=1: interrupted (dead): its process is gone (")
