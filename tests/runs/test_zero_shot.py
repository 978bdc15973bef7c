"""Runs without support examples, from the command line: training, tests with and without examples, and labels for classes that a file describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import metalearn
from metalearn.cli.main import main
from metalearn.errors import UserError

PLACES = {f"at{row}and{column}": (row, column) for row in (1, 8, 15, 22) for column in (1, 8, 15, 22)}
TINY = (
    *("dataset=folder", "dataset.root=images", "dataset.size=16", "dataset.val_classes=2", "dataset.test_classes=3"),
    *("task.ways=2", "task.queries=2", "task.train.ways=3", "task.train.queries=2", "backbone.filters=8"),
    *(
        "train.steps=60",
        "train.val_every=30",
        "train.val_tasks=4",
        "train.meta_batch_size=4",
        "eval.tasks=8",
        "eval.pictures=1",
    ),
)


def drawn(folder: Path, place: tuple[int, int], count: int) -> None:
    """Images of a square at a place, dark on light."""
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.full((32, 32), 255, np.uint8)
        row, column = place[0] + i % 3, place[1] + i // 3
        pixels[row : row + 8, column : column + 8] = 0
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that was trained on squares whose places are described by numbers."""
    here = tmp_path_factory.mktemp("zero_shot")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        for name, place in PLACES.items():
            drawn(here / "images" / name, place, 6)
        rows = [f"{name},{row / 20},{column / 20}" for name, (row, column) in PLACES.items()]
        (here / "classes.csv").write_text("\n".join(["class,row,column", *rows]))
        main(["train", *TINY, "task.shots=0", "dataset.descriptions=classes.csv", "hydra.run.dir=run"])
    return here


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


@pytest.mark.thorough
def test_one_run_is_tested_with_and_without_examples(here: Path) -> None:
    results = json.loads((here / "run" / "results.json").read_text())
    assert results["status"] == "done"
    assert results["task"]["shots"] == 0
    main(["eval", "run", "task.shots=0,1,2"])
    tests = [json.loads(file.read_text()) for file in here.joinpath("run").glob("eval-*.json")]
    by_shots = {one["task"]["shots"]: one["test"] for one in tests}
    assert set(by_shots) == {0, 1, 2}
    assert by_shots[0]["accuracy"] == results["test"]["accuracy"]
    assert by_shots[2]["accuracy"] > 0.7, "guessing: 0.5"


def labels(*words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    main(["predict", *words, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_file_of_classes_takes_the_place_of_support_images(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "new.csv").write_text("class,row,column\nupper left,0.15,0.15\nlower right,0.85,0.9\nupper right,0.1,0.9\n")
    for name, place in {"upper left": (3, 3), "lower right": (18, 18), "upper right": (3, 18)}.items():
        if not (here / "query" / name).exists():
            drawn(here / "query" / name, place, 6)
    words = ["run", "--classes", "new.csv", "--query", "query", "--tasks", "10", "--coverage", "0.8"]
    found = labels(*words, "--save", "mine.pt", capsys=capsys)
    assert found["classes"] == {"upper left": 0, "lower right": 0, "upper right": 0}
    assert found["support_check"] is None
    assert found["calibration"]["shots"] == [0, 0]  # its validation split has two classes
    assert found["folders"]["images"] == 18
    assert found["folders"]["right"] > 12, "guessing: 6"
    kept = labels("--adapted", "mine.pt", "query", "--coverage", "0.8", capsys=capsys)
    assert [one["probabilities"] for one in kept["predictions"]] == [
        one["probabilities"] for one in found["predictions"]
    ]
    main(["predict", "run", "--classes", "new.csv", "--query", "query", "--uncalibrated"])
    assert "classes: 3, learned from a description of each" in capsys.readouterr().out
    again = metalearn.predict("run", None, "query", classes="new.csv", calibrated=False)
    assert again["folders"]["right"] == found["folders"]["right"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (
            "class,description\na,up\nb,down\n",
            "--classes new2.csv: texts describe the classes; the run's class encoder takes 2 numbers",
        ),
        (
            "class,row\na,1\nb,2\n",
            "--classes new2.csv: 1 number describes the classes; the run's class encoder takes 2 numbers",
        ),
        ("class,row,column\na,1,1\n", "--classes new2.csv has one class, 'a': two or more are needed"),
        ("class,row,column\na,1\n", "--classes new2.csv, line 2 has 2 cells"),
    ],
)
def test_a_file_that_the_run_cannot_use_is_told(
    here: Path, content: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "new2.csv").write_text(content)
    with pytest.raises(SystemExit) as ended:
        main(["predict", "run", "--classes", "new2.csv", "--query", "images"])
    assert ended.value.code == 2
    assert fault in capsys.readouterr().err


def test_flags_that_do_not_go_together_are_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, fault in (
        (
            ("run", "--classes", "classes.csv", "--support", "images", "--query", "images"),
            "only one of --support and --classes can be given",
        ),
        (
            ("run", "--query", "images"),
            "predict needs labelled images, --support DIR with a folder for each class, or --classes FILE",
        ),
        (("--adapted", "mine.pt", "--classes", "classes.csv", "images"), "--classes goes with a run directory"),
    ):
        with pytest.raises(SystemExit):
            main(["predict", *words])
        assert fault in capsys.readouterr().err
    with pytest.raises(UserError, match="predict takes either support or classes="):
        metalearn.predict("run", None, "images")
    with pytest.raises(UserError, match="predict takes either support or classes="):
        metalearn.predict("run", "images", "images", classes="classes.csv")


def test_a_run_that_learned_from_examples_alone_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", *TINY, "algorithm=maml", "train.steps=1", "train.val_every=1", "hydra.run.dir=few"])
    with pytest.raises(SystemExit):
        main(["predict", "few", "--classes", "classes.csv", "--query", "images"])
    assert "algorithm=maml of this run tells classes by support examples (--support DIR)" in capsys.readouterr().err


def test_a_run_whose_training_has_no_examples_still_learns_from_them(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = labels("run", "--support", "images", "--query", "images", "--uncalibrated", capsys=capsys)
    assert found["folders"]["right"] > 48, "guessing: 6 of 96"
