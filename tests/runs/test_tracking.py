from __future__ import annotations

import contextlib
import csv
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from metalearn.errors import UserError
from metalearn.runs.events import Picture
from metalearn.runs.tracking import Tracker, read_metrics


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Tracker]:
    tracker = Tracker(tmp_path, {"algorithm": "maml", "ways": 5, "inner_lr": 0.5, "first_order": True, "clip": None})
    yield tracker
    tracker.close("done")


def events(run_dir: Path) -> EventAccumulator:
    return EventAccumulator(str(run_dir)).Reload()


def session(run_dir: Path, which: str) -> Any:
    plugin = events(run_dir).summary_metadata[f"_hparams_/{which}"].plugin_data
    return getattr(plugin_data_pb2.HParamsPluginData.FromString(plugin.content), which)


def test_both_files_hold_the_same_numbers(tracker: Tracker, tmp_path: Path) -> None:
    tracker.log(20, {"train/loss": 1.5, "train/accuracy": 0.25})
    tracker.log(40, {"train/loss": 1.25, "train/accuracy": 0.5})
    tracker.close("done")
    rows = read_metrics(tmp_path / "metrics.csv")
    assert rows == [
        {"step": 20, "train/loss": 1.5, "train/accuracy": 0.25},
        {"step": 40, "train/loss": 1.25, "train/accuracy": 0.5},
    ]
    shown = events(tmp_path)
    assert shown.Tags()["scalars"] == ["loss/train", "accuracy/train"]
    for column, tag in (("train/loss", "loss/train"), ("train/accuracy", "accuracy/train")):
        assert [(event.step, event.value) for event in shown.Scalars(tag)] == [(r["step"], r[column]) for r in rows]
    assert len(list(tmp_path.iterdir())) == 2  # no sub-run, no temporary file


def test_a_row_is_in_the_file_at_once_and_keeps_every_digit(tracker: Tracker, tmp_path: Path) -> None:
    tracker.log(1, {"train/loss": 0.1 + 0.2})
    assert (tmp_path / "metrics.csv").read_text() == "step,train/loss\n1,0.30000000000000004\n"


def test_a_later_tag_becomes_the_last_column_and_earlier_rows_lack_it(tracker: Tracker, tmp_path: Path) -> None:
    tracker.log(1, {"b": 1.0})
    tracker.log(2, {"c": 3.0, "a": 2.0})
    tracker.log(3, {"a": 4.0})
    with (tmp_path / "metrics.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["step", "b", "c", "a"],
            ["1", "1.0", "", ""],
            ["2", "", "3.0", "2.0"],
            ["3", "", "", "4.0"],
        ]
    assert read_metrics(tmp_path / "metrics.csv") == [
        {"step": 1, "b": 1},
        {"step": 2, "c": 3, "a": 2},
        {"step": 3, "a": 4},
    ]


