"""The keys of results.json and of eval-<time>.json: which, and in which order."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metalearn.engine.evaluate import Scores
from metalearn.engine.settings import Names
from metalearn.errors import NotFinite
from metalearn.kinds import CLASSIFICATION, REGRESSION, Kind
from metalearn.runs import record, tested
from metalearn.status import Status

WRITTEN = Path(__file__).parent / "of_version_0_1_0"
ADDED = {"per_step_ci95", "kind", "placement", "validation_seconds", "ci95_classes"}  # since that version
NAMES = Names(algorithm="maml", backbone="mlp", dataset="glyphs", experiment=None)


@dataclass(frozen=True)
class NamedSplit:
    name: str = "random-0"
    sha256: str = "d64c"


def scores(states: int, kind: Kind = CLASSIFICATION, **further: float) -> Scores:
    score = torch.tensor([[0.25 * state, 0.5 * state] for state in range(1, states + 1)])
    values = {name: torch.tensor([value, value]) for name, value in further.items()}
    return Scores(score, list(range(states)), torch.tensor([1.0, 2.0]), values, kind)


def entry_of(states: int, kind: Kind = CLASSIFICATION, **further: float) -> tested.TestRecord:
    found = scores(states, kind, **further)
    return tested.TestRecord.of(found, transductive=True, checkpoint="best", step=20, seconds=0.5)


def run_results(states: int) -> record.RunResults:
    shape = {"ways": 5, "shots": 1, "queries": 15}
    return record.RunResults(
        status=Status.DONE,
        error=None,
        names=NAMES,
        seed=0,
        config_hash="732fdeed97a5",
        split=NamedSplit(),
        kind=CLASSIFICATION,
        task={**shape, "train": shape},
        test=entry_of(states),
        val={"accuracy": 0.5, "ci95": 0.1, "step": 20},
        train=record.TrainRecord(
            steps=20,
            seconds=2.0,
            validation_seconds=1.0,
            tasks_per_second=20.0,
            data_wait_fraction=0.1,
            task_chunk=2,
            peak_memory_mib=math.nan,
        ),
        environment=json.loads((WRITTEN / "maml" / "results.json").read_text())["environment"],
    )


def keys(entry: Any, prefix: str = "") -> list[str]:
    """All keys in their order, with those that they lie under; without those added since."""
    if not isinstance(entry, dict):
        return []
    known = {key: value for key, value in entry.items() if key not in ADDED}
    return [found for key, value in known.items() for found in (prefix + key, *keys(value, f"{prefix}{key}."))]


@pytest.mark.parametrize(("run", "states"), [("maml", 4), ("protonet", 1)])
def test_a_run_writes_the_keys_of_version_0_1_0_in_their_order(run: str, states: int, tmp_path: Path) -> None:
    record.write_results(tmp_path, run_results(states))
    now, then = (json.loads((folder / "results.json").read_text()) for folder in (tmp_path, WRITTEN / run))
    assert keys(now) == keys(then)
    assert list(now)[8:11] == ["split", "kind", "task"]
    assert list(now["train"])[1:4] == ["seconds", "validation_seconds", "tasks_per_second"]
    assert now["train"]["peak_memory_mib"] is None, "JSON has no word for NaN"
    assert record.read_results(tmp_path) == now
    assert record.is_done(tmp_path)


def test_a_run_that_failed_says_where_behind_all_else() -> None:
    stopped = replace(
        run_results(1), status=Status.FAILED, error="boom", split=None, test=None, val=None, train=None, step=7
    )
    written = stopped.to_json()
    assert list(written) == [*run_results(1).to_json(), "step"]
    assert [written[key] for key in ("split", "test", "val", "train", "step")] == [None, None, None, None, 7]


def test_an_evaluation_writes_its_own_keys() -> None:
    done = record.EvalResults(
        status=Status.DONE,
        error=None,
        names=NAMES,
        seed=0,
        overrides=["eval.tasks=2"],
        split=NamedSplit(),
        kind=CLASSIFICATION,
        task={"ways": 5, "shots": 1, "queries": 15},
        test=replace(entry_of(1), seconds=None),
        seconds=1.5,
        environment={},
    )
    head, tail = (
        ["status", "error", "algorithm", "dataset", "backbone"],
        ["split", "kind", "task", "test", "placement", "seconds"],
    )
    assert list(done.to_json()) == [*head, "seed", "overrides", *tail, "environment"]
    assert list(done.to_json()["test"])[-2:] == ["adapt_steps", "step"]


def test_the_score_stands_under_the_name_of_its_kind() -> None:
    entry = entry_of(2, REGRESSION, ways=0.5)
    assert entry.to_json() == {
        "mse": 0.75,
        "ci95": pytest.approx(12.7062 * 0.25),  # Student's t at one degree of freedom
        "ci95_classes": None,
        "tasks": 2,
        "loss": 1.5,
        "transductive": True,
        "checkpoint": "best",
        "adapt_steps": 1,
        "mse_before": 0.375,
        "per_step": [0.375, 0.75],
        "per_step_ci95": [pytest.approx(12.7062 * 0.125), pytest.approx(12.7062 * 0.25)],
        "scored_steps": [0, 1],
        "further": {"ways": {"mean": 0.5, "ci95": 0.0, "ci95_classes": None}},
        "step": 20,
        "seconds": 0.5,
    }
    assert list(entry.to_json())[-3:] == ["further", "step", "seconds"]
    assert entry.tags == {"test/mse": 0.75, "test/ci95": entry.ci95, "test/loss": 1.5, "test/ways": 0.5}


def test_tasks_without_a_score_are_not_averaged_away() -> None:
    found = scores(1)
    found.score[0, 1] = torch.nan
    with pytest.raises(NotFinite, match="1 of 2 test tasks"):
        tested.TestRecord.of(found, transductive=True, checkpoint="best", step=20)


def test_what_auto_came_to_is_written_down(tmp_path: Path) -> None:
    results = run_results(4)
    assert results.train is not None
    train = replace(results.train, precision="bf16")
    record.write_results(tmp_path, replace(results, train=train))
    assert json.loads((tmp_path / "results.json").read_text())["train"]["precision"] == "bf16"
