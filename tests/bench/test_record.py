"""The record table: seconds until the mean of several seeds reaches a stated accuracy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metalearn.bench import record
from metalearn.bench.harness import Bench
from metalearn.config.files import choices
from metalearn.errors import UserError
from tests.compose import compose

RECORDS = [name for name in choices("experiment") if name.startswith("record/")]


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_states_a_mark_and_tests_the_last_step(name: str) -> None:
    config = compose(f"experiment={name}")
    assert 0.5 < record.mark_of(config) < 1
    assert config["eval"]["checkpoint"] == "last"
    assert config["train"]["val_every"] >= config["train"]["steps"], "validations would take time that is not counted"


def test_an_experiment_without_a_mark_is_no_record() -> None:
    with pytest.raises(UserError, match="experiment=short/maml_omniglot_5w1s states no mark"):
        record.mark_of(compose("experiment=short/maml_omniglot_5w1s"))


def test_a_record_trains_every_seed_and_compares_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    name, asked = "record/protonet_glyphs_5w1s", []

    def of_seed(bench: Bench, experiment: str, seed: int) -> dict[str, Any]:
        asked.append((experiment, seed))
        accuracy = (0.96, 0.97, 0.995)[seed]
        return {"seed": seed, "accuracy": accuracy, "seconds": 10.0 * (seed + 1), "to_number": 40.0, "steps": 400}

    monkeypatch.setattr(record, "_of_seed", of_seed)
    bench = Bench(compose, rounds=3, quick=False, device=torch.device("cpu"), train=(name,))
    found = record.measure(bench)
    assert asked == [(name, 0), (name, 1), (name, 2)]
    (row,) = found["rows"]
    assert row["mean"] == pytest.approx(0.975)
    assert (row["mark"], row["reached"], row["seconds"]["median"]) == (0.97, True, 20.0)
    (table,) = record.tables(found)
    (cells,) = table.rows
    assert cells[0] == "protonet, glyphs 5-way 1-shot"
    assert cells[3] == "yes"
    assert cells[-1] == f"`{name}`"


def measured(name: str, monkeypatch: pytest.MonkeyPatch, *seeds: int, accuracy: float = 0.96) -> dict[str, Any]:
    """What one call with these --seed measures, as command.run would have it."""

    def of_seed(bench: Bench, experiment: str, seed: int) -> dict[str, Any]:
        return {"seed": seed, "accuracy": accuracy, "seconds": 10.0, "to_number": 40.0, "steps": 400}

    monkeypatch.setattr(record, "_of_seed", of_seed)
    bench = Bench(compose, len(seeds), quick=False, device=torch.device("cpu"), train=(name,), seeds=seeds)
    environment = {
        "device": "a machine",
        "cpu_capability": "AVX2",
        "cpu_threads": 2,
        "torch": "2.9",
        "learn2learn": "0.2.0",
    }
    header = {"date": "2026-01-01", "rounds": len(seeds), "quick": False, "environment": environment}
    return header | record.measure(bench)


GLYPHS, OMNIGLOT = "record/protonet_glyphs_5w1s", "record/protonet_omniglot_5w1s"


def test_seeds_of_several_calls_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    before = measured(GLYPHS, monkeypatch, 3, 0)
    whole = record.add(before, measured(GLYPHS, monkeypatch, 1, 3, accuracy=0.99))
    (row,) = whole["rows"]
    assert [(run["seed"], run["accuracy"]) for run in row["runs"]] == [(0, 0.96), (1, 0.99), (3, 0.99)]
    assert row["mean"] == pytest.approx(0.98)
    assert (row["reached"], whole["rounds"]) == (True, 3)


def test_records_of_other_experiments_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    both = record.add(measured(GLYPHS, monkeypatch, 0, 1), measured(OMNIGLOT, monkeypatch, 0))
    assert [row["label"] for row in both["rows"]] == [GLYPHS, OMNIGLOT]
    assert both["rounds"] == 2


def test_seeds_of_other_settings_or_another_machine_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    before, now = measured(GLYPHS, monkeypatch, 0), measured(GLYPHS, monkeypatch, 1)
    assert len(record.add(before, now)["rows"][0]["runs"]) == 2
    for key, value in (("device", "another machine"), ("cpu_capability", "AVX512")):
        elsewhere = {**before, "environment": {**before["environment"], key: value}}
        assert record.add(elsewhere, now) == now
    before["rows"][0]["protocol"] = "of a longer schedule"
    assert [run["seed"] for run in record.add(before, now)["rows"][0]["runs"]] == [1]


def test_records_that_another_machine_measured_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    before, now = measured(GLYPHS, monkeypatch, 0, 1), measured(OMNIGLOT, monkeypatch, 0)
    before["environment"]["cpu_capability"] = None  # as records of earlier versions
    both = record.add(before, now)
    glyphs, omniglot = both["rows"]
    assert glyphs["conditions"] == "2026-01-01: a machine, 2 threads, torch 2.9, learn2learn 0.2.0; 2 rounds"
    assert "conditions" not in omniglot
    assert (both["rounds"], both["environment"]["cpu_capability"]) == (1, "AVX2")
    third = record.add(both, measured(GLYPHS, monkeypatch, 5))
    assert [[run["seed"] for run in row["runs"]] for row in third["rows"]] == [[5], [0]]
    assert not any("conditions" in row for row in third["rows"])


@pytest.mark.thorough
def test_a_seed_is_a_training_of_its_own() -> None:
    bench = Bench(compose, rounds=1, quick=True, device=torch.device("cpu"), train=("record/protonet_glyphs_5w1s",))
    (row,) = record.measure(bench)["rows"]
    (run,) = row["runs"]
    assert (run["steps"], run["tasks"]) == (2, 2)
    assert 0 < run["seconds"] < run["to_number"]
    assert row["ci95_seeds"] is None


def test_a_training_that_fails_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record.subprocess, "run", lambda command, **settings: SimpleNamespace(returncode=1))
    bench = Bench(compose, rounds=1, quick=False, device=torch.device("cpu"), train=(GLYPHS,), seeds=(7,))
    with pytest.raises(UserError, match=f"experiment={GLYPHS} seed=7 failed"):
        record.measure(bench)


def test_a_mark_that_the_mean_misses_is_not_reached_and_its_interval_is_over_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (table,) = record.tables(measured(GLYPHS, monkeypatch, 0, 1))
    assert table.rows[0][1:5] == ("97 %", "96.00 ± 0.00 %", "no", "10 (10 to 10)")
    assert table.rows[0][5:8] == ("40 (40 to 40)", "400", "2")
    (table,) = record.tables(measured(GLYPHS, monkeypatch, 0))
    assert table.rows[0][2] == "96.00 %", "one seed has no interval"
