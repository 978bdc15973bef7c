"""scripts/measure_regression.py: what it trains and tests, that it goes on where it stopped, and the table that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts.load import load_script

PAGE = "before\n<!-- regression:begin -->\nold\n<!-- regression:end -->\nafter\n"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    script = load_script("measure_regression")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    tiny = (
        "seed=0",
        "device=cpu",
        "train.steps=2",
        "train.meta_batch_size=2",
        "train.val_tasks=2",
        "train.task_chunk=2",
    )
    for name, value in {
        "LEARNERS": {"maml": script.Learner("MAML", ("algorithm=maml", "algorithm.test_inner_steps=6"))},
        "SHARED": ("dataset=sinusoid", *tiny, "eval.tasks=4", "eval.pictures=0"),
        "POINTS": (5, 10),
        "RESULTS": tmp_path / "regression.json",
        "PAGE": tmp_path / "page.md",
    }.items():
        monkeypatch.setattr(script, name, value)
    return script


def test_it_measures_each_number_of_points_once_and_writes_the_table(script: ModuleType, tmp_path: Path) -> None:
    script.main(["--runs", "runs"])
    five, ten = json.loads((tmp_path / "regression.json").read_text())["measured"]
    assert (five["points"], ten["points"], ten["scored_steps"]) == (5, 10, [0, 1, 2, 3, 4, 5, 6])
    assert ten["mse"] == json.loads((tmp_path / "runs/maml/results.json").read_text())["test"]["mse"] != five["mse"]
    page = (tmp_path / "page.md").read_text()
    cells = [f"{ten['per_step'][i]:.3f} ± {ten['per_step_ci95'][i]:.3f}" for i in (0, 1, 5)]
    assert f"| MAML | {' | '.join(cells)} |  | {ten['mse']:.3f} ± {ten['ci95']:.3f} (6 steps) | 0 min |" in page
    assert "5 support points:" in page
    assert page.endswith("<!-- regression:end -->\nafter\n")
    before = sorted((tmp_path / "runs").rglob("*.json"))
    script.main(["--runs", "runs", "--check"])
    script.main(["--runs", "runs"])
    assert sorted((tmp_path / "runs").rglob("*.json")) == before, "nothing is measured twice"
    (tmp_path / "page.md").write_text(PAGE)
    with pytest.raises(SystemExit, match="out of date"):
        script.main(["--check"])


def test_the_repository_is_up_to_date() -> None:
    load_script("measure_regression").main(["--check"])
