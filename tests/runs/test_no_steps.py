"""Runs without outer steps: the model is validated, saved and tested as it is."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from metalearn.cli.main import main
from metalearn.engine import loop as loop_module
from metalearn.engine.build import build_algorithm, build_dataset
from metalearn.errors import Interrupted, UserError
from metalearn.runs import checkpoint
from metalearn.runs.preflight import preflight
from metalearn.runs.record import read_results
from metalearn.runs.run import run
from metalearn.runs.tracking import read_metrics
from tests.compose import compose
from tests.runs.test_resume import TINY

CPU = torch.device("cpu")
GIVEN = (*(setting for setting in TINY if not setting.startswith("train.steps")), "algorithm=nearest_centroid")


def given(*overrides: str) -> dict[str, Any]:
    config = compose(*GIVEN, *overrides)
    assert config["train"]["steps"] == 0
    return config


def mean_image(config: dict[str, Any]) -> torch.Tensor:
    source = build_dataset(config).source("train", 0, CPU)
    return torch.cat(list(source.every_example())).double().mean(0).flatten().float()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("done")
    run(given(), run_dir)
    return run_dir


def test_it_is_validated_saved_and_tested_at_step_0(done: Path) -> None:
    results = read_results(done)
    assert results["status"] == "done"
    assert (
        results["train"]["steps"]
        == results["train"]["seconds"]
        == results["val"]["step"]
        == results["test"]["step"]
        == 0
    )
    validated, tested = read_metrics(done / "metrics.csv")
    assert int(validated["step"]) == int(tested["step"]) == 0
    assert float(validated["val/accuracy"]) == results["val"]["accuracy"]
    assert float(tested["test/accuracy"]) == results["test"]["accuracy"]
    assert not any(tag.startswith("train/") for tag in validated)
    best, last = (checkpoint.load(done / name, CPU) for name in ("best.pt", "last.pt"))
    assert best["step"] == last["step"] == 0
    assert torch.equal(best["model"]["transform.mean"], last["model"]["transform.mean"])


def test_it_says_so_and_nothing_of_steps_and_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["train", *GIVEN, "hydra.run.dir=run"])
    for said in (capsys.readouterr().out, (tmp_path / "run" / "run.log").read_text()):
        assert "no outer steps, 20 classes of glyphs" in said
        assert "looking at every training image once" in said
        assert "no outer steps  val " in said
        assert "0/0" not in said
        assert "tasks/s" not in said


def test_a_model_without_parameters_keeps_the_exact_mean_of_the_training_images(tmp_path: Path) -> None:
    small = (setting for setting in GIVEN if not setting.startswith("backbone."))
    config = compose(*small, "backbone=pixels", "train.augment.degrees=90")
    preflight(config)
    run(config, tmp_path)
    kept = checkpoint.load(tmp_path / "best.pt", CPU)["model"]["transform.mean"]
    torch.testing.assert_close(kept, mean_image(config))
    assert read_results(tmp_path)["test"]["accuracy"] > 0.3, "chance is 0.2"


def test_it_is_tested_again_predicts_and_is_compared(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(done.parent)
    main(["eval", str(done), "eval.tasks=20"])
    evaluated = capsys.readouterr().out
    assert f"{100 * read_results(done)['test']['accuracy']:.2f}" in evaluated
    main(["compare", str(done)])
    main(["runs", str(done)])
    main(["train", "--resume", str(done)])
    said = capsys.readouterr().out
    assert "nearest_centroid  1" in said
    assert "nothing is left to do" in said


@pytest.mark.parametrize("where", ["fit", "validate"])
def test_it_goes_on_where_it_was_interrupted(
    where: str, tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(loop_module.OuterLoop, where)

    def interrupted(self: loop_module.OuterLoop) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    monkeypatch.setattr(loop_module.OuterLoop, where, interrupted)
    with pytest.raises(Interrupted):
        run(given(), tmp_path)
    monkeypatch.undo()
    assert read_results(tmp_path)["status"] == "interrupted"
    results = run(given(), tmp_path, resume=True)
    assert results["test"]["accuracy"] == read_results(done)["test"]["accuracy"]
    model, straight = (checkpoint.load(path / "best.pt", CPU)["model"] for path in (tmp_path, done))
    assert all(torch.equal(model[name], straight[name]) for name in straight)


def test_it_starts_from_another_learners_backbone(done: Path, tmp_path: Path) -> None:
    run(compose(*TINY, "train.steps=2", "train.val_every=2"), tmp_path / "earlier")
    results = run(given(f"train.init={tmp_path / 'earlier'}"), tmp_path / "run")
    model, earlier = (checkpoint.load(tmp_path / name / "best.pt", CPU)["model"] for name in ("run", "earlier"))
    taken = [name for name in model if name.startswith("backbone.")]
    assert taken
    assert all(torch.equal(model[name], earlier[name]) for name in taken)
    assert not torch.equal(model["transform.mean"], checkpoint.load(done / "best.pt", CPU)["model"]["transform.mean"])
    assert results["train"]["steps"] == 0


def test_a_frozen_backbone_embeds_the_training_images_once_and_has_the_same_mean(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    small = [setting for setting in GIVEN if not setting.startswith("backbone.")]
    network = ("backbone=torchvision", "backbone.name=squeezenet1_1", "backbone.weights=none", "backbone.size=32")
    results, means = [], []
    for features in ("memory", "none"):
        run_dir = tmp_path / features
        results.append(run(compose(*small, *network, f"features={features}"), run_dir)["test"]["accuracy"])
        means.append(checkpoint.load(run_dir / "best.pt", CPU)["model"]["transform.mean"])
    torch.testing.assert_close(*means, atol=1e-5, rtol=1e-5)
    assert float(means[0].abs().max()) > 0
    assert results[0] == pytest.approx(results[1], abs=0.02)


def test_any_learner_can_be_tested_untrained(tmp_path: Path) -> None:
    results = run(compose(*TINY, "algorithm=maml", "train.steps=0", "train.val_tasks=4", "eval.tasks=4"), tmp_path)
    assert results["status"] == "done"


def test_what_takes_from_the_training_images_does_so_again_before_every_validation(tmp_path: Path) -> None:
    config = compose(
        *GIVEN, "train.steps=6", "train.val_every=3", "train.checkpoint_every=2", "train.schedule=constant"
    )
    run(config, tmp_path / "run")
    state = checkpoint.load(tmp_path / "run" / "last.pt", CPU)["model"]
    dataset = build_dataset(config)
    algorithm: Any = build_algorithm(config, dataset).eval()
    algorithm.load_state_dict(state)
    algorithm.transform.mean.zero_()
    with torch.no_grad():
        algorithm.fit(dataset.source("train", 0, CPU).every_example())
    torch.testing.assert_close(algorithm.transform.mean, state["transform.mean"])


def test_a_resumed_run_goes_on_with_the_mean_that_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(*GIVEN, "train.steps=6", "train.val_every=3", "train.schedule=constant")
    run(config, tmp_path / "straight")
    original = loop_module.OuterLoop.step

    def interrupted(self: loop_module.OuterLoop) -> None:
        original(self)
        if self.outcome.steps == 4:  # the mean is that of step 3
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop_module.OuterLoop, "step", interrupted)
    with pytest.raises(Interrupted):
        run(config, tmp_path / "resumed")
    monkeypatch.undo()
    run(config, tmp_path / "resumed", resume=True)
    model, straight = (checkpoint.load(tmp_path / path / "last.pt", CPU)["model"] for path in ("resumed", "straight"))
    assert all(torch.equal(model[name], straight[name]) for name in straight)


def test_there_has_to_be_an_end_of_the_training_examples() -> None:
    source = build_dataset(compose("dataset=sinusoid")).source("train", 0, CPU)
    with pytest.raises(UserError, match="sinusoid makes its examples as it goes"):
        source.every_example()
