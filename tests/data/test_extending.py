"""The examples of docs/extending.md work as they stand there, from a package of a user's own: a benchmark, and a kind of task."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import metalearn
from metalearn.cli.main import main
from metalearn.config import plugins
from metalearn.data.images import ImageClasses
from metalearn.engine.build import _dataset, build_dataset
from metalearn.errors import UserError
from metalearn.nn.texts import texts_of
from metalearn.tasks import TaskShape
from tests.compose import compose
from tests.data.small_files import picture, pixels, write_zip

PAGE = Path(__file__).parent.parent.parent / "docs" / "extending.md"
FILES = {f"leaves/species {k}/{i}.jpg": picture(10 * k + i) for k in range(12) for i in range(4)}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package of the page, trusted; its data directory, which is empty."""
    written = re.findall(r"`(my_lab/[\w/.]+)`:\n\n```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert [name for name, _ in written] == [
        *("my_lab/steps.py", "my_lab/conf/dataset/steps.yaml"),
        *("my_lab/leaves.py", "my_lab/conf/dataset/leaves.yaml"),
        *("my_lab/questions.py", "my_lab/conf/dataset/questions.yaml"),
    ]
    for name, text in [*written, ("my_lab/__init__.py", "")]:
        file = tmp_path / "home" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "home")
    monkeypatch.setenv(plugins.VARIABLE, "my_lab")
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        monkeypatch.delitem(sys.modules, name)
    _dataset.cache_clear()
    (tmp_path / "data" / "leaves").mkdir(parents=True)
    return tmp_path / "data" / "leaves"


def test_the_data_set_is_read_and_divided(lab: Path) -> None:
    write_zip(lab / "leaves.zip", FILES)
    dataset = build_dataset(compose("dataset=leaves", "dataset.size=12"))
    assert isinstance(dataset, ImageClasses)
    assert dataset.class_names == tuple(sorted(f"species {k}" for k in range(12)))
    assert [len(dataset.split.classes[part]) for part in ("train", "val", "test")] == [7, 2, 3]
    first = dataset.images.of_class(dataset.class_names.index("species 3"))[0]
    assert np.array_equal(first, pixels(FILES["leaves/species 3/0.jpg"], 12))


def test_a_missing_file_is_one_line_with_the_command(lab: Path) -> None:
    with pytest.raises(UserError, match=r"leaves\.zip .* is missing in .*leaves: metalearn data fetch leaves"):
        build_dataset(compose("dataset=leaves"))


def test_the_commands_about_data_know_it(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_zip(lab / "leaves.zip", FILES)
    main(["data", "check", "leaves", "dataset.size=12"])
    out = capsys.readouterr().out
    assert "12 classes, 48 images" in out
    main(["data", "list"])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("leaves")]
    assert "Leaves of trees" in row
    assert "here" in row


SMALL = ("train.steps=4", "train.val_every=2", "train.val_tasks=6", "train.task_chunk=16", "eval.tasks=8")


def test_the_kind_of_task_goes_from_training_to_predictions(
    lab: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["train", "algorithm=maml", "dataset=steps", *SMALL, "hydra.run.dir=run"])
    results = json.loads(Path("run/results.json").read_text())
    assert results["kind"] == {"name": "absolute error", "score": "mae", "higher_is_better": False, "percent": False}
    run = metalearn.load("run")
    with torch.no_grad():
        batch = run.dataset.source("test", 0, torch.device("cpu")).tasks(0, 8, TaskShape(1, 10, 10))
        gap = run.algorithm.predict(run.algorithm.adapt(batch.support), batch.query.x) - batch.query.y
    assert results["test"]["mae"] == pytest.approx(float(gap.abs().mean()), rel=1e-5)
    assert results["test"]["loss"] == pytest.approx(results["test"]["mae"])
    y = torch.cat([batch.support.y, batch.query.y], 1)[..., 0]
    assert {len(of_task[of_task < 5].unique()) for of_task in y} <= {1, 2}, "a step has two values, outliers aside"
    Path("points.csv").write_text("x,y\n-1,0\n1,2\n")
    main(["predict", "run", "--support", "points.csv", "--query", "points.csv", "--json"])
    said = json.loads("{" + capsys.readouterr().out.partition("\n{")[2])
    found = run.predict([[-1.0], [1.0]], [0.0, 2.0], [[-1.0], [1.0]]).values[:, 0].tolist()
    assert [row["predicted"]["y"] for row in said["predictions"]] == pytest.approx(found, rel=1e-5)


def test_learners_of_classes_do_not_take_it_and_say_who_does(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "algorithm=protonet", "dataset=steps"])
    said = capsys.readouterr().err
    assert "algorithm=protonet cannot learn absolute error tasks (dataset=steps); those that can: " in said
    assert {"maml", "reptile"} <= set(said.strip().rpartition(": ")[2].split(", "))


def test_the_data_set_of_texts_is_read_divided_and_trained_on(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset=questions: questions\.jsonl .* is missing in .*data/questions"):
        build_dataset(compose("dataset=questions"))
    (lab.parent / "questions").mkdir()
    rows = [{"question": f"Where is thing {k} of topic {k % 12}?", "topic": f"topic {k % 12}"} for k in range(96)]
    (lab.parent / "questions" / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = build_dataset(compose("dataset=questions"))
    assert [len(dataset.classes(part)) for part in ("train", "val", "test")] == [7, 2, 3]
    tasks = dataset.source("test", 0, torch.device("cpu")).tasks(0, 1, TaskShape(3, 1, 2))
    assert all(text.endswith("?") for text in texts_of(tasks.query.x[0]))
    few = (
        "task.ways=2",
        "task.queries=3",
        "task.train.ways=3",
        "task.train.queries=3",
        "train.steps=2",
        "eval.tasks=4",
    )
    main(
        [
            "train",
            "algorithm=protonet",
            "dataset=questions",
            *few,
            "train.val_tasks=2",
            f"hydra.run.dir={tmp_path / 'run'}",
        ]
    )
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "done"
