"""Distributions of numbers in a test: their likelihood beside the score, in results and in pictures."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from scipy.special import logsumexp

from metalearn.cli.main import main
from metalearn.engine.build import Parts, assemble
from metalearn.engine.evaluate import NLL, Scores, evaluate
from metalearn.intervals import interval95
from metalearn.runs.pictures import pictures
from metalearn.tasks import Shape, VaryingPoints
from tests.compose import compose

SMALL = ("algorithm.width=16", "eval.tasks=6", "eval.pictures=2", "task.queries=5", "task.train.queries=5")


def measured(name: str, *overrides: str, shape: Shape | None = None) -> tuple[Parts, Scores]:
    parts = assemble(compose("dataset=sinusoid", f"algorithm={name}", *overrides, "task.queries=5"))
    return parts, evaluate(parts.algorithm, parts.source("test"), shape or parts.settings.task, 6, 4, stepwise=False)


@pytest.mark.parametrize("shape", [None, VaryingPoints(1, "varying", 5, 2, 6)])
@pytest.mark.parametrize("name", ["cnp", "np", "bayesian"])
def test_the_likelihood_is_scipy_s_task_by_task(name: str, shape: Shape | None) -> None:
    parts, scores = measured(name, shape=shape)
    tasks = parts.source("test").tasks(0, 6, shape or parts.settings.task)
    for t, task in enumerate(tasks.chunks(1)):
        algorithm = parts.algorithm.eval()
        with torch.no_grad():
            found = algorithm.predict_distribution(algorithm.adapt(task.support), task.query.x)
        assert found is not None
        logs = stats.norm.logpdf(task.query.y[0].numpy(), found.means[:, 0].numpy(), found.stds[:, 0].numpy())
        expected = (np.log(len(logs)) - logsumexp(logs, axis=0)).mean()
        assert float(scores.further[NLL][t]) == pytest.approx(expected, rel=1e-4)
        assert float(scores.score[-1][t]) == pytest.approx(float((found.mean - task.query.y).square().mean()), rel=1e-4)
    assert torch.equal(scores.loss, scores.further[NLL])


def test_what_predicts_no_distribution_has_no_likelihood_and_the_loss_of_its_kind() -> None:
    _, scores = measured("maml")
    assert NLL not in scores.further
    assert torch.equal(scores.loss, scores.score[-1])


def test_results_have_it_beside_the_score_with_its_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    steps = ("train.steps=4", "train.val_every=2", "train.val_tasks=5", "train.log_every=2")
    main(["train", "dataset=sinusoid", "algorithm=cnp", *SMALL, *steps, f"hydra.run.dir={run}"])
    results = json.loads((run / "results.json").read_text())
    with np.load(run / "test_tasks.npz") as of_tasks:
        nll = of_tasks["further/nll"]
    further = results["test"]["further"]["nll"]
    assert further["mean"] == pytest.approx(float(nll.mean()), rel=1e-5)
    assert further["ci95"] == pytest.approx(interval95(torch.from_numpy(nll)), rel=1e-5)
    assert results["test"]["loss"] == pytest.approx(further["mean"])
    assert results["test"]["mse"] > 0
    head = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/mse", "train/nll", "val/mse", "val/loss", "test/mse", "test/nll"} <= set(head)
    best = results["val"]
    assert set(best) == {"mse", "ci95", "step"}, "the best checkpoint is chosen by the main score"
    main(["eval", str(run), "task.shots=3,5", "--csv", str(tmp_path / "grid.csv")])
    shown = capsys.readouterr().out
    assert "NLL" in shown
    for cell in csv.DictReader((tmp_path / "grid.csv").read_text().splitlines()):
        test = json.loads((run / cell["file"]).read_text())["test"]
        assert float(cell["nll"]) == test["further"]["nll"]["mean"]
        assert "{mean:.4f} ± {ci95:.4f}".format(**test["further"]["nll"]) in shown


def band_pixels(content: bytes) -> int:
    with Image.open(io.BytesIO(content)) as picture:
        near = np.abs(np.asarray(picture.convert("RGB"), int) - (226, 235, 246)).max(-1)
    return int((near < 6).sum())


def test_pictures_show_the_curve_with_its_band() -> None:
    without, with_band = (measured(name, *small) for name, small in (("maml", ()), ("cnp", SMALL[:1])))
    shown = []
    for parts, scores in (without, with_band):
        drawn = pictures(parts.algorithm, parts.source("test"), parts.settings.task, 1, scores).pictures
        shown.append(drawn["test_tasks/1"])
    assert "± 2 predicted standard deviations" in shown[1].about
    assert "deviations" not in shown[0].about
    assert band_pixels(shown[1].content) > 5000 > 500 > band_pixels(shown[0].content)
