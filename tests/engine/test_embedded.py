"""Training and evaluation on the features of a frozen backbone: the same numbers as without, from one pass over the images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models

from metalearn.cli.main import main
from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_algorithm
from metalearn.engine.embedded import embedded_once
from tests.compose import compose

NAME = "shufflenet_v2_x0_5"
RUN = [
    *("dataset.classes=30", "dataset.val_classes=8", "dataset.test_classes=8", "dataset.drawers=6", "dataset.size=16"),
    *(
        "task.train.ways=5",
        "task.queries=2",
        "train.steps=4",
        "train.val_every=2",
        "train.val_tasks=3",
        "train.task_chunk=2",
    ),
    *("train.meta_batch_size=2", "eval.tasks=5", "train.log_every=1"),
]


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A network that tells images apart: its running statistics are those of some."""
    torch.manual_seed(0)
    network = models.get_model(NAME, weights=None).train()
    with torch.no_grad():
        for _ in range(30):
            network(torch.rand(8, 3, 32, 32))
    file = tmp_path_factory.mktemp("weights") / "some.pth"
    torch.save(network.state_dict(), file)
    return ["backbone=torchvision", f"backbone.name={NAME}", f"backbone.weights={file}", "backbone.size=32"]


def without_features_and_with_them(
    asked: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results of a run in the folder `none` and of one in `auto`, which alone has to have said so."""
    for features in ("none", "auto"):
        main(["train", *asked, f"features={features}", f"hydra.run.dir={features}"])
        assert (said in capsys.readouterr().out) is (features == "auto")
    slow, fast = (json.loads(Path(name, "results.json").read_text()) for name in ("none", "auto"))
    return slow, fast


@pytest.mark.thorough
@pytest.mark.parametrize("choices", [["algorithm=protonet", "algorithm.learn_scale=true"], ["algorithm=anil"]])
def test_a_run_on_features_comes_to_the_same_numbers(
    choices: list[str],
    frozen: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    slow, fast = without_features_and_with_them([*choices, *frozen, *RUN], "each image passes it once", capsys)
    assert fast["test"]["loss"] == pytest.approx(slow["test"]["loss"], rel=1e-4, abs=1e-5)
    assert fast["val"]["accuracy"] == pytest.approx(slow["val"]["accuracy"], abs=0.05)
    weights = [torch.load(f"{name}/last.pt", weights_only=True)["model"] for name in ("none", "auto")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-5)
    assert len(list(Path("cache/features").iterdir())) == 3  # one for each split


@pytest.mark.thorough
def test_a_resumed_run_goes_on_with_the_same_features(
    frozen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = ["train", "algorithm=protonet", "algorithm.learn_scale=true", *frozen, *RUN, "train.schedule=constant"]
    main([*run, "hydra.run.dir=whole"])
    main([*run, "hydra.run.dir=parts", "train.steps=2"])
    main(["train", "--resume", "parts", "train.steps=4"])
    states = [torch.load(f"{name}/last.pt", weights_only=True)["model"] for name in ("whole", "parts")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_what_changes_is_not_kept(easy: ImageClasses, frozen: list[str]) -> None:
    source, validation = (easy.source(split, 0, torch.device("cpu")) for split in ("train", "val"))
    augmented = easy.source("train", 0, torch.device("cpu"), {"degrees": 5.0})
    # What each image passes once: nothing, all, or what lies before the last block, of training images alone.
    for train, of_training, of_validation in (("all", False, False), ("none", True, True), ("last_block", True, False)):
        algorithm = build_algorithm(
            compose("algorithm=protonet", "train.steps=0", *frozen, f"backbone.train={train}"), easy
        )
        learner, tasks = embedded_once(algorithm, source, "auto", training=True)
        assert (learner is not algorithm) is (tasks is not source) is of_training
        assert (embedded_once(algorithm, validation, "auto", training=True)[0] is not algorithm) is of_validation
        assert embedded_once(algorithm, augmented, "auto", training=True) == (algorithm, augmented)
        assert embedded_once(algorithm, source, "none") == (algorithm, source)
        assert embedded_once(learner, tasks, "auto")[0] is learner or not of_training


@pytest.mark.thorough
@pytest.mark.parametrize(
    "choices",
    [
        ["algorithm=nearest_centroid", "algorithm.learn_scale=true"],  # which centres by all training images
        ["algorithm=finetune", "algorithm.lr=0.01", "algorithm.steps=1"],
    ],
)
def test_fixed_layers_before_a_last_block_that_learns_are_passed_once_and_change_no_number(
    choices: list[str],
    frozen: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    asked = [*choices, *frozen, *RUN, "backbone.train=last_block"]
    asked += ["train.optimizer=sgd", "train.lr=0.01"]  # Adam would make whole steps of what is rounding
    said = "each training image passes the layers that stay as they are once"
    slow, fast = without_features_and_with_them(asked, said, capsys)
    assert fast["test"]["loss"] == pytest.approx(slow["test"]["loss"], rel=1e-3, abs=1e-4)
    weights = [torch.load(f"{name}/last.pt", weights_only=True)["model"] for name in ("none", "auto")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-2, atol=1e-4)
    started = torch.load(frozen[2].partition("=")[2], weights_only=True)
    last, first = weights[1]["backbone.body.conv5.0.weight"], weights[1]["backbone.body.conv1.0.weight"]
    assert not torch.equal(last, started["conv5.0.weight"])
    assert torch.equal(first, started["conv1.0.weight"])
    assert not Path("cache/features").exists()  # what belongs to weights that change is kept nowhere
