"""Snapshots of a training, and the ensemble that `metalearn eval` makes of them."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metalearn
from metalearn.cli.main import main
from metalearn.config.identity import compared
from metalearn.engine.build import build_algorithm
from metalearn.engine.ensemble import ALONE, Pool
from metalearn.engine.evaluate import Scores, evaluate
from metalearn.errors import UserError
from metalearn.kinds import CLASSIFICATION, REGRESSION
from metalearn.runs import checkpoint
from metalearn.runs.housekeeping import removable
from metalearn.runs.snapshots import Snapshots, snapshot_files
from metalearn.tasks import Examples, TaskBatch, TaskShape
from tests.compose import SMALL, compose
from tests.conftest import easy_classes
from tests.runs.test_evaluation import TINY

STATE: dict[str, Any] = {"model": {}, "config": {}, "train_classes": []}
TRAINING = [*TINY, "train.steps=8", "train.val_every=1", "train.log_every=1", "train.checkpoint_every=3"]


def steps(run_dir: Path) -> list[int]:
    return list(snapshot_files(run_dir))


@pytest.mark.parametrize(("scale", "best"), [(CLASSIFICATION, [1, 3]), (REGRESSION, [2, 4])])
def test_the_best_and_the_last_states_stay(tmp_path: Path, scale: Any, best: list[int]) -> None:
    kept = Snapshots(tmp_path, 2, scale)
    for step, score in enumerate((0.9, 0.1, 0.8, 0.2, 0.5, 0.6), 1):
        kept.add(step, score, STATE | {"step": step})
    kept.add(7, float("nan"), STATE | {"step": 7})
    assert steps(tmp_path) == sorted({*best, 5, 6})


def test_going_on_forgets_what_will_be_validated_again_and_what_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Snapshots(tmp_path, 3, CLASSIFICATION)
    for step in (1, 2, 3):
        kept.add(step, step / 10, STATE | {"step": step})
    (tmp_path / "snapshot-1.pt").write_bytes(b"half")
    with caplog.at_level(logging.WARNING, "metalearn"):
        Snapshots(tmp_path, 3, CLASSIFICATION, step=2)
    assert steps(tmp_path) == [2]
    assert "snapshot-1.pt is left out" in caplog.text
    Snapshots(tmp_path, 3, CLASSIFICATION)
    assert steps(tmp_path) == [], "training begins anew"


def test_a_full_disk_costs_a_snapshot_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Snapshots(tmp_path, 1, CLASSIFICATION)
    kept.add(1, 0.5, STATE | {"step": 1})

    def save(path: Path, state: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full, caplog.at_level(logging.WARNING, "metalearn"):
        full.setattr(checkpoint, "save", save)
        kept.add(2, 0.6, STATE | {"step": 2})
    assert "snapshot-2.pt cannot be written (No space left on device)" in caplog.text
    kept.add(3, 0.4, STATE | {"step": 3})
    assert steps(tmp_path) == [1, 3]


def test_probabilities_are_averaged_by_hand() -> None:
    pool, logits = Pool(2, CLASSIFICATION, classes=True), torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
    other = torch.tensor([[[-3.0, 0.0], [0.0, 2.0]]])
    batch = TaskBatch(
        Examples(torch.zeros(1, 0, 1), torch.zeros(1, 0).long(), 2),
        Examples(torch.zeros(1, 2, 1), torch.tensor([[0, 1]]), 2),
        torch.zeros(1, 2).long(),
    )
    pool.add(batch, logits)
    pool.next_member()
    pool.add(batch, other)
    mean = (logits.softmax(-1) + other.softmax(-1))[0] / 2
    alone = Scores(torch.tensor([[0.1], [1.0]]), [0, 1], torch.tensor([0.2]), {"other": torch.tensor([0.0])})
    found = pool.scores(alone)
    assert found.score.tolist() == [[0.5]], "the second member is surer of the wrong class of the first query"
    assert found.loss.tolist() == pytest.approx([-(mean[0, 0].log() + mean[1, 1].log()).item() / 2])
    assert found.further == {ALONE: alone.score[-1]}
    assert found.steps == [1]
    assert found.calibration is not None
    assert found.calibration["nll"] == pytest.approx(float(found.loss))


@pytest.mark.parametrize("task", [TaskShape(5, 1, 3)])
def test_an_ensemble_of_one_state_twice_is_that_state(task: TaskShape) -> None:
    data = easy_classes()
    algorithm = build_algorithm(compose("algorithm=protonet", *SMALL), data)
    pool = Pool(2, CLASSIFICATION, classes=True)
    source = data.source("test", 0, torch.device("cpu"))
    first = evaluate(algorithm, source, task, 7, 3, True, answers=pool.add)
    pool.next_member()
    evaluate(algorithm, source, task, 7, 3, False, answers=pool.add)
    found = pool.scores(first)
    assert found.score[-1].tolist() == first.score[-1].tolist()
    assert found.loss.tolist() == pytest.approx(first.loss.tolist(), rel=1e-4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    main(["train", "algorithm=protonet", *TRAINING, "train.snapshots=3", f"hydra.run.dir={run}"])
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_an_ensemble_stands_beside_its_first_member_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = metalearn.evaluate(run)["test"]
    capsys.readouterr()
    found = metalearn.evaluate(run, **{"eval.ensemble": 3})["test"]
    said = capsys.readouterr().out
    ensemble = found["ensemble"]
    assert ensemble["alone"]["mean"] == pytest.approx(plain["accuracy"])
    assert ensemble["members"][0] == pytest.approx(plain["accuracy"])
    assert ensemble["steps"][0] == plain["step"]
    assert len(set(ensemble["steps"])) == 3
    assert ensemble["difference"]["mean"] == pytest.approx(found["accuracy"] - plain["accuracy"], abs=1e-6)
    assert "an ensemble of the 3 best checkpoints (steps " in said
    assert "difference on the same tasks: " in said
    (file,) = [file for file in run.glob("eval-*-tasks.npz") if f"further/{ALONE}" in np.load(file)]
    arrays = np.load(file)
    assert float((arrays["score"] - arrays[f"further/{ALONE}"]).mean()) == pytest.approx(
        ensemble["difference"]["mean"], abs=1e-6
    )


def test_the_last_ones_and_the_previous_checkpoint(run: Path) -> None:
    assert metalearn.evaluate(run, **{"eval.ensemble": 3, "eval.checkpoint": "last"})["test"]["ensemble"]["steps"] == [
        8,
        7,
        6,
    ]
    for file in snapshot_files(run).values():
        file.unlink()
    assert metalearn.evaluate(run, **{"eval.ensemble": 2, "eval.checkpoint": "last"})["test"]["ensemble"]["steps"] == [
        8,
        6,
    ]


def test_a_grid_and_a_comparison_tell_ensembles_apart(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["eval", str(run), "eval.ensemble=1,2"])
    head = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("ensemble "))
    assert "alone" in head
    assert "gain" in head
    assert {row["settings"]["eval.ensemble"] for row in metalearn.compare(run, evaluations=True)["rows"]} == {1, 2}
    cells = metalearn.evaluate_grid(run, **{"eval.ensemble": [1, 2]})["cells"]
    assert [cell["earlier"] for cell in cells] == [True, True]
    next(iter(snapshot_files(run).values())).write_bytes(b"other")
    cells = metalearn.evaluate_grid(run, **{"eval.ensemble": [1, 2]})["cells"]
    assert [cell["status"] for cell in cells] == ["done", "failed"]


def test_too_few_checkpoints_say_how_to_get_them(run: Path) -> None:
    with pytest.raises(
        UserError, match=r"eval\.ensemble=30: .* checkpoints for eval\.checkpoint=best; .*train\.snapshots=30"
    ):
        metalearn.evaluate(run, **{"eval.ensemble": 30})
    with pytest.raises(UserError, match=r"eval\.ensemble=2 is for metalearn eval"):
        metalearn.train("eval.ensemble=2", *TINY)


@pytest.mark.thorough
def test_a_resumed_run_has_the_snapshots_of_an_uninterrupted_one(trained: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    main(
        [
            "train",
            "algorithm=protonet",
            *TRAINING,
            "train.snapshots=3",
            "train.schedule=constant",
            f"hydra.run.dir={tmp_path / 'whole'}",
        ]
    )
    main(
        [
            "train",
            "algorithm=protonet",
            *TRAINING,
            "train.snapshots=3",
            "train.schedule=constant",
            "train.steps=5",
            f"hydra.run.dir={part}",
        ]
    )
    main(["train", "--resume", str(part), "train.steps=8"])
    assert steps(part) == steps(tmp_path / "whole")
    for one, other in zip(snapshot_files(part).values(), snapshot_files(tmp_path / "whole").values(), strict=True):
        states = [checkpoint.load(file, torch.device("cpu")) for file in (one, other)]
        assert states[0]["val_score"] == states[1]["val_score"]
        assert all(torch.equal(states[0]["model"][name], weight) for name, weight in states[1]["model"].items())
    assert removable(part)


def test_keep_none_drops_them_and_no_setting_writes_none(tmp_path: Path) -> None:
    main(
        [
            "train",
            "algorithm=protonet",
            *TRAINING,
            "train.snapshots=2",
            "train.keep=none",
            f"hydra.run.dir={tmp_path / 'a'}",
        ]
    )
    assert steps(tmp_path / "a") == []
    assert json.loads((tmp_path / "a" / "results.json").read_text())["status"] == "done"


def test_a_configuration_without_the_setting_means_one_checkpoint(trained: Path) -> None:
    config = compose("algorithm=protonet")
    older = config | {"eval": {key: value for key, value in config["eval"].items() if key != "ensemble"}}
    assert compared(older) == compared(config)
    assert compared(config | {"train": config["train"] | {"snapshots": 4}}) == compared(config)
