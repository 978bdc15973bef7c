"""What the benchmarks share: turns, medians, ratios, exponents, tables, records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metalearn.bench import command, harness
from metalearn.bench.accuracy import reached
from metalearn.bench.harness import Table, compared, exponent, interleave, spread
from metalearn.errors import UserError
from metalearn.places import cache_dir

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that moves only when told to."""
    now = 0.0

    def forward(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(harness.time, "perf_counter", lambda: now)
    return forward


def test_both_sides_take_turns_and_the_beginning_moves_on(clock: Callable[[float], None]) -> None:
    calls: list[str] = []

    def action(name: str, seconds: float) -> Callable[[], None]:
        def act() -> None:
            calls.append(name)
            clock(seconds)

        return act

    seconds = interleave({"a": action("a", 1.0), "b": action("b", 2.0)}, 3, CPU)
    assert "".join(calls) == "aabb" + "ab" + "ba" + "ab", "two warm-ups each, then the rounds"
    assert seconds == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_a_short_action_is_repeated_within_its_turn(clock: Callable[[float], None]) -> None:
    calls = 0

    def act() -> None:
        nonlocal calls
        calls += 1
        clock(0.02)

    (taken,) = interleave({"short": act}, 1, CPU)["short"]
    assert calls == 2 + 5, "0.1 s to a turn"
    assert taken == pytest.approx(0.02), "seconds per call"


def test_the_ratio_is_of_each_round() -> None:
    # In the last round the machine was slow for both: the ratio of medians would be 3, that of sums 2.1.
    found = compared([1.0, 1.0, 10.0], [2.0, 3.0, 20.0])
    assert found["ratio"] == {"median": 2.0, "lower": 2.0, "upper": 2.5}
    assert found["ours"]["median"] == 1.0
    assert found["theirs"]["median"] == 3.0
    assert found["rounds"] == 3
    assert spread([4.0]) == {"median": 4.0, "lower": 4.0, "upper": 4.0}


def test_exponent_of_a_power_law() -> None:
    sizes = [1, 2, 4, 8]
    assert exponent(sizes, [3.0 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert exponent(sizes, [7.0] * 4) == pytest.approx(0.0)


def test_markdown() -> None:
    table = Table("Title", ("", "a|b"), [("row", "1")], "A note.")
    assert table.markdown() == "**Title**\n\n|  | a\\|b |\n| --- | ---: |\n| row | 1 |\n\nA note."


def test_choices_are_measured_anew_and_the_users_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path))
    (tmp_path / "glyphs-1").mkdir()
    (tmp_path / "glyphs-1" / "images.npy").touch()
    (tmp_path / "task_chunk").mkdir()
    with harness.fresh_choices():
        assert cache_dir() != tmp_path
        assert (cache_dir() / "glyphs-1" / "images.npy").exists(), "the datasets are there"
        assert not (cache_dir() / "task_chunk").exists()
    assert cache_dir() == tmp_path
    assert (tmp_path / "glyphs-1" / "images.npy").exists()


def ratio(median: float, lower: float, upper: float) -> dict[str, float]:
    return {"median": median, "lower": lower, "upper": upper}


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        (ratio(4.0, 3.9, 4.1), "same"),
        (ratio(4.3, 4.2, 4.4), "same"),  # within a tenth
        (ratio(5.0, 4.8, 5.2), "better"),
        (ratio(5.0, 3.5, 5.2), "same"),  # too noisy to tell
        (ratio(3.0, 2.9, 3.1), "worse"),
        (ratio(3.0, 2.9, 4.1), "same"),
    ],
)
def test_verdict(now: dict[str, float], verdict: str) -> None:
    assert command.verdict(ratio(4.0, 3.9, 4.1), now) == verdict


