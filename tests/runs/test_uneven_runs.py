"""Whole runs on tasks of uneven size: trained, tested, evaluated on tasks of another kind of size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalearn.cli.main import main
from metalearn.runs.per_task import read_tasks

TINY = [
    *(
        "dataset.classes=40",
        "dataset.val_classes=8",
        "dataset.test_classes=12",
        "dataset.size=16",
        "dataset.drawers=10",
    ),
    *(
        "backbone.filters=8",
        "train.steps=2",
        "train.val_every=2",
        "train.val_tasks=4",
        "eval.tasks=24",
        "eval.pictures=0",
    ),
    *("train.meta_batch_size=2", "train.log_every=1"),
]
VARYING = ["task=varying", "task.min_ways=2", "task.max_ways=6", "task.max_support=20", "task.max_queries=3"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*overrides: str) -> tuple[Path, dict[str, Any]]:
    main(["train", *TINY, *overrides, "hydra.run.dir=run"])
    return Path("run"), json.loads(Path("run/results.json").read_text())


def evaluated(run_dir: Path, *overrides: str) -> dict[str, Any]:
    before = set(run_dir.glob("eval-*.json"))
    main(["eval", str(run_dir), *overrides])
    (written,) = set(run_dir.glob("eval-*.json")) - before
    found: dict[str, Any] = json.loads(written.read_text())
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["protonet", "maml", "mann"])
def test_a_run_on_uneven_tasks(algorithm: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, results = train(f"algorithm={algorithm}", *VARYING)
    test = results["test"]
    assert sum(group["tasks"] for group in test["groups"]["ways"].values()) == 24
    assert sum(group["tasks"] for group in test["groups"]["shots"].values()) == 24
    tasks = read_tasks(run_dir / "test_tasks.npz")
    assert set(tasks.about["ways"]) <= set(range(2, 7))
    assert test["chance"] == pytest.approx(np.mean([1 / ways for ways in tasks.about["ways"]]))
    assert results["task"]["ways"] == results["task"]["train"]["shots"] == "varying"
    assert results["train"]["task_chunk"] == 1
    assert "by shots: " in capsys.readouterr().out
    assert evaluated(run_dir)["test"]["accuracy"] == pytest.approx(test["accuracy"])
    fixed = evaluated(run_dir, "task=5way_1shot", "task.queries=3")
    assert fixed["task"] == {"ways": 5, "shots": 1, "queries": 3}
    assert "groups" not in fixed["test"]
    five = evaluated(run_dir, "task.ways=5")
    assert list(five["test"]["groups"]["ways"]) == ["5-9"]


def test_a_run_on_tasks_of_one_size_is_tested_on_uneven_ones(capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, results = train("algorithm=protonet", "task.train.ways=5", "task.queries=3", "task.train.queries=3")
    assert "groups" not in results["test"]
    again = evaluated(run_dir, "task=varying", "task.max_ways=6")
    assert again["task"]["max_ways"] == 6
    assert 1 / 6 <= again["test"]["chance"] <= 1 / 5
    assert "mean chance" in capsys.readouterr().out


def test_training_and_test_can_differ() -> None:
    sizes = {"ways": 5, "shots": 1, "queries": 3}
    _, results = train("algorithm=protonet", *VARYING, *(f"task.train.{name}={size}" for name, size in sizes.items()))
    assert {name: results["task"]["train"][name] for name in sizes} == sizes
    assert "groups" in results["test"]


def test_training_tasks_alone_can_vary(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"ways": 5, "shots": 1, "queries": 3}
    of_test = [f"task.{name}={size}" for name, size in sizes.items()]
    _, results = train("algorithm=protonet", *VARYING, *of_test, *(f"task.train.{name}=varying" for name in sizes))
    assert {name: results["task"][name] for name in sizes} == sizes
    assert results["task"]["train"]["ways"] == "varying"
    assert "groups" not in results["test"]
    assert "test 5-way 1-shot: " in capsys.readouterr().out


def test_the_default_directory_says_that_sizes_vary(tmp_path: Path) -> None:
    main(["train", *TINY, *VARYING, "algorithm=protonet", "train.steps=1"])
    (written,) = tmp_path.glob("outputs/*/*/results.json")
    assert written.parent.name.endswith("-protonet-glyphs-varying")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["dataset=sinusoid", "algorithm=maml"], "sinusoid cannot serve the train tasks: it has none of uneven size"),
        (["task.min_ways=30"], "task.train.min_ways=30 needs 30 classes, the train split has 20"),
        (["task.imbalance=0.5"], "task.imbalance=0.5 is not allowed (float >= 1)"),
        (
            ["task=5way_1shot", "task.ways=varying"],
            "task.ways=varying is not allowed (int >= 2); task=varying draws sizes",
        ),
        (["task.ways=some"], "task.ways=some is not allowed (varying or int >= 2)"),
    ],
)
def test_what_cannot_be_is_one_line(overrides: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = [] if "dataset=sinusoid" in overrides else [*TINY, "algorithm=protonet"]
    sizes = VARYING if "task=5way_1shot" not in overrides else []
    with pytest.raises(SystemExit) as leaving:
        main(["train", *tiny, *sizes, *overrides])
    assert leaving.value.code == 2
    error = capsys.readouterr().err
    assert line in error
    assert len(error.splitlines()) == 1
    assert not Path("outputs").exists()
