"""The curves of test tasks that are functions of one number: in an evaluation's file and on the page of a grid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from metalearn.cli.main import main
from metalearn.engine.build import assemble
from metalearn.kinds import CLASSIFICATION
from metalearn.runs.curves import FunctionTask, function_records, is_function
from tests.compose import FEW_GLYPHS, compose

SMALL = ("dataset=sinusoid", "task.queries=5", "task.train.queries=5", "eval.tasks=4")
STEPS = ("train.steps=2", "train.val_every=2", "train.val_tasks=3", "eval.pictures=0")


def test_a_curve_is_what_is_predicted_with_two_deviations_on_either_side() -> None:
    parts = assemble(compose("algorithm=bayesian", *SMALL))
    algorithm, source, shape = parts.algorithm.eval(), parts.source("test"), parts.settings.task
    found = function_records(algorithm, source, shape, 3)
    assert len(found) == 3
    task = source.tasks(2, 1, shape)
    grid = torch.tensor(found[2]["x"]).view(1, -1, 1)
    with torch.no_grad():
        right = algorithm.predict_distribution(algorithm.adapt(task.support), grid)
    assert right is not None
    assert found[2]["y"] == pytest.approx(right.mean[0, :, 0].tolist(), rel=1e-2, abs=1e-2)
    assert found[2]["band"] == pytest.approx((2 * right.std)[0, :, 0].tolist(), rel=1e-2)
    xs = torch.cat([task.support.x, task.query.x], 1)
    assert (found[2]["x"][0], found[2]["x"][-1]) == pytest.approx((float(xs.min()), float(xs.max())), rel=1e-4)
    expected = torch.cat([task.support.x[0], task.support.y[0]], 1).flatten()
    assert [number for point in found[2]["support"] for number in point] == pytest.approx(expected.tolist(), rel=1e-4)
    assert len(found[2]["query"]) == 5


def test_an_inner_loop_has_a_curve_for_some_of_its_states_and_no_band() -> None:
    parts = assemble(compose("algorithm=maml", *SMALL, "algorithm.test_inner_steps=4"))
    task = parts.source("test").tasks(0, 1, parts.settings.task)
    found = FunctionTask.of(parts.algorithm.eval(), parts.dataset.kind, task)
    assert [curve.name for curve in found.curves] == ["before", "1 step", "2 steps", "4 steps"]
    assert not any(curve.band for curve in found.curves)
    assert found.curves[0].y != found.curves[-1].y


def test_tasks_of_classes_are_no_functions() -> None:
    parts = assemble(compose(*FEW_GLYPHS, "backbone.filters=4"))
    assert parts.dataset.kind == CLASSIFICATION
    assert not is_function(parts.dataset.kind, parts.source("test").tasks(0, 1, parts.settings.task))
    assert function_records(parts.algorithm, parts.source("test"), parts.settings.task, 2) == []


def test_the_page_of_a_grid_shows_the_first_tasks_of_its_cells(tmp_path: Path) -> None:
    run, page = tmp_path / "run", tmp_path / "page.html"
    main(["train", "algorithm=cnp", "algorithm.width=8", *SMALL, *STEPS, f"hydra.run.dir={run}"])
    main(["eval", str(run), "task.shots=5,10", "eval.pictures=3", "--html", str(page)])
    files = [json.loads(file.read_text()) for file in sorted(run.glob("eval-*.json"))]
    assert [len(one["curves"]) for one in files] == [3, 3]
    (grid,) = run.glob("grid-*.json")
    assert [len(cell["curves"]) for cell in json.loads(grid.read_text())["cells"]] == [3, 3]
    text = page.read_text()
    for title in ("Test task 1, shots=5", "Test task 1, shots=10", "Test task 2, shots=5", "Test task 2, shots=10"):
        assert title in text
    assert "Test task 3" not in text
    assert text.count('class="band c0"') >= 4
    assert "The band is ± 2 predicted standard deviations." in text
    assert text.count("<title>support: ") == 2 * (5 + 10)
    assert text.count("<title>target: ") == 4 * 5
