"""`train.init`: what is taken of an earlier run, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models

from metalearn.engine.build import build_algorithm, build_dataset
from metalearn.errors import UserError
from metalearn.runs import checkpoint
from metalearn.runs.initial import read_initial, start_from
from metalearn.runs.preflight import preflight
from metalearn.runs.run import run
from tests.compose import compose
from tests.runs.test_resume import CPU, TINY


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("earlier")
    run(compose(*TINY, "train.steps=2"), run_dir)
    return run_dir


def fresh(*overrides: str) -> tuple[Any, dict[str, Any]]:
    """A learner, and its settings."""
    config = compose(*TINY, *overrides)
    return build_algorithm(config, build_dataset(config)), config["algorithm"]


def test_the_same_learner_takes_everything(earlier: Path) -> None:
    state, (algorithm, settings) = read_initial(str(earlier)), fresh("seed=5")
    line = start_from(algorithm, settings, state, "there")
    assert line == f"train.init: {len(state['model'])} of {len(state['model'])} tensors from there"
    assert all(torch.equal(state["model"][name], value) for name, value in algorithm.state_dict().items())


def test_another_learner_takes_the_backbone(earlier: Path) -> None:
    state = read_initial(str(earlier / "last.pt"))
    algorithm, settings = fresh("algorithm=maml", "backbone.running_stats=false")
    line = start_from(algorithm, settings, state, "there")
    assert "not found there" in line
    weights = {
        name: value for name, value in algorithm.state_dict().items() if name.endswith("backbone.blocks.0.weight")
    }
    for name, value in weights.items():
        assert torch.equal(value, state["model"][name[name.find("backbone.") :]])


def test_a_learned_scale_is_taken_only_of_the_same_distance(earlier: Path) -> None:
    learned, settings = fresh("algorithm.learn_scale=true")
    state = read_initial(str(earlier)) | {"config": {"algorithm": settings}}
    state["model"] = learned.state_dict() | {"scale.log": torch.tensor(-6.0)}
    same, other = fresh("algorithm.learn_scale=true"), fresh("algorithm=finetune")
    assert "not found there" not in start_from(*same, state, "there")
    assert "not found there: chosen, scale.log" in start_from(*other, state, "there")
    assert same[0].scale.log.item() == -6.0
    assert other[0].scale.log.exp().item() == pytest.approx(10.0)
    weights = dict(other[0].named_parameters())
    assert torch.equal(weights["backbone.blocks.0.weight"], learned.backbone.blocks[0].weight)


def test_what_cannot_serve_is_refused(earlier: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.init=.*nothing: no checkpoint"):
        read_initial(str(tmp_path / "nothing"))
    state = {"model": {"other": torch.zeros(3)}, "config": {"algorithm": {}}}
    with pytest.raises(UserError, match=r"train\.init=there: no weight there has the name and shape"):
        start_from(torch.nn.Linear(2, 2), {}, state, "there")
    config = compose(*TINY)
    tested = [str(class_) for class_ in build_dataset(config).classes("test")]
    checkpoint.save(tmp_path / "leak.pt", read_initial(str(earlier)) | {"train_classes": tested[:2]})
    config["train"]["init"] = str(tmp_path / "leak.pt")
    with pytest.raises(UserError, match="2 of these test classes were training classes"):
        preflight(config)


def test_the_earlier_runs_classes_count_as_trained_on(earlier: Path, tmp_path: Path) -> None:
    run(compose(*TINY, "train.steps=2", f"train.init={earlier}", "seed=3"), tmp_path)
    before, after = (checkpoint.load(where / "last.pt", CPU) for where in (earlier, tmp_path))
    assert set(before["train_classes"]) <= set(after["train_classes"])
    assert "train.init: " not in str(after["model"].keys())


@pytest.mark.thorough
@pytest.mark.parametrize("trained", ["backbone.train=last_block", "backbone.lora_rank=2"])
def test_what_was_meta_trained_of_a_network_is_fine_tuned_without_its_file(trained: str, tmp_path: Path) -> None:
    network = ["backbone=torchvision", "backbone.name=shufflenet_v2_x0_5", "backbone.size=32", trained]
    tiny = [setting for setting in TINY if not setting.startswith("backbone.")]
    torch.manual_seed(3)
    file = tmp_path / "weights.pth"
    torch.save(models.get_model("shufflenet_v2_x0_5", weights=None).state_dict(), file)
    meta_trained, fine_tuned = tmp_path / "m", tmp_path / "f"
    of_file = [f"backbone.weights={file}", "backbone.pretrained_on=imagenet1k"]
    run(compose(*tiny, *network, *of_file, "algorithm.learn_scale=true", "train.steps=2"), meta_trained)
    file.unlink()
    fine_tuning = ["algorithm=finetune", "algorithm.steps=1", "algorithm.lr=0.01", "train.steps=0"]
    run(compose(*tiny, *network, "backbone.weights=none", *fine_tuning, f"train.init={meta_trained}"), fine_tuned)
    before, after = (checkpoint.load(where / "best.pt", CPU)["model"] for where in (meta_trained, fine_tuned))
    assert {name for name in after if name not in before} == {"chosen"}
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items() if name.startswith("backbone."))
    assert after["scale.log"].exp().item() == pytest.approx(10.0)
    results = json.loads((fine_tuned / "results.json").read_text())
    assert results["test"]["adapt_steps"] == 1
    assert results["test"]["seen_in_pretraining"]["data"] == "ImageNet-1k"
