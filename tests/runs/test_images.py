"""Whole runs with images on the device and in their file: the same numbers, and each says where its images were."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from metalearn.cli.main import main
from tests.runs.test_run import TINY, evals, failing, metrics

COLOURS = ["train.augment.crop=0.3", "train.augment.brightness=0.2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(name: str, *overrides: str) -> dict[str, Any]:
    main(["train", *TINY, *COLOURS, *overrides, f"hydra.run.dir={name}"])
    record: dict[str, Any] = json.loads((Path(name) / "results.json").read_text())
    return record


def test_a_mapped_run_is_the_resident_one_bit_for_bit() -> None:
    resident, mapped = train("device", "images=auto"), train("mapped", "images=mapped")
    assert mapped["test"] | {"seconds": 0} == resident["test"] | {"seconds": 0}
    assert metrics(Path("mapped")) == metrics(Path("device"))
    assert mapped["config_hash"] == resident["config_hash"], "where images lie is no other question"
    assert resident["placement"]["place"] == "device"
    assert "at most half of" in resident["placement"]["why"]
    assert mapped["placement"] == {
        "place": "mapped",
        "mib": round(40 * 20 * 28 * 28 / 2**20, 1),
        "why": "1 MiB; images=mapped",
    }
    assert (
        "images: in their file, those of the next tasks gathered by a thread (1 MiB; images=mapped)"
        in Path("mapped/run.log").read_text()
    )
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("metalearn-ahead")]


@pytest.mark.thorough
def test_a_resident_run_is_resumed_and_evaluated_with_mapped_images() -> None:
    straight = train("straight", "train.schedule=constant", "train.steps=9")
    train("run", "train.schedule=constant")
    main(["train", "--resume", "run", "train.steps=9", "images=mapped"])
    resumed = json.loads(Path("run/results.json").read_text())
    assert resumed["placement"]["place"] == "mapped"
    assert resumed["test"] | {"seconds": 0} == straight["test"] | {"seconds": 0}
    assert metrics(Path("run")) == metrics(Path("straight"))
    main(["eval", "run", "images=device"])
    main(["eval", "run"])
    device, mapped = evals(Path("run"))
    assert (device["placement"]["place"], mapped["placement"]["place"]) == ("device", "mapped")
    assert device["test"] == mapped["test"]


def test_a_run_that_is_older_than_the_setting_goes_on() -> None:
    train("run", "train.schedule=constant")
    file = Path("run/config.yaml")
    stored = yaml.safe_load(file.read_text())
    assert stored.pop("images") == "auto"
    for key in ("crop", "flip", "brightness", "contrast", "saturation", "hue"):
        stored["train"]["augment"].pop(key)
    file.write_text(yaml.safe_dump(stored))
    main(["eval", "run"])
    (evaluated,) = evals(Path("run"))
    assert evaluated["test"]["accuracy"] == json.loads(Path("run/results.json").read_text())["test"]["accuracy"]


def test_no_images_to_map_is_one_line_before_anything_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing("train", "dataset=sinusoid", "algorithm=maml", "images=mapped", "hydra.run.dir=run") == 2
    assert "images=mapped: sinusoid makes its examples" in capsys.readouterr().err
    assert not Path("run").exists()
    assert failing("train", "images=disk", "hydra.run.dir=run") == 2
    assert "images=disk is not allowed (auto or device or mapped)" in capsys.readouterr().err
