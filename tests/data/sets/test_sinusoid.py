"""Sine waves: what their tasks are, who can learn them, and that those who can do."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from metalearn.algorithms.base import Algorithm
from metalearn.cli.main import main
from metalearn.data.base import Dataset
from metalearn.engine.build import build_algorithm, build_dataset
from metalearn.engine.gradient import meta_gradient
from metalearn.errors import UserError
from metalearn.kinds import REGRESSION
from metalearn.runs.record import read_results
from metalearn.tasks import TaskBatch, TaskShape
from tests.compose import compose

CPU, SHAPE = torch.device("cpu"), TaskShape(1, 10, 10)


@pytest.fixture(scope="module")
def waves() -> Dataset:
    return build_dataset(compose("dataset=sinusoid", "algorithm=maml"))


def test_the_examples_of_a_task_lie_on_one_wave(waves: Dataset) -> None:
    tasks = waves.source("train", 0, CPU).tasks(0, 50, SHAPE)
    assert tasks.support.x.shape == tasks.query.y.shape == (50, 10, 1)
    x = torch.cat([tasks.support.x, tasks.query.x], 1).double()
    y = torch.cat([tasks.support.y, tasks.query.y], 1).double()
    # amplitude * sin(x - phase) = a sin x + b cos x, with two numbers for each task
    basis = torch.cat([x.sin(), x.cos()], -1)  # [T, n, 2]
    fit = torch.linalg.lstsq(basis, y).solution
    assert float((basis @ fit - y).abs().max()) < 1e-5
    amplitude = fit.flatten(1).norm(dim=1)
    assert 0.1 <= float(amplitude.min()) < 1 < 4 < float(amplitude.max()) <= 5
    phase = torch.atan2(-fit[:, 1, 0], fit[:, 0, 0])
    assert 0 <= float(phase.min()) < 0.6 < 2.5 < float(phase.max()) <= math.pi
    assert -5 <= float(x.min()) < -4.9 < 4.9 < float(x.max()) <= 5


def test_validation_and_test_waves_are_others(waves: Dataset) -> None:
    splits = [waves.source(split, 0, CPU).tasks(0, 100, SHAPE).query.y for split in ("train", "val", "test")]
    assert len(torch.cat(splits)[:, 0].unique()) == 300


def trained(waves: Dataset, name: str, *overrides: str, steps: int = 150) -> tuple[Algorithm, TaskBatch]:
    config = compose("dataset=sinusoid", f"algorithm={name}", *overrides)
    algorithm = build_algorithm(config, waves).train()
    source = waves.source("train", 0, CPU)
    settings = config["train"]
    make = torch.optim.SGD if settings["optimizer"] == "sgd" else torch.optim.Adam
    optimizer = make(algorithm.parameters(), lr=min(settings["lr"], 1.0))
    for step in range(steps):
        optimizer.zero_grad()
        algorithm.outer_step = step
        meta_gradient(algorithm, source.tasks(25 * step, 25, SHAPE), 25, "fp32")
        optimizer.step()
    return algorithm.eval(), waves.source("test", 0, CPU).tasks(0, 100, SHAPE)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("maml", ()),
        ("fomaml", ()),
        ("metasgd", ()),
        ("metacurvature", ()),
        ("anil", ()),
        ("reptile", ()),
        ("imaml", ("algorithm.inner_steps=5",)),
        ("bmaml", ("algorithm.particles=3", "algorithm.inner_lr=0.05")),
    ],
)
def test_learners_with_an_inner_loop_learn_to_regress(waves: Dataset, name: str, overrides: tuple[str, ...]) -> None:
    untrained, tasks = trained(waves, name, *overrides, steps=0)
    algorithm, _ = trained(waves, name, *overrides)
    errors = []
    for learner in (untrained, algorithm):
        with torch.no_grad():
            outputs = learner.predict(learner.adapt(tasks.support), tasks.query.x)
        errors.append(float(REGRESSION.score_of(outputs, tasks.query.y).mean()))
    assert errors[1] < 0.95 * errors[0]
    assert "mse" in algorithm.meta_loss(tasks).metrics


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("algorithm=protonet",),
            r"algorithm=protonet cannot learn regression tasks \(dataset=sinusoid\); those that can: anil, .*fomaml, .*maml",
        ),
        (
            ("algorithm=maml", "backbone=conv4"),
            r"backbone=conv4 needs images; .* shape \[1\]; those that take them: mlp",
        ),
        (("algorithm=maml", "task=5way_1shot"), r"task\.train\.ways=5: .* have no classes"),
        (("algorithm=maml", "train.augment.degrees=10"), r"train\.augment\.degrees=10: sinusoid has no images"),
        (("algorithm=maml", "dataset.x=[1.0,0.0]"), r"dataset\.x=\[1\.0, 0\.0\] is not allowed"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    overrides: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main(["train", "dataset=sinusoid", *overrides]))
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    with pytest.raises(UserError, match=said):
        raise UserError(error)
    assert not list(tmp_path.iterdir())


def test_classes_need_two_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        raise SystemExit(main(["train", "algorithm=maml", "task=10shot_regression"]))
    assert "task.train.ways=1, tasks of classes need 2 or more" in capsys.readouterr().err


def test_a_run_keeps_the_lowest_error_and_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = ("train.steps=6", "train.val_every=2", "train.val_tasks=20", "train.log_every=2", "eval.tasks=20")
    main(["train", "dataset=sinusoid", "algorithm=maml", *sizes, "train.task_chunk=16", "hydra.run.dir=run"])
    results = read_results(tmp_path / "run")
    assert results["status"] == "done"
    assert results["test"]["mse"] > 0
    assert "accuracy" not in results["test"]
    with (tmp_path / "run" / "metrics.csv").open() as file:
        errors = {int(row["step"]): float(row["val/mse"]) for row in csv.DictReader(file) if row["val/mse"]}
    assert len(errors) == 3
    best = min(errors, key=lambda step: errors[step])
    assert (results["val"]["step"], results["val"]["mse"]) == (best, pytest.approx(errors[best], rel=1e-6))
    main(["eval", "run", "task.shots=5"])
    (written,) = (tmp_path / "run").glob("eval-*.json")
    assert json.loads(written.read_text())["test"]["mse"] > 0
