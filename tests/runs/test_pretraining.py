"""What results say of test classes that the backbone's pre-training saw, from the class identities to the tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchvision import models

from metalearn.backbones.base import PretrainedOn
from metalearn.backbones.pretraining_data import UNKNOWN, imagenet1k
from metalearn.cli.main import main
from metalearn.data.classes import read_split
from metalearn.report.seen import marks, pretraining_text
from metalearn.runs.seen import seen_in_pretraining

BIRDS = PretrainedOn(
    "Birds", "birds", {"b1": ("indigo bunting", "indigo finch"), "b2": ("house finch",), "b3": ("crane",)}
)


def test_all_classes_of_miniimagenet_are_in_imagenet1k() -> None:
    tested = [f"imagenet:{name}" for name in read_split("miniimagenet", "ravi").classes["test"]]
    entry = seen_in_pretraining(imagenet1k(), tested)
    assert entry is not None
    assert (entry["classes"], entry["of"], entry["by"]) == (20, 20, "identity")
    assert marks({"seen_in_pretraining": entry}) == " (20 of 20 classes in pre-training)"
    assert pretraining_text(entry) == "20 of 20 test classes were in the pre-training data (ImageNet-1k)"


def test_classes_of_other_images_are_known_by_name() -> None:
    tested = ["cub:014.Indigo_Bunting", "cub:002.Laysan_Albatross", "cub:044.House-Finch@90", "cub:044.House-Finch"]
    entry = seen_in_pretraining(BIRDS, tested)
    assert entry == {
        "data": "Birds",
        "classes": 2,
        "of": 3,
        "by": "name",
        "such_as": ["014.Indigo_Bunting", "044.House-Finch"],
    }
    assert pretraining_text(entry) == "2 of 3 test classes have the name of a class of the pre-training data (Birds)"
    assert (
        marks({"seen_classes": 1, "seen_in_pretraining": entry})
        == " (1 CLASSES SEEN) (2 of 3 classes in pre-training by name)"
    )


def test_identity_counts_more_than_the_name() -> None:
    entry = seen_in_pretraining(BIRDS, ["birds:b3", "birds:b9"])
    assert entry is not None
    assert (entry["classes"], entry["by"]) == (1, "identity")


def test_nothing_is_said_where_there_was_no_pretraining_or_are_no_classes() -> None:
    assert seen_in_pretraining(None, ["cub:014.Indigo_Bunting"]) is None
    assert seen_in_pretraining(BIRDS, []) is None
    assert marks({"seen_classes": 0}) == ""


def test_unknown_data_may_hold_every_class() -> None:
    entry = seen_in_pretraining(UNKNOWN, ["cub:a", "cub:b"])
    assert entry is not None
    assert (entry["classes"], entry["of"]) == (None, 2)
    assert marks({"seen_in_pretraining": entry}) == " (pre-training data unknown)"
    assert "may have been in it" in pretraining_text(entry)


def test_none_seen_is_said_but_not_marked() -> None:
    entry = seen_in_pretraining(BIRDS, ["cub:001.Albatross"])
    assert entry is not None
    assert marks({"seen_in_pretraining": entry}) == ""
    assert pretraining_text(entry) == "none of 1 test classes have the name of a class of the pre-training data (Birds)"


@pytest.mark.thorough
def test_a_run_on_weights_of_a_file_says_so_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(models.get_model("shufflenet_v2_x0_5", weights=None).state_dict(), "some.pth")
    pretrained = [
        "backbone=torchvision",
        "backbone.name=shufflenet_v2_x0_5",
        "backbone.weights=some.pth",
        "backbone.size=32",
    ]
    tiny = [
        "dataset.classes=30",
        "dataset.val_classes=8",
        "dataset.test_classes=8",
        "train.task_chunk=1",
        "train.val_tasks=2",
    ]
    steps = ["train.steps=2", "train.val_every=2", "train.meta_batch_size=1", "eval.tasks=4", "task.train.ways=5"]
    normalize = "dataset.normalize={mean: [0.5], std: [0.5]}"
    main(
        [
            "train",
            "algorithm=protonet",
            "backbone.train=last_block",
            *pretrained,
            *tiny,
            *steps,
            normalize,
            "hydra.run.dir=run",
        ]
    )
    said = capsys.readouterr().out
    assert "the backbone was pre-trained on data that nobody stated: the 8 test classes may have been in it" in said
    results = json.loads(Path("run/results.json").read_text())
    assert results["test"]["seen_in_pretraining"] == {
        "data": UNKNOWN.name,
        "classes": None,
        "of": 8,
        "by": None,
        "such_as": [],
    }
    state = torch.load("run/last.pt", weights_only=True)
    assert state["trained_on"]["normalize"] is None  # left to the backbone

    Path("some.pth").unlink()  # the checkpoint stands for the file
    main(["eval", "run", "eval.checkpoint=last"])
    (evaluated,) = Path("run").glob("eval-*.json")
    again = json.loads(evaluated.read_text())["test"]
    assert again["seen_in_pretraining"] == results["test"]["seen_in_pretraining"]
    assert again["loss"] == pytest.approx(results["test"]["loss"], rel=1e-4)
    capsys.readouterr()
    main(["runs", "run"])
    assert "pre-training data unknown" in " ".join(capsys.readouterr().out.split())
    main(["compare", "run"])
    assert "pre-training data unknown" in " ".join(capsys.readouterr().out.split())
