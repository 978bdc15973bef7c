"""Sweeps: which jobs there are, that each is run once, what is left when something dies, what is reported."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from metalearn.cli.main import main
from metalearn.config.files import slug
from metalearn.errors import UserError
from metalearn.sweeps import summary
from metalearn.sweeps.directory import Job, SweepDir
from metalearn.sweeps.launchers import _saved_before_requeue
from metalearn.sweeps.pool import run_jobs
from metalearn.sweeps.rows import job_rows, seed_rows
from metalearn.sweeps.slots import Slot, slots
from metalearn.sweeps.space import trial_text
from metalearn.sweeps.summary import write_summary
from tests import fake_run
from tests.fake_run import CRASHES, EXITS, FAILS, FAILS_SILENTLY, HANGS, INTERRUPTED, KILLED, LISTENING, calls

pytestmark = pytest.mark.usefixtures("elsewhere")
ROOT = Path(__file__).parents[2]
TWO = [Slot(None, 1), Slot(None, 1)]


def leaves_with(*argv: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def stored(*seeds: int, name: str = "stored") -> SweepDir:
    sweep = SweepDir(Path(name))
    sweep.store([Job(f"seed={seed}", {"seed": seed}, {"seed": seed}) for seed in seeds], "the command")
    return sweep


def names(sweep_name: str = "mine") -> list[str]:
    return list(SweepDir(Path("outputs/multirun") / sweep_name).choices())


def sweep_file(folder: Path, text: str) -> list[str]:
    (folder / "conf" / "sweep").mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "sweep" / "mine.yaml").write_text(text)
    return ["--config-dir", str(folder / "conf"), "sweep=mine", "sweep_name=mine"]


# --- which jobs -------------------------------------------------------------------------------------------------------


def test_the_command_line_gives_a_grid() -> None:
    main(["train", "-m", "algorithm=protonet,maml", "task.ways=5,7", "train.lr=1e-3", "sweep_name=mine"])
    assert names() == [
        "algorithm=protonet-task.ways=5",
        "algorithm=protonet-task.ways=7",
        "algorithm=maml-task.ways=5",
        "algorithm=maml-task.ways=7",
    ]
    config = SweepDir(Path("outputs/multirun/mine")).config("algorithm=maml-task.ways=7")
    assert (config["names"]["algorithm"], config["task"]["ways"]) == ("maml", 7)
    assert not {"hydra", "sweep", "limits"} & set(config)


@pytest.mark.thorough
def test_a_file_gives_grid_zip_list_and_seeds_and_is_their_product(elsewhere: Path) -> None:
    text = """
