"""scripts/measure_functions.py: what it trains and tests, the bound, that it goes on where it stopped, and the tables that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts.load import load_script

PAGE = "before\n<!-- functions:begin -->\nold\n<!-- functions:end -->\nafter\n"
TINY = ("train.val_tasks=3", "train.meta_batch_size=2", "train.task_chunk=2", "task.train.queries=3")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    script = load_script("measure_functions")
    steps = {"cnp": 2, "bayesian": 1}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    for name, value in {
        "SETS": {
            "gp": script.Functions(("dataset=gp", *TINY), steps, (2, 4), 3, "draws"),
            "sinusoid": script.Functions(("dataset=sinusoid", *TINY), steps, (2,), 3, "waves"),
        },
        "LEARNERS": ("cnp", "bayesian"),
        "SHARED": ("seed=0", "device=cpu", "eval.tasks=4", "eval.pictures=0"),
        "TASKS": 4,
        "RESULTS": tmp_path / "functions.json",
        "PAGE": tmp_path / "page.md",
    }.items():
        monkeypatch.setattr(script, name, value)
    return script


@pytest.mark.thorough
def test_it_measures_every_learner_once_and_writes_the_tables(script: ModuleType, tmp_path: Path) -> None:
    script.main(["--runs", "runs"])
    rows = json.loads((tmp_path / "functions.json").read_text())["measured"]
    found = {(row["learner"], row["dataset"], row["shots"]) for row in rows}
    learned = {(one, *of) for one in ("cnp", "bayesian") for of in (("gp", 2), ("gp", 4), ("sinusoid", 2))}
    assert found == learned | {(script.ORACLE, "gp", 2), (script.ORACLE, "gp", 4)}
    assert all(row["steps"] == {"cnp": 2, "bayesian": 1}[row["learner"]] for row in rows if "steps" in row)
    bound = {row["shots"]: row for row in rows if row["learner"] == script.ORACLE}
    for row in rows:
        if row["dataset"] == "gp":  # on four tasks, all of them the same
            assert row["nll"]["mean"] >= bound[row["shots"]]["nll"]["mean"]
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("before\n<!-- functions:begin -->\ndraws; tested on 4 tasks with 3 queries:")
    assert page.endswith("<!-- functions:end -->\nafter\n")
    one = next(row for row in rows if row["learner"] == "cnp")
    assert f"| `cnp` | {script.text(one, 'mse')} | {script.text(one, 'nll')} |" in page
    script.main(["--runs", "runs", "--check"])
    before = sorted((tmp_path / "runs").rglob("*.json"))
    script.main(["--runs", "runs"])
    assert sorted((tmp_path / "runs").rglob("*.json")) == before, "nothing is measured twice"
    (tmp_path / "page.md").write_text(PAGE)
    with pytest.raises(SystemExit, match="out of date"):
        script.main(["--check"])


def test_the_table_in_the_documentation_is_up_to_date() -> None:
    load_script("measure_functions").main(["--check"])
