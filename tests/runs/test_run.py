"""Whole runs through the command line, small: what they write, and what can be read from it again."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from metalearn.cli.main import main
from metalearn.intervals import interval95_of_classes
from metalearn.runs.directory import PROJECTOR

TINY = [
    "dataset.classes=40",
    "dataset.val_classes=8",
    "dataset.test_classes=12",
    "backbone.filters=8",
    "task.queries=5",
    "task.train.ways=5",
    "task.train.queries=3",
    "train.meta_batch_size=2",
    "train.task_chunk=1",
    "train.steps=6",
    "train.log_every=2",
    "train.val_every=3",
    "train.val_tasks=10",
    "train.checkpoint_every=3",
    "eval.tasks=40",
    "eval.pictures=0",
]
FILES = {
    "config.yaml",
    "run.log",
    "metrics.csv",
    "last.pt",
    "previous.pt",
    "best.pt",
    "results.json",
    "test_classes.json",
    "test_tasks.npz",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(name: str, *overrides: str) -> tuple[Path, dict[str, Any]]:
    run_dir = Path("runs") / name
    main(["train", *TINY, *overrides, f"hydra.run.dir={run_dir}"])
    return run_dir, json.loads((run_dir / "results.json").read_text())


def failing(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(list(arguments))
    assert isinstance(leaving.value.code, int)
    return leaving.value.code


def evals(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(run_dir.glob("eval-*.json"))]


def metrics(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{tag: cell for tag, cell in row.items() if not tag.startswith("time/")} for row in rows]


@pytest.mark.parametrize("algorithm", ["protonet", "maml"])
def test_a_run_writes_what_is_promised(algorithm: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, results = train(algorithm, f"algorithm={algorithm}", "eval.pictures=2")
    names = {file.name for file in run_dir.iterdir()}
    assert names - {next(name for name in names if name.startswith("events.out"))} - set(PROJECTOR) == FILES
    assert set(PROJECTOR) <= names or algorithm != "protonet"  # embeddings, of learners that compare examples
    assert results["status"] == "done"
    assert results["error"] is None
    assert (results["algorithm"], results["dataset"], results["backbone"]) == (algorithm, "glyphs", "conv4")
    assert {key: results["task"][key] for key in ("ways", "shots", "queries")} == {"ways": 5, "shots": 1, "queries": 5}
    assert results["test"]["tasks"] == 40
    assert 0 < results["test"]["accuracy"] < 1
    assert results["test"]["ci95"] > 0
    assert results["test"]["transductive"] is (algorithm == "maml")
    with np.load(run_dir / "test_tasks.npz") as tasks:
        assert tasks["score"].mean() == pytest.approx(results["test"]["accuracy"], abs=1e-6)
        assert tasks["loss"].mean() == pytest.approx(results["test"]["loss"], rel=1e-5)
        assert (tasks["classes"].shape, tasks["class_names"].shape) == ((40, 5), (12,))
        assert results["test"]["ci95_classes"] == interval95_of_classes(tasks["score"], tasks["classes"])
    assert float(metrics(run_dir)[-1]["test/ci95_classes"]) == results["test"]["ci95_classes"] > results["test"]["ci95"]
    assert results["train"]["steps"] == 6
    assert results["train"]["task_chunk"] == 1
    assert results["val"]["step"] in (3, 6)
    assert len(results["split"]["sha256"]) == 64
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert "${" not in (run_dir / "config.yaml").read_text()
    assert config["task"]["train"]["ways"] == 5
    assert [row["step"] for row in metrics(run_dir)] == ["2", "3", "4", "6", "6"]
    assert float(metrics(run_dir)[-1]["test/accuracy"]) == results["test"]["accuracy"]
    printed = capsys.readouterr().out
    assert (
        f"test 5-way 1-shot: {100 * results['test']['accuracy']:.2f} ± {100 * results['test']['ci95']:.2f} %" in printed
    )
    assert "chance 20.00 %" in printed
    log = (run_dir / "run.log").read_text()
    assert "Traceback" not in log
    assert "test 5-way 1-shot: " in log


@pytest.mark.parametrize("algorithm", ["protonet", pytest.param("maml", marks=pytest.mark.slow)])
def test_two_runs_with_one_seed_are_equal(algorithm: str) -> None:
    (first, one), (second, two) = (train(name, f"algorithm={algorithm}") for name in ("a", "b"))
    assert metrics(first) == metrics(second)
    for timed in ("seconds",):
        one["test"].pop(timed), two["test"].pop(timed)
    assert one["test"] == two["test"]
    assert one["config_hash"] == two["config_hash"]
    _, other = train("c", f"algorithm={algorithm}", "seed=1")
    assert other["test"]["accuracy"] != one["test"]["accuracy"] or other["test"]["loss"] != one["test"]["loss"]


@pytest.mark.parametrize("algorithm", ["protonet", "maml"])
def test_eval_reproduces_the_run_exactly(algorithm: str) -> None:
    run_dir, results = train("run", f"algorithm={algorithm}")
    main(["eval", str(run_dir)])
    (again,) = evals(run_dir)
    assert {key: again["test"][key] for key in ("accuracy", "ci95", "loss", "step")} == {
        key: results["test"][key] for key in ("accuracy", "ci95", "loss", "step")
    }
    assert again["test"].get("per_step") == results["test"].get("per_step")
    (file,) = run_dir.glob("eval-*-tasks.npz")
    with np.load(run_dir / "test_tasks.npz") as first, np.load(file) as second:
        assert all(np.array_equal(first[name], second[name]) for name in [*first, *second])


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["protonet", "maml"])
def test_eval_takes_other_conditions(algorithm: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, _ = train("run", f"algorithm={algorithm}")
    main(["eval", str(run_dir), "task.ways=10", "eval.checkpoint=last", "eval.tasks=20"])
    (scored,) = evals(run_dir)
    assert scored["task"]["ways"] == 10
    assert (scored["test"]["checkpoint"], scored["test"]["tasks"], scored["test"]["step"]) == ("last", 20, 6)
    assert "10-way" in capsys.readouterr().out


@pytest.mark.thorough
def test_eval_without_transduction(capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, results = train("run", "algorithm=maml")
    main(["eval", str(run_dir), "eval.transductive=false"])
    (scored,) = evals(run_dir)
    assert scored["test"]["transductive"] is False
    assert scored["test"]["loss"] != results["test"]["loss"]
    assert "not transductive" in capsys.readouterr().out


def test_eval_refuses_classes_that_were_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, _ = train("run")
    assert failing("eval", str(run_dir), "dataset.test_classes=31") == 2
    assert "were training classes of this run" in capsys.readouterr().err
    assert not evals(run_dir)


def test_eval_refuses_what_does_not_fit_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, _ = train("run")
    assert failing("eval", str(run_dir), "backbone.filters=16") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the checkpoint does not fit" in line


def test_a_diverged_run_says_so_and_keeps_what_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing("train", *TINY, "train.max_loss=1e-9", "hydra.run.dir=runs/bad") == 1
    results = json.loads(Path("runs/bad/results.json").read_text())
    assert results["status"] == "diverged"
    assert "at step 1" in results["error"]
    assert results["test"] is None
    captured = capsys.readouterr()
    assert [line for line in captured.err.splitlines() if "diverged at step 1" in line]
    assert "Traceback" not in captured.err


def test_a_crash_leaves_its_traceback_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("metalearn.runs.run.train", crash)
    assert failing("train", *TINY, "hydra.run.dir=runs/bad") == 1
    results = json.loads(Path("runs/bad/results.json").read_text())
    assert (results["status"], results["error"]) == ("failed", "RuntimeError: out of luck")
    assert "out of luck" in (log := Path("runs/bad/run.log").read_text())
    assert "Traceback" in log


def test_an_interrupted_run_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("metalearn.runs.run.train", interrupt)
    assert failing("train", *TINY, "hydra.run.dir=runs/cut") == 130
    assert json.loads(Path("runs/cut/results.json").read_text())["status"] == "interrupted"


def test_a_sweep_runs_every_combination() -> None:
    main(
        [
            "train",
            "-m",
            *TINY,
            "algorithm=protonet,maml",
            "task=5way_1shot,5way_5shot",
            "task.train.shots=1",
            "sweep_name=grid",
        ]
    )
    results = [json.loads(file.read_text()) for file in Path("outputs/multirun/grid").glob("*/results.json")]
    assert {(r["algorithm"], r["task"]["shots"]) for r in results} == {
        (algorithm, shots) for algorithm in ("protonet", "maml") for shots in (1, 5)
    }
    assert all(r["status"] == "done" for r in results)


def test_without_learn2learn_one_line_says_how_to_get_it(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    assert failing("train", *TINY, "algorithm=maml") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs learn2learn" in line
    assert "pip install" in line
    assert not list(elsewhere.iterdir())
    train("rest", "algorithm=protonet")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["task.ways=13"],
            "task.ways=13 needs 13 classes, the val split has 8; the largest that fits: 8 ways, 1 shot, 5 queries",
        ),
        (["task.shots=18"], "task.train.shots=18 + task.train.queries=3 need 21 images of every class"),
        (["dataset.test_classes=35"], "leave no training class"),
        (["dataset=omniglot", "dataset.root=nowhere", "dataset.download=false"], "images_background.zip (9.5 MB"),
        (["dataset.size=8", "task.queries=1"], "8x8 pixels are too few"),
        (["eval.transductive=true"], "eval.transductive=true"),
        (["train.lr=1e-4", "train.lr_final=1e-3"], "train.lr_final=0.001 is more than train.lr=0.0001"),
        (["algorithm=maml", "backbone.running_stats=true"], "backbone.running_stats=true"),
    ],
)
def test_impossible_wishes_are_refused_before_anything_is_written(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    settings = [s for s in TINY if not (overrides[0] == "dataset=omniglot" and s.startswith("dataset."))]
    assert failing("train", *settings, *overrides) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("metalearn: error: ")
    assert said in line
    assert not list(elsewhere.iterdir())