def test_comparison_finds_rows_by_their_labels() -> None:
    rows = [{"label": label, "ratio": ratio(size, size, size)} for label, size in (("x", 8.0), ("new", 1.0))]
    table = command.comparison(
        {"steps": {"rows": [{"label": "x", "ratio": ratio(4, 4, 4)}]}}, {"steps": {"rows": rows}}
    )
    assert [(row[0], row[-1]) for row in table.rows] == [("steps: x", "better"), ("steps: new", "")]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces every benchmark by one that measures nothing."""

    class Stub:
        @staticmethod
        def labels(bench: harness.Bench) -> list[str]:
            return ["case"]

        @staticmethod
        def measure(bench: harness.Bench) -> dict[str, Any]:
            return {"rows": [{"label": "case", **compared([1.0, 2.0], [4.0, 8.0])}]}

        @staticmethod
        def tables(record: dict[str, Any]) -> list[Table]:
            return [Table("Stub", ("", "ratio"), [(row["label"], "4") for row in record["rows"]])]

    monkeypatch.setattr(command, "module_of", lambda name: Stub)
    monkeypatch.setattr(command, "keep_freed_memory", lambda: True)


def record_of(torch_version: str, *rows: dict[str, Any]) -> dict[str, Any]:
    environment = {"device": "a CPU", "cpu_threads": 2, "torch": torch_version, "learn2learn": "0.2.0"}
    return {"date": "2026-01-02", "rounds": 3, "quick": False, "environment": environment, "rows": list(rows)}


def test_rows_measured_anew_take_the_places_of_the_stored_ones_which_keep_their_conditions() -> None:
    first, at_x, at_y = {"label": "a", "n": 1}, {"label": "b", "axis": "x", "n": 1}, {"label": "b", "axis": "y", "n": 1}
    further, new = {"label": "c", "n": 2}, {"label": "b", "axis": "x", "n": 2}
    before, now = record_of("1", first, at_x, at_y), record_of("1", further, new)
    assert command.with_new(before, now) == [first, new, at_y, further]
    then = {"conditions": "2026-01-02: a CPU, 2 threads, torch 1, learn2learn 0.2.0; 3 rounds"}
    now = record_of("2", further, new)
    mixed = command.with_new(before, now)
    assert mixed == [first | then, new, at_y | then, further]
    again = command.with_new(record_of("2", *mixed), record_of("3", new))
    assert again[0] == first | then, "the first ones"
    assert "torch 2" in again[3]["conditions"]


def compose(*overrides: str) -> dict[str, Any]:
    raise AssertionError("nothing is composed here")


@pytest.mark.usefixtures("stub")
def test_json_keeps_what_was_measured_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    command.run(["tasks"], compose, json_file=file, rounds=3)
    command.run(["steps"], compose, json_file=file, against=file)
    records = json.loads(file.read_text())
    assert list(records) == ["tasks", "steps"]
    assert set(records["tasks"]) == {"date", "rounds", "quick", "environment", "rows"}
    assert records["tasks"]["rounds"] == 3
    assert records["tasks"]["environment"]["cpu_threads"] == torch.get_num_threads()
    assert records["tasks"]["rows"][0]["ratio"]["median"] == 4.0
    out = capsys.readouterr().out
    assert "Stub" in out
    assert "not stored" in out


@pytest.mark.usefixtures("stub")
def test_some_cases_leave_the_other_rows_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"steps": record_of("1", {"label": "case", "old": 1}, {"label": "other", "old": 1})}))
    records = command.run(["steps"], compose, json_file=file, cases=("case",))
    assert [(row["label"], "old" in row) for row in records["steps"]["rows"]] == [("case", False), ("other", True)]
    assert json.loads(file.read_text())["steps"] == records["steps"]


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize("names", [[], ["tasks"], ["steps", "tasks"]])
def test_cases_of_a_benchmark_that_measures_all_its_rows_together_are_refused(names: list[str]) -> None:
    with pytest.raises(
        UserError, match="--case some: allowed with bench steps, rivals, scaling, eval, growth, limit, named"
    ):
        command.run(names, compose, cases=("some",))


@pytest.mark.parametrize("cases", [("max-pol",), ("ProtoNet", "max-pol")])
def test_a_case_that_no_row_has_is_refused_before_anything_is_prepared(
    monkeypatch: pytest.MonkeyPatch, cases: tuple[str, ...]
) -> None:
    monkeypatch.setattr(command, "keep_freed_memory", lambda: pytest.fail("not before the cases are known to be right"))
    with pytest.raises(
        UserError, match="--case max-pol: no row of bench steps has this in its label; the labels: MAML, "
    ):
        command.run(["steps"], compose, cases=cases)


def test_cases_that_leave_one_of_several_benchmarks_without_a_row_are_refused() -> None:
    with pytest.raises(UserError, match="--case Reptile: no row of bench limit has this in its label"):
        command.run(["steps", "limit"], compose, cases=("Reptile",))


@pytest.mark.parametrize("name", command._IN_PARTS)
def test_each_benchmark_in_parts_says_its_labels(name: str) -> None:
    labels = command.module_of(name).labels(harness.Bench(compose, 1, False, torch.device("cpu")))
    assert len(labels) == len(set(labels)) > 1


@pytest.mark.usefixtures("stub")
def test_all_but_accuracy_without_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    records = command.run([], compose)
    assert list(records) == ["tasks", "steps", "eval", "start", "growth", "limit", "data"]
    assert "accuracy: skipped" in capsys.readouterr().err


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"rows": []}')
    with pytest.raises(UserError, match="was not written by metalearn bench"):
        command.run(["tasks"], compose, against=tmp_path / "other.json")
    with pytest.raises(UserError, match="cannot be read"):
        command.run(["tasks"], compose, against=tmp_path / "nothing.json")


def test_time_to_accuracy_is_that_of_the_first_validation_there() -> None:
    validations = [
        {"step": 100.0, "time/seconds": 60.0, "val/accuracy": 0.90},
        {"step": 200.0, "time/seconds": 120.0, "val/accuracy": 0.96},
        {"step": 300.0, "time/seconds": 180.0, "val/accuracy": 0.97},
    ]
    assert reached(validations, 0.95) == {"seconds": 120.0, "step": 200}
    assert reached(validations, 0.98) is None
