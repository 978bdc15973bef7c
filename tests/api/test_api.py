"""`import metalearn`: the commands as functions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import metalearn
from metalearn.errors import UserError

PACKAGE = Path(metalearn.__file__).parent
TINY = (
    *(
        "train.steps=4",
        "train.val_every=2",
        "train.val_tasks=4",
        "train.task_chunk=1",
        "eval.tasks=4",
        "eval.pictures=0",
        "task.queries=2",
    ),
    *("backbone.filters=8", "dataset.classes=40", "dataset.val_classes=6", "dataset.test_classes=6", "dataset.size=16"),
    "task.train.ways=5",
)


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_notebook_trains_evaluates_loads_and_predicts(tmp_path: Path) -> None:
    run = metalearn.train(*TINY, algorithm="protonet", seed=1)
    assert run.results["status"] == "done"
    assert run.settings.seed == run.config["seed"] == 1
    assert "training" in (run.directory / "run.log").read_text() or (run.directory / "run.log").stat().st_size > 0
    again = metalearn.evaluate(run.directory, "task.ways=3", **{"eval.tasks": 5})
    assert (again["task"]["ways"], again["test"]["tasks"]) == (3, 5)
    loaded = metalearn.load(str(run.directory))
    assert loaded.results == run.results
    source = loaded.dataset.source("test", 0, torch.device("cpu"))
    task = source.tasks(0, 1, metalearn.load(run.directory).settings.task)
    labels = torch.tensor([70, 30, 50, 10, 90])  # any numbers, in any order
    support_y = labels[task.support.y[0]]
    predicted = loaded.predict(task.support.x[0], support_y.numpy(), task.query.x[0])
    assert predicted.classes.tolist() == [10, 30, 50, 70, 90]
    assert torch.equal(predicted.labels, predicted.classes[predicted.probabilities.argmax(-1)])
    adapted = loaded.algorithm.adapt(task.support)
    direct = labels[loaded.algorithm.predict(adapted, task.query.x)[0].argmax(-1)]
    assert torch.equal(predicted.labels, direct)


def test_mistakes_are_user_errors_and_write_nothing(tmp_path: Path) -> None:
    for call in (
        lambda: metalearn.train(algorithm="mamll"),
        lambda: metalearn.train("train.steps=-1"),
        lambda: metalearn.train("seed=0,1"),
        lambda: metalearn.evaluate("nowhere"),
        lambda: metalearn.load("nowhere"),
        lambda: metalearn.sweep("sweep=rates", algorithm="maml"),
        lambda: metalearn.train(plugins=("no_such_package",)),
    ):
        with pytest.raises(UserError):
            call()
    assert not list(tmp_path.iterdir())


def test_predict_names_what_does_not_fit() -> None:
    run = metalearn.train(*TINY)
    x = torch.zeros(4, 1, 16, 16)
    for support_x, support_y, message in (
        (x[:, :, :8], [0, 0, 1, 1], "support_x has the shape"),
        (x, [0, 1], "support_y has the shape"),
    ):
        with pytest.raises(UserError, match=message):
            run.predict(support_x, support_y, x)


def test_predict_takes_classes_of_unequal_size() -> None:
    run = metalearn.train(*TINY, algorithm="protonet")
    x = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    predicted = run.predict(x, [7, 3, 3, 5, 3, 5], x[:2])
    assert predicted.probabilities.shape == (2, 3)
    assert predicted.classes.tolist() == [3, 5, 7]
    means = [run.algorithm.backbone(x[rows]).mean(0) for rows in ([1, 2, 4], [3, 5], [0])]
    logits = -torch.stack([(run.algorithm.backbone(x[:2]) - mean).square().sum(-1) for mean in means], -1)
    assert torch.equal(predicted.probabilities.argmax(-1), logits.argmax(-1))


def test_a_sweep_returns_its_rows() -> None:
    rows = metalearn.sweep(*TINY, seed=[0, 1], sweep_name="seeds")
    assert [row["status"] for row in rows] == ["done", "done"]
    assert metalearn.sweep(*TINY, seed=(0, 1), sweep_name="seeds") == rows


def test_the_import_is_light() -> None:
    program = "import sys, metalearn as m; assert 'train' in dir(m); heavy = {'torch', 'hydra', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)})
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        metalearn.trian  # type: ignore[attr-defined]  # noqa: B018


def test_everything_that_is_offered_can_be_imported_and_says_what_it_does() -> None:
    for name in set(metalearn.__all__) - {"__version__"}:
        assert getattr(metalearn, name).__doc__, name


def test_reading_runs_imports_no_torch() -> None:
    program = (
        "import sys, metalearn as m; m.compare, m.list_runs, m.progress, m.doctor; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)})


def test_tasks_are_those_that_a_run_is_tested_on() -> None:
    small = ("dataset.classes=40", "dataset.val_classes=6", "dataset.test_classes=6", "dataset.size=16")
    batch = metalearn.draw_tasks(*small, "task.queries=2", count=3, **{"task.ways": 4})
    assert batch.support.x.shape == (3, 4, 1, 16, 16)
    assert batch.query.y.shape == (3, 8)
    again = metalearn.draw_tasks(*small, "task.queries=2", "task.ways=4", first=2)
    assert torch.equal(again.support.x[0], batch.support.x[2])
    assert metalearn.draw_tasks(*small, "task.train.ways=3", split="train").support.x.shape[1] == 3
    for wrong in ({"split": "testing"}, {"count": 0}, {"first": -1}, {"task.ways": 7}):
        with pytest.raises(UserError):
            metalearn.draw_tasks(*small, **wrong)  # type: ignore[arg-type]


def test_a_configuration_and_the_schema_of_all(tmp_path: Path) -> None:
    config = metalearn.configuration("train.lr=0.5", algorithm="maml", seed=3)
    assert (config["train"]["lr"], config["names"]["algorithm"], config["seed"]) == (0.5, "maml", 3)
    assert "properties" in metalearn.schema()
    file = metalearn.copy("algorithm/maml", tmp_path / "mine" / "algorithm" / "other.yaml")
    assert (
        metalearn.configuration(algorithm="other", config_dir=str(tmp_path / "mine"))["names"]["algorithm"] == "other"
    )
    for choice, target in (("algorithm/mam", file), ("algorithm/maml", file), ("algorithm/maml", tmp_path / "a.txt")):
        with pytest.raises(UserError):
            metalearn.copy(choice, target)


def test_runs_are_marked_and_removed(tmp_path: Path) -> None:
    run = metalearn.train(*TINY, "hydra.run.dir=runs/a")
    metalearn.mark_runs(run.directory, label="kept")
    assert [row["label"] for row in metalearn.list_runs("runs")] == ["kept"]
    with pytest.raises(UserError):
        metalearn.remove_runs(run.directory, tmp_path)
    assert run.directory.is_dir()
    assert metalearn.remove_runs(run.directory) == [run.directory]
    assert not run.directory.exists()