list: [{algorithm: maml, algorithm.inner_lr: 0.1}, {algorithm: protonet}]
zip: {task.ways: [5, 7], task.train.ways: [10, 14]}
grid: {train.lr: [0.001, 1.0e-4]}
seeds: [3, 5]
"""
    main(["train", *sweep_file(elsewhere, text)])
    assert len(names()) == 2 * 2 * 2 * 2
    sweep = SweepDir(Path("outputs/multirun/mine"))
    configs = [sweep.config(name) for name in names()]
    assert {(c["task"]["ways"], c["task"]["train"]["ways"]) for c in configs} == {(5, 10), (7, 14)}
    assert {(c["names"]["algorithm"], c["algorithm"].get("inner_lr")) for c in configs} == {
        ("maml", 0.1),
        ("protonet", None),
    }
    assert [c["seed"] for c in configs[:4]] == [3, 5, 3, 5]
    assert {c["train"]["lr"] for c in configs} == {1e-3, 1e-4}


def test_seeds_alone_are_a_sweep_without_m() -> None:
    main(["train", "sweep.seeds=3", "sweep_name=mine"])
    assert names() == ["seed=0", "seed=1", "seed=2"]


def test_m_alone_is_a_sweep_of_one() -> None:
    main(["train", "-m", "seed=4", "sweep_name=mine"])
    main(["train", "-m", "seed=5", "sweep_name=mine"])
    main(["train", "-m", "seed=6,7", "sweep_name=mine"])
    assert names() == ["seed=4", "seed=5", "seed=6", "seed=7"]


def test_the_job_of_an_older_sweep_of_one_keeps_its_name() -> None:
    main(["train", "-m", "seed=4", "sweep_name=mine"])
    folder = Path("outputs/multirun/mine")
    config = SweepDir(folder).config("seed=4")
    shutil.rmtree(folder)
    SweepDir(folder).store([Job("default", {}, config)], "metalearn train -m seed=4 sweep_name=mine")
    main(["train", "-m", "seed=4", "sweep_name=mine"])
    assert names() == ["default"]
    main(["train", "-m", "seed=5", "sweep_name=mine"])
    assert names() == ["default", "seed=5"]


def test_a_glob_takes_the_choices_of_a_group() -> None:
    main(["train", "-m", "algorithm=glob(proton*)", "seed=0", "sweep_name=mine"])
    assert names() == ["algorithm=protonet"]


def test_a_table_with_cut_names_has_a_column_for_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    long = [
        "backbone.filters=8,16",
        "train.schedule=constant",
        "train.augment.degrees=1.5,2.5",
        "train.augment.translate=0.1,0.2",
    ]
    main(["train", "-m", *long, "sweep.seeds=1", "sweep_name=mine"])
    head = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("backbone.filters"))
    assert head.split()[:5] == [
        "backbone.filters",
        "train.augment.degrees",
        "train.augment.translate",
        "seed",
        "status",
    ]
    text = (Path("outputs/multirun/mine") / "summary.md").read_text()
    assert (
        "| run | backbone.filters | train.augment.degrees | train.augment.translate | seed | status | accuracy |"
        in text
    )


def test_jobs_that_join_a_sweep_with_a_seed_each_are_summed_up_together() -> None:
    fixed = ["dataset=glyphs", "train.lr=0.01", "sweep_name=mine"]
    main(["train", "-m", *fixed, "seed=0,1"])
    for seed in (2, 3):  # as the tasks of an array job do
        main(["train", "-m", *fixed, f"seed={seed}"])
    rows = job_rows(SweepDir(Path("outputs/multirun/mine")))
    assert sorted(tuple(row["choices"].items()) for row in rows) == [(("seed", seed),) for seed in range(4)]
    assert [row["status"] for row in seed_rows(rows)] == ["4 of 4 done"]


def test_a_large_number_in_a_name_keeps_its_exponent() -> None:
    assert trial_text(0, {"train.lr": 3.43e30}).endswith("=3.43e+30")
    assert slug("trial=0-train.lr=3.43e+30") == "trial=0-train.lr=3.43e30"


def test_a_regression_is_summed_up_by_its_error() -> None:
    sweep = stored(0, 1)
    for name, mse in (("seed=0", 0.5), ("seed=1", 0.25)):
        sweep.run_dir(name).mkdir()
        record = {
            "status": "done",
            "val": {"mse": mse},
            "test": {"mse": mse, "ci95": 0.01},
            "train": {"steps": 1, "seconds": 1.0, "validation_seconds": 60.0},
        }
        (sweep.run_dir(name) / "results.json").write_text(json.dumps(record))
    rows = write_summary(sweep)
    assert [row["mse"] for row in rows] == [0.5, 0.25]
    text = (sweep.path / "summary.md").read_text()
    assert "| [run](seed=0) | 0 | done | 0.5000 ± 0.0100 | 1:01 |  |" in text
    assert text.index("seed=1") < text.index("seed=0"), "the smaller error is the better one"
    assert "mse,ci95,ci95_classes,std,seeds,val_mse" in (sweep.path / "summary.csv").read_text()
    record["test"]["further"] = {"nll": {"mean": -0.12345, "ci95": 0.01}}  # of one that predicts distributions
    (sweep.run_dir("seed=1") / "results.json").write_text(json.dumps(record))
    write_summary(sweep)
    text = (sweep.path / "summary.md").read_text()
    assert "| mse | nll | time |" in text
    assert "| 0.2500 ± 0.0100 | -0.1235 | 1:01 |" in text
    assert "| 0.5000 ± 0.0100 |  | 1:01 |" in text
    assert "mse,ci95,ci95_classes,nll,std" in (sweep.path / "summary.csv").read_text()


def test_strange_values_give_safe_names_and_arrive_whole(elsewhere: Path) -> None:
    strange = ["a/b c", "ü'\"", "x,y=z", "1", "null", "back\\slash"]
    main(["train", "dataset=omniglot", *sweep_file(elsewhere, yaml.safe_dump({"grid": {"dataset.root": strange}}))])
    assert len(set(names())) == len(strange)
    assert all(re.fullmatch(r"[A-Za-z0-9=._-]{1,60}", name) for name in names())
    sweep = SweepDir(Path("outputs/multirun/mine"))
    assert [sweep.config(name)["dataset"]["root"] for name in names()] == strange


@pytest.mark.thorough
def test_a_very_long_list_of_overrides() -> None:
    long = [f"+algorithm.extra.key_{i}={'v' * 50}" for i in range(300)]
    main(
        [
            "train",
            "-m",
            "dataset=omniglot",
            *long,
            "seed=0,1",
            f"dataset.root={'x' * 2000},{'y' * 2000}",
            "sweep_name=mine",
        ]
    )
    assert len(names()) == 4
    assert max(map(len, names())) <= 60


def test_a_number_as_text_is_not_a_number(elsewhere: Path) -> None:
    assert leaves_with("train", *sweep_file(elsewhere, "grid: {task.ways: ['5']}")) == 2


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("zip: {task.ways: [5, 7], task.shots: [1]}", [], "sweep.zip pairs lists of one length, but task.ways has 2"),
        ("grid: {task.ways: 5}", [], "sweep.grid: task.ways needs a list of values"),
        ("grid: {task.ways: []}", [], "sweep.grid: task.ways needs a list of values"),
        ("list: [5]", [], "sweep.list is a list of combinations"),
        ("grid: {task.way: [5, 7]}", [], "no setting 'task.way'; did you mean 'task.ways'?"),
        ("grid: {algorithm: [mamll]}", [], "no algorithm named 'mamll'; did you mean 'maml'?"),
        ("grid: {task.ways: [5, 1]}", [], "task.ways=1 is not allowed (int >= 2)"),
        ("seeds: 0", [], "sweep.seeds=0 is not allowed"),
        ("seeds: [1, -1]", [], "sweep.seeds=[1, -1] is not allowed"),
        ("seeds: 2", ["-m", "seed=0,1"], "seed is varied twice in this sweep"),
        ("seeds: 2", ["seed=0"], "seed is varied by the sweep and set on the command line as well"),
        ("grid: {seed: [1, 1]}", [], "the sweep has two jobs seed=1"),
        ("seeds: 2", ["sweep.jobs=0"], "sweep.jobs=0 is not allowed (auto or int >= 1)"),
        ("seeds: 2", ["-m", "sweep.jobs=1,2"], "'sweep.jobs=1,2': a sweep's own settings take one value"),
        ("seeds: 2", ["hydra.sweep.subdir=x"], "hydra.sweep.subdir: "),
        ("grid: {seed: [1, 99]}", [], "99 is too large"),
        ("seds: 2", [], "no setting 'sweep.seds'"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_is_written(
    text: str, arguments: list[str], said: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leaves_with("train", *sweep_file(elsewhere, text), *arguments) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"metalearn: error: {said}")
    assert line.count("\n") == 1
    assert not Path("outputs").exists()


def test_single_runs_know_nothing_of_sweeps() -> None:
    main(["train", "hydra.run.dir=one"])
    assert "sweep" not in yaml.safe_load(Path("one/config.yaml").read_text())


# --- stored, and continued --------------------------------------------------------------------------------------------


def test_the_same_command_runs_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "-m", f"seed=1,{INTERRUPTED},2,{FAILS}", "sweep_name=mine"]
    folder = Path("outputs/multirun/mine")
    assert leaves_with(*command) == 130
    assert [call["job"] for call in calls(folder)] == ["seed=1", f"seed={INTERRUPTED}"]
    assert "to go on: metalearn train -m seed=1,115,2,113 sweep_name=mine" in capsys.readouterr().err
    assert leaves_with(*command) == 1
    assert [(call["job"], call["resume"]) for call in calls(folder)[2:]] == [
        (f"seed={INTERRUPTED}", True),
        ("seed=2", False),
        (f"seed={FAILS}", False),
    ]
    assert leaves_with(*command) == 1
    assert len(calls(folder)) == 5
    assert leaves_with(*command, "sweep.retry_failed=true") == 1
    assert [(call["job"], call["resume"]) for call in calls(folder)[5:]] == [(f"seed={FAILS}", True)]


def test_other_jobs_are_added_to_a_sweep_of_the_same_name() -> None:
    main(["train", "-m", "seed=0,1", "sweep_name=mine"])
    main(["train", "-m", "seed=1,2", "sweep_name=mine"])
    assert names() == ["seed=0", "seed=1", "seed=2"]
    assert [call["job"] for call in calls(Path("outputs/multirun/mine"))] == ["seed=0", "seed=1", "seed=2"]
    told = json.loads(Path("outputs/multirun/mine/summary.json").read_text())
    assert [row["job"] for row in told["jobs"]] == names()
    assert len(told["commands"]) == 2


def test_a_job_that_would_now_be_another_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "-m", "dataset=omniglot", "seed=0,1", "sweep_name=mine"])
    before = sorted(Path("outputs").rglob("*"))
    assert (
        leaves_with("train", "-m", "dataset=omniglot", "seed=0,1", "train.lr=0.5", "train.steps=7", "sweep_name=mine")
        == 2
    )
    line = capsys.readouterr().err
    assert re.search(r"job 'seed=0' of .*/mine was stored with train.steps=\d+, now 7; train.lr=[\d.]+, now 0.5", line)
    assert sorted(Path("outputs").rglob("*")) == before
    # The same job, its data elsewhere.
    main(["train", "-m", "dataset=omniglot", "seed=0,1", "dataset.root=moved", "sweep_name=mine"])


def test_a_sweep_runs_as_it_was_stored_whatever_becomes_of_its_files(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = sweep_file(elsewhere, "grid: {experiment: [mine], seed: [1, 2]}")
    (elsewhere / "conf/experiment").mkdir()
    experiment = elsewhere / "conf/experiment/mine.yaml"
    experiment.write_text("# @package _global_\ntrain: {lr: 0.5}\n")
    real = fake_run.run

    def editing(config: dict[str, Any], run_dir: Path, resume: bool = False) -> dict[str, Any]:
        experiment.write_text("no: [yaml")
        return real(config, run_dir, resume)

    monkeypatch.setattr(sys.modules["metalearn.runs.run"], "run", editing)
    main(["train", *arguments])
    for name in names():
        assert yaml.safe_load((Path("outputs/multirun/mine") / name / "config.yaml").read_text())["train"]["lr"] == 0.5


def test_sweeps_without_a_name_never_share_a_directory() -> None:
    for _ in range(2):
        main(["train", "sweep.seeds=2"])
    folders = list(Path("outputs/multirun").iterdir())
    assert len(folders) == 2
    again = json.loads((folders[0] / "summary.json").read_text())["commands"][0]
    main(again.split()[1:])
    assert len(list(Path("outputs/multirun").iterdir())) == 2, "the recorded command continues that sweep"


# --- failures, reports ------------------------------------------------------------------------------------------------


def test_whatever_a_job_raises_fails_that_job_alone(capsys: pytest.CaptureFixture[str]) -> None:
    seeds = f"{FAILS_SILENTLY},{EXITS},{FAILS},1"
    assert leaves_with("train", "-m", f"seed={seeds}", "sweep_name=mine") == 1
    folder = Path("outputs/multirun/mine")
    sweep = SweepDir(folder)
    assert [sweep.status(name) for name in names()] == ["failed", "failed", "failed", "done"]
    assert sweep.error("seed=112") == "RuntimeError: before the run could say anything"
    out, err = capsys.readouterr()
    assert "failed: RuntimeError: before the run could say anything" in err
    assert "Traceback" in (folder / "seed=112/run.log").read_text()
    assert "Traceback" not in err
    table = [line.split() for line in out.splitlines() if "outputs/multirun/mine/seed=" in line]
    assert [row[:2] for row in table] == [["1", "done"], ["112", "failed"], ["114", "failed"], ["113", "failed"]]
    assert "51.00 ± 1.00 %" in out
    for name in names():
        assert (folder / name / "run.log").read_text(), "the log of a job is not empty"


@pytest.mark.parametrize("places", [1, 2])
def test_in_a_pipe_a_job_says_when_it_starts_and_ends(places: int, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = stored(0, FAILS, 1)
    run_jobs(sweep, ["seed=0", f"seed={FAILS}", "seed=1"], TWO[:places], False)
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"3 jobs, up to {places} at once; what each does: stored/*/run.log"
    said = [
        "job 1 of 3: seed=0",
        "job 1 of 3: seed=0: done  50.00 ± 1.00 %  0:02",
        f"job 2 of 3: seed={FAILS}",
        "job 3 of 3: seed=1",
        "job 3 of 3: seed=1: done  51.00 ± 1.00 %  0:02",
    ]
    assert sorted(out.splitlines()[1:]) == sorted(said)
    assert f"job 2 of 3: seed={FAILS}: failed: RuntimeError: boom (stored/seed={FAILS})" in err


def test_the_summary_has_jobs_and_seeds_together() -> None:
    main(["train", "-m", "task.ways=5,7", "sweep.seeds=3", "sweep_name=mine"])
    folder = Path("outputs/multirun/mine")
    told = json.loads((folder / "summary.json").read_text())
    assert [row["accuracy"] for row in told["jobs"]] == [0.5, 0.51, 0.52] * 2
    five, _ = told["over_seeds"]
    assert five["choices"] == {"task.ways": 5}
    assert (five["accuracy"], five["seeds"]) == (pytest.approx(0.51), 3)
    assert five["std"] == pytest.approx(0.01)
    assert five["ci95"] == pytest.approx(4.302653 * 0.01 / 3**0.5)
    with (folder / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["task.ways"]) for row in rows[5:]] == [("job", "7"), ("seeds", "5"), ("seeds", "7")]
    text = (folder / "summary.md").read_text()
    assert "| [run](task.ways=5-seed=2) | 5 | 2 | done | 52.00 ± 1.00 % | 0:02 |  |" in text
    assert "| task.ways | seeds | mean accuracy, ± 95 % interval over seeds | standard deviation |" in text
    assert "| 7 | 3 of 3 done | 51.00 ± 2.48 % | 1.00 % |" in text


def test_the_table_has_a_column_for_each_setting_and_the_best_on_top(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "-m", "seed=3,9,5", "sweep_name=mine"])
    lines = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()]
    first = next(number for number, line in enumerate(lines) if line[0] == "seed")
    assert lines[first][:4] == ["seed", "status", "accuracy", "time"]
    assert [line[0] for line in lines[first + 1 : first + 4]] == ["9", "5", "3"]
    over = lines.index(["over seeds:"])
    assert lines[over + 2][:3] == ["all", "3 of 3 done", "55.67 ± 7.59 %"]
    assert not any("(best)" in cell for line in lines for cell in line), "there is one setting only"
    main(["train", "-m", "task.ways=5,7", "seed=9,3", "sweep_name=more"])
    rows = job_rows(SweepDir(Path("outputs/multirun/more")))
    for row in rows:
        row["accuracy"] += row["choices"]["task.ways"] / 100
    assert summary.best_of(seed_rows(rows)) == "task.ways=7"
    assert [row["choices"]["task.ways"] for row in summary.by_score(seed_rows(rows))] == [7, 5]
    out = capsys.readouterr().out
    assert out.count("(best)") == 1


def test_the_summary_counts_only_what_is_done() -> None:
    sweep = stored(0, 1, FAILS)
    run_jobs(sweep, ["seed=0", f"seed={FAILS}"], TWO[:1], False)
    (group,) = seed_rows(write_summary(sweep))
    assert (group["status"], group["accuracy"], group["ci95"]) == ("1 of 3 done", 0.5, None)
    assert [row["status"] for row in job_rows(sweep)] == ["done", "pending", "failed"]


def test_files_that_are_no_sweep_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("outputs/multirun/mine")
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text("[1]")
    assert leaves_with("train", "sweep.seeds=2", "sweep_name=mine") == 2
    assert "is not the record of a sweep" in capsys.readouterr().err
    sweep = stored(1)
    (sweep.run_dir("seed=1")).mkdir()
    (sweep.run_dir("seed=1") / "results.json").write_text('{"status": "do')
    assert sweep.status("seed=1") == "pending"


# --- several at once --------------------------------------------------------------------------------------------------


def test_slots_divide_threads_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert slots(None, 1, []) == [Slot(None, 8)]
    assert slots(3, 1, []) == [Slot(None, 2)] * 3
    assert [slot.gpu for slot in slots(None, 2, ["0", "3"])] == ["0", "3", "0", "3"]
    assert [slot.gpu for slot in slots(3, 2, ["0", "3"])] == ["0", "3", "0"]
    with pytest.raises(UserError, match=r"sweep\.jobs=3 is more than 2 GPUs take"):
        slots(3, 1, ["0", "3"])


def test_jobs_at_once_never_share_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0.3")
    sweep = stored(*range(6))
    run_jobs(sweep, list(sweep.choices()), [Slot("7", 3), Slot("9", 3)], False)
    told = calls(sweep.path)
    assert len(told) == 6
    assert {call["threads"] for call in told} == {"3"}
    for gpu in ("7", "9"):
        spans = sorted((call["begun"], call["ended"]) for call in told if call["gpu"] == gpu)
        assert spans
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert [row["status"] for row in job_rows(sweep)] == ["done"] * 6


def test_a_worker_that_dies_costs_its_job_alone(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = stored(KILLED, CRASHES, FAILS, EXITS, 1, 2)
    run_jobs(sweep, list(sweep.choices()), TWO, False)
    statuses = {row["job"]: row["status"] for row in job_rows(sweep)}
    assert statuses == {
        f"seed={KILLED}": "interrupted",
        f"seed={CRASHES}": "failed",
        f"seed={FAILS}": "failed",
        f"seed={EXITS}": "failed",
        "seed=1": "done",
        "seed=2": "done",
    }
    err = capsys.readouterr().err
    assert "its process was ended by SIGKILL" in err
    assert "its process died of SIGSEGV" in err
    assert "Fatal Python error: Segmentation fault" in (sweep.run_dir(f"seed={CRASHES}") / "run.log").read_text()
    run_jobs(sweep, list(sweep.choices()), TWO, False)
    assert sweep.status(f"seed={KILLED}") == "done", "killed from outside: continued the next time"


def test_a_worker_is_killed_from_outside() -> None:
    sweep = stored(HANGS, 1)
    done = threading.Thread(target=_kill_when_running, args=(sweep, f"seed={HANGS}", signal.SIGKILL))
    done.start()
    run_jobs(sweep, list(sweep.choices()), TWO, False)
    done.join()
    assert [row["status"] for row in job_rows(sweep)] == ["interrupted", "done"]


@pytest.mark.parametrize(
    ("number", "ending"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGHUP, SystemExit), (signal.SIGUSR2, SystemExit)],
)
def test_a_signal_lets_the_running_jobs_save(number: int, ending: type[BaseException]) -> None:
    sweep = stored(HANGS)

    def interrupt() -> None:
        _until((sweep.run_dir(f"seed={HANGS}") / LISTENING).exists)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    with pytest.raises(ending):
        run_jobs(sweep, [f"seed={HANGS}"], TWO, False)
    assert sweep.status(f"seed={HANGS}") == "interrupted"
    assert (sweep.results(f"seed={HANGS}") or {})["error"] == "Stopped: SIGTERM"


def _kill_when_running(sweep: SweepDir, name: str, number: int) -> None:
    _until(lambda: (sweep.run_dir(name) / "config.yaml").exists())
    found = subprocess.run(["pgrep", "-f", f"{sweep.path} {name}$"], capture_output=True, text=True, check=True)
    os.kill(int(found.stdout.split()[0]), number)


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


# --- several runners --------------------------------------------------------------------------------------------------

RUNNER = """
import sys
from pathlib import Path
from tests import fake_run
sys.modules.update(fake_run.modules())
from metalearn.sweeps import pool, queue, slots
from metalearn.sweeps.directory import SweepDir
queue._WAIT = 0.05
pool._WORKER = (sys.executable, "-m", "tests.fake_run")
store = SweepDir(Path("stored"))
pool.run_jobs(store, list(store.choices()), [slots.Slot(None, 1)] * int(sys.argv[1]), False)
"""


def runner(places: int, seconds: float = 0.0) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FAKE_SECONDS": str(seconds)}
    return subprocess.Popen([sys.executable, "-c", RUNNER, str(places)], env=environment, text=True)


@pytest.mark.parametrize("places", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_runners_never_run_a_job_twice(places: int) -> None:
    sweep = stored(*range(12))
    running = [runner(places, 0.05) for _ in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert sorted(call["job"] for call in calls(sweep.path)) == sorted(sweep.choices())
    assert {row["status"] for row in job_rows(sweep)} == {"done"}


@pytest.mark.thorough
@pytest.mark.parametrize("places", [1, 2])
def test_a_runner_takes_over_from_one_that_is_killed(places: int) -> None:
    sweep = stored(0, HANGS, 1)
    first = runner(places)
    _until(lambda: (sweep.run_dir(f"seed={HANGS}") / "config.yaml").exists())
    second = runner(places)
    _until(lambda: sweep.status("seed=1") == "done")
    assert sweep.status(f"seed={HANGS}") == "running"
    time.sleep(0.3)
    first.kill()
    assert second.wait(60) == 0
    first.wait()
    assert [row["status"] for row in job_rows(sweep)] == ["done"] * 3
    assert [call["resume"] for call in calls(sweep.path) if call["job"] == f"seed={HANGS}"][-1] is True


@pytest.mark.slow
def test_twenty_simultaneous_starts_make_twenty_directories(elsewhere: Path) -> None:
    code = (
        "import sys; from tests import fake_run; sys.modules.update(fake_run.modules())\n"
        "from metalearn.cli.main import main; import os, time; os.environ['CUDA_VISIBLE_DEVICES'] = ''\n"
        "import metalearn.sweeps.slots; metalearn.sweeps.slots.visible_gpus = list\n"
        "import metalearn.compose.composer; time.sleep(max(0, float(sys.argv[1]) - time.time()))\n"
        "main(['train', *sys.argv[2:]])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    begin = time.time() + 12
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(begin), *(["sweep.seeds=1"] if i % 2 else [])],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        for i in range(20)
    ]
    assert [process.wait(300) for process in started] == [0] * 20
    assert len(list(Path("outputs/multirun").iterdir())) == 10
    singles = [
        path for day in Path("outputs").iterdir() if day.name != "multirun" for path in day.iterdir() if path.is_dir()
    ]
    assert len(singles) == 10


# --- real runs --------------------------------------------------------------------------------------------------------

# A run() that cannot continue starts anew: the outcome is the same.
REAL = """
import inspect, shutil, sys
from metalearn.runs import run as module
from metalearn.cli.main import main
real = module.run
def run(config, run_dir, resume=False):
    if resume:
        for file in run_dir.iterdir():
            if file.name != "run.log":
                file.unlink()
    return real(config, run_dir)