def test_a_failing_rewrite_leaves_the_rows_there_were(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker.log(1, {"b": 1.0})

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        tracker.log(2, {"a": 2.0})
    assert (tmp_path / "metrics.csv").read_text() == "step,b\n1,1.0\n"


def test_what_is_no_number_is_written_as_a_word(tracker: Tracker, tmp_path: Path) -> None:
    tracker.log(1, {"train/loss": math.nan, "train/grad_norm": math.inf})
    assert (tmp_path / "metrics.csv").read_text().endswith("\n1,nan,inf\n")
    (row,) = read_metrics(tmp_path / "metrics.csv")
    assert math.isnan(row["train/loss"])
    assert row["train/grad_norm"] == math.inf


def test_hparams_are_numbers_and_texts_with_no_experiment_record(tracker: Tracker, tmp_path: Path) -> None:
    tracker.close("done")
    values = session(tmp_path, "session_start_info").hparams
    assert {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()} == {
        "algorithm": "maml",
        "ways": 5.0,
        "inner_lr": 0.5,
        "first_order": "true",
    }
    assert "_hparams_/experiment" not in events(tmp_path).summary_metadata


@pytest.mark.parametrize(
    ("status", "expected"), [("done", api_pb2.STATUS_SUCCESS), ("diverged", api_pb2.STATUS_FAILURE)]
)
def test_the_first_close_says_how_the_run_ended(tmp_path: Path, status: str, expected: int) -> None:
    tracker = Tracker(tmp_path, {})
    tracker.close(status)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    tracker.close("done" if status != "done" else "failed")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert session(tmp_path, "session_end_info").status == expected


def scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    found = events(run_dir)
    shown = {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    return {tag: points for tag, points in shown.items() if points}


def test_a_run_that_goes_on_drops_later_rows_and_its_curves_do_not_double(tmp_path: Path) -> None:
    first = Tracker(tmp_path, {"algorithm": "maml"})
    for step in (10, 20, 30):
        first.log(step, {"train/loss": step / 8})
    first.log(30, {"val/accuracy": 0.5})
    # Killed: nothing is closed.
    with Tracker(tmp_path, {"algorithm": "maml"}, after=20) as second:
        second.log(30, {"train/loss": 2.0})
        second.log(40, {"train/loss": 3.0})
    first.close(None)
    expected = [(10, 1.25), (20, 2.5), (30, 2.0), (40, 3.0)]
    assert read_metrics(tmp_path / "metrics.csv") == [{"step": s, "train/loss": v} for s, v in expected]
    assert (tmp_path / "metrics.csv").read_text().startswith("step,train/loss\n")
    assert scalars(tmp_path) == {"loss/train": expected}
    assert session(tmp_path, "session_end_info").status == api_pb2.STATUS_SUCCESS
    assert session(tmp_path, "session_start_info").hparams["algorithm"].string_value == "maml"


def test_a_test_at_the_step_where_it_goes_on_is_dropped_too(tmp_path: Path) -> None:
    with Tracker(tmp_path, {}) as first:
        first.log(20, {"train/loss": 1.0, "val/accuracy": 0.25})
        first.log(20, {"test/accuracy": 0.5})
    with Tracker(tmp_path, {}, after=20) as second:
        second.log(20, {"test/accuracy": 0.75})
    assert read_metrics(tmp_path / "metrics.csv") == [
        {"step": 20, "train/loss": 1, "val/accuracy": 0.25},
        {"step": 20, "test/accuracy": 0.75},
    ]
    assert scalars(tmp_path) == {
        "loss/train": [(20, 1.0)],
        "accuracy/val": [(20, 0.25)],
        "test/accuracy": [(20, 0.75)],
    }


def test_event_files_are_in_order_whatever_the_clock_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for attempt, now in enumerate((2_000_000_000.0, 1_000_000_000.0, 1_000_000_000.0)):
        monkeypatch.setattr("metalearn.runs.events.time.time", lambda now=now: now)
        with Tracker(tmp_path, {}, after=attempt if attempt else None) as tracker:
            for step in range(attempt + 1, 5):
                tracker.log(step, {"train/loss": float(attempt)})
    assert scalars(tmp_path) == {"loss/train": [(1, 0.0), (2, 1.0), (3, 2.0), (4, 2.0)]}


@pytest.mark.parametrize(
    "text",
    ["", "step", "nothing", "step,train/loss\n1,0.5\n2,0.", "step,train/loss\nx,0.5\n1,0.5\n1,y\n", "\x00\n,\n1"],
)
def test_what_a_killed_or_mangled_file_holds_beside_whole_rows_is_dropped(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with Tracker(tmp_path, {}, after=5) as tracker:
        tracker.log(6, {"train/loss": 1.0})
    rows = [{"step": 1, "train/loss": 0.5}] if "\n1,0.5\n" in text else []
    assert read_metrics(tmp_path / "metrics.csv") == [*rows, {"step": 6, "train/loss": 1}]


@pytest.mark.parametrize(("error", "expected"), [(None, "SUCCESS"), (ValueError, "FAILURE"), (KeyboardInterrupt, None)])
def test_how_a_run_ended_is_said_unless_it_was_interrupted(
    tmp_path: Path, error: type[BaseException] | None, expected: str | None
) -> None:
    with contextlib.suppress(ValueError, KeyboardInterrupt), Tracker(tmp_path, {}):
        if error is not None:
            raise error
    if expected is None:
        assert "_hparams_/session_end_info" not in events(tmp_path).summary_metadata
    else:
        assert session(tmp_path, "session_end_info").status == getattr(api_pb2, f"STATUS_{expected}")


def test_another_runs_numbers_are_not_overwritten(tracker: Tracker, tmp_path: Path) -> None:
    tracker.log(1, {"train/loss": 1.0})
    before = (tmp_path / "metrics.csv").read_bytes()
    with pytest.raises(UserError, match=r"metrics\.csv"):
        Tracker(tmp_path, {})
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_what_makes_no_curve_is_in_metrics_csv_alone(tmp_path: Path) -> None:
    row = {"train/mse": 2.0, "train/lr": 0.1, "train/scale": 3.0, "val/mse": 1.0, "val/ci95": 0.5}
    row |= {"time/tasks_per_second": 9.0, "time/seconds": 4.0, "test/mse": 0.5, "test/ci95": 0.25, "test/other": 1.0}
    with Tracker(tmp_path, {}, score="mse") as tracker:
        tracker.log(7, row)
    assert read_metrics(tmp_path / "metrics.csv") == [{"step": 7, **row}]
    assert {tag: points[0][1] for tag, points in scalars(tmp_path).items()} == {
        "mse/train": 2.0,
        "mse/val": 1.0,
        "test/mse": 0.5,
        "training/lr": pytest.approx(0.1),
        "training/scale": 3.0,
        "training/tasks_per_second": 9.0,
    }


def test_a_run_that_goes_on_shows_the_configuration_that_it_goes_on_with(tmp_path: Path) -> None:
    with Tracker(tmp_path, {}, about="train.steps 20") as first:
        first.log(20, {"train/loss": 1.0})
        first.show(20, {"test_tasks/1": Picture(2, 1, b"earlier", "about")})
    with Tracker(tmp_path, {}, after=20, about="train.steps 40") as second:
        second.show(40, {"test_tasks/1": Picture(2, 1, b"later", "about")})
    found = plugin_event_accumulator.EventAccumulator(str(tmp_path)).Reload()  # as the server reads it
    said = {event.step: event.tensor_proto.string_val[0] for event in found.Tensors("configuration")}
    assert said == {0: b"train.steps 20", 20: b"train.steps 40"}
    last = found.Tensors("test_tasks/1")[-1]
    assert (last.step, list(last.tensor_proto.string_val)) == (40, [b"2", b"1", b"later"])