if "resume" not in inspect.signature(real).parameters:
    module.run = run
main(sys.argv[1:])
"""
TINY = [
    *("dataset.classes=40", "dataset.val_classes=8", "dataset.test_classes=12", "backbone.filters=8"),
    *("task.queries=5", "task.train.ways=5", "task.train.queries=3", "train.meta_batch_size=2", "train.task_chunk=1"),
    *("train.steps=12", "train.val_every=4", "train.val_tasks=10", "train.checkpoint_every=3"),
    *("eval.tasks=20", "eval.pictures=0", "device=cpu"),
]


def real_sweep(*arguments: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", REAL, "train", *TINY, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def outcome(sweep_name: str) -> list[dict[str, Any]]:
    rows = json.loads(Path(f"outputs/multirun/{sweep_name}/summary.json").read_text())["jobs"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.slow
def test_a_sweep_killed_twice_ends_as_one_that_was_not() -> None:
    jobs = ["-m", "train.lr=1e-3,1e-2", "sweep.seeds=6"]
    for done in (2, 7):
        process = real_sweep(*jobs, "sweep_name=killed")
        sweep = SweepDir(Path("outputs/multirun/killed"))
        _until(lambda: _some_done(sweep, done), 600)  # noqa: B023
        time.sleep(0.2)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert real_sweep(*jobs, "sweep_name=killed").wait() == 0
    assert real_sweep(*jobs, "sweep_name=whole").wait() == 0
    assert outcome("killed") == outcome("whole")
    assert [row["status"] for row in outcome("whole")] == ["done"] * 12


def _some_done(sweep: SweepDir, count: int) -> bool:
    statuses = [sweep.status(name) for name in sweep.choices()]
    return statuses.count("done") >= count and "running" in statuses


def _has(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param("local_processes", marks=pytest.mark.skipif(not _has("submitit"), reason="needs submitit")),
        pytest.param(
            "slurm",
            marks=pytest.mark.skipif(
                not _has("submitit") or shutil.which("sbatch") is None, reason="needs submitit and a Slurm cluster"
            ),
        ),
        pytest.param("ray_cluster", marks=pytest.mark.skipif(not _has("ray"), reason="needs Ray")),
    ],
)
def test_hydras_launchers_run_stored_jobs(launcher: str) -> None:
    further = {
        "slurm": ["hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1"],
        "ray_cluster": ["hydra.launcher.ray.init.address=null"],
    }
    arguments = ["-m", "seed=0,1", "sweep_name=far", f"hydra/launcher={launcher}", *further.get(launcher, [])]
    assert real_sweep(*arguments).wait(600) == 0
    assert [row["status"] for row in outcome("far")] == ["done"] * 2


def test_a_preempted_job_saves_before_it_is_requeued(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def save(*_: object) -> None:  # as a run answers SIGTERM
        done.append("saved")
        raise KeyboardInterrupt

    def requeue(*_: object) -> None:  # as submitit does
        done.append("requeued")
        raise SystemExit(-1)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    signal.signal(signal.SIGTERM, save)
    signal.signal(signal.SIGUSR2, requeue)
    try:
        with pytest.raises(SystemExit), _saved_before_requeue():
            signal.raise_signal(signal.SIGUSR2)
        assert signal.getsignal(signal.SIGUSR2) is requeue
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert done == ["saved", "requeued"]


@pytest.mark.skipif(_has("submitit"), reason="with submitit it is no mistake")
def test_a_launcher_that_is_not_installed_says_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert leaves_with("train", "-m", "seed=0,1", "hydra/launcher=slurm") == 2
    line = capsys.readouterr().err
    assert line == "metalearn: error: this launcher needs a plugin of Hydra's: pip install '.[slurm]' in the checkout\n"
    assert not Path("outputs").exists()
