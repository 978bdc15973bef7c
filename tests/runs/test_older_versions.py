"""Run directories that version 0.1.0 wrote, before the packages were split, are evaluated, resumed and continued as they were by it."""

from __future__ import annotations

import copy
import inspect
import json
import shutil
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from metalearn.algorithms.matching import MatchingNet
from metalearn.algorithms.protonet import ProtoNet
from metalearn.cli.main import main
from metalearn.compose.composer import composer
from metalearn.config.build import build
from metalearn.config.identity import differences
from metalearn.config.moved import present_name, with_added
from metalearn.runs.directory import read_config
from metalearn.runs.record import read_results
from metalearn.sweeps.directory import changes
from tests.compose import compose
from tests.data.sets.test_omniglot import write_zips

WRITTEN = Path(__file__).parent / "of_version_0_1_0"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old directories in an empty working directory."""
    shutil.copytree(WRITTEN, tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


@pytest.mark.parametrize("name", ["protonet", "maml"])
def test_eval_comes_to_the_same_number(old: Path, name: str) -> None:
    main(["eval", f"outputs/{name}"])
    (written,) = (old / name).glob("eval-*.json")
    now, then = json.loads(written.read_text())["test"], read_results(old / name)["test"]
    # One of 20 tasks x 75 queries may fall otherwise by another machine's rounding.
    assert now["accuracy"] == pytest.approx(then["accuracy"], abs=2 / 1500)
    assert now["loss"] == pytest.approx(then["loss"], rel=1e-3)
    assert (now["tasks"], now["step"]) == (then["tasks"], then["step"])


@pytest.mark.parametrize("name", ["protonet", "maml"])
def test_a_run_goes_on_for_longer(old: Path, name: str) -> None:
    before = (old / name / "metrics.csv").read_text()
    main(["train", "--resume", f"outputs/{name}", "train.steps=30"])
    assert read_results(old / name)["train"]["steps"] == 30
    after = (old / name / "metrics.csv").read_text()
    rows = [line for line in before.splitlines()[1:] if line.split(",")[0] != "20"]
    assert all(row in after for row in rows)


def test_a_sweep_is_taken_up_under_its_own_command(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the values of defaults that are others today: the sweep's jobs stay what they were."""
    shutil.rmtree(old / "sweep" / "seed=1")
    record = json.loads((old / "sweep" / "sweep.json").read_text())
    (command,) = record["commands"]
    kept = (old / "sweep" / "seed=0" / "results.json").read_text()
    with pytest.raises(SystemExit, match="2"):
        main(command.split()[1:])
    assert "was stored with algorithm.scale=1.0, now auto:" in capsys.readouterr().err
    main([*command.split()[1:], "algorithm.scale=1.0"])
    assert "2 jobs, 1 of them done" in capsys.readouterr().out
    assert read_results(old / "sweep" / "seed=1")["status"] == "done"
    assert (old / "sweep" / "seed=0" / "results.json").read_text() == kept


def test_what_moved_is_found_under_its_old_name() -> None:
    for file in WRITTEN.rglob("*.yaml"):
        config = yaml.safe_load(file.read_text())
        for group in ("algorithm", "backbone", "dataset"):
            module, _, name = present_name(config[group]["_target_"]).rpartition(".")
            assert hasattr(__import__(module, fromlist=[name]), name), f"{file}: {group}"
    assert present_name("metalearn.algorithms.maml.MAML") == "metalearn.algorithms.maml.MAML"


def test_omniglot_is_built_from_an_old_configuration(tmp_path: Path) -> None:
    from metalearn.data.base import Dataset

    write_zips(tmp_path)
    node = read_config(WRITTEN / "omniglot")["dataset"] | {"root": str(tmp_path), "split": "random"}
    assert node["_target_"] == "metalearn.data.omniglot.load"
    assert build(node, "dataset", Dataset, "metalearn.data").name == "omniglot"


@pytest.mark.thorough
def test_a_run_without_a_younger_setting_keeps_its_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MANN read before it wrote, and wrote its read keys, before there were settings for it."""
    monkeypatch.chdir(tmp_path)
    small = [f"algorithm.{key}=8" for key in ("controller_size", "memory_slots", "memory_width")]
    then_meant = {"order": "read_first", "write_vectors": "key", "empty_length": 1e-4, "initial": "plain"}
    other = ["algorithm.read_heads=2", *(f"algorithm.{key}={value}" for key, value in then_meant.items())]
    few = [
        "train.steps=4",
        "eval.tasks=10",
        "eval.pictures=0",
        "train.val_tasks=10",
        "train.lr=0.01",
        "task.queries=2",
        "dataset.size=12",
    ]
    main(["train", "algorithm=mann", "backbone=pixels", *small, *other, *few, "hydra.run.dir=run"])
    then = read_results(tmp_path / "run")["test"]
    file = tmp_path / "run" / "config.yaml"
    stored = yaml.safe_load(file.read_text())
    assert {key: stored["algorithm"].pop(key) for key in then_meant} == then_meant
    file.write_text(yaml.safe_dump(stored))
    main(["eval", "run"])
    (written,) = (tmp_path / "run").glob("eval-*.json")
    now = json.loads(written.read_text())["test"]
    assert (now["accuracy"], now["loss"]) == (then["accuracy"], then["loss"])
    main(["train", "--resume", "run", "train.steps=6"])
    assert read_results(tmp_path / "run")["train"]["steps"] == 6
    assert yaml.safe_load(file.read_text())["algorithm"]["order"] == "read_first"


def test_only_a_younger_setting_is_filled_in() -> None:
    node = {
        "_target_": "metalearn.algorithms.mann.MANN",
        "order": "write_first",
        "empty_length": 0.1,
        "initial": "images",
    }
    assert with_added(node) == {**node, "write_vectors": "key"}
    assert with_added({"_target_": "metalearn.algorithms.anil.ANIL"}) == {"_target_": "metalearn.algorithms.anil.ANIL"}
    assert differences({"algorithm": node}, {"algorithm": {**node, "write_vectors": "key"}}) == {}
    assert differences({"algorithm": {"_target_": node["_target_"]}}, {"algorithm": node}) == {
        "algorithm.order": ("read_first", "write_first"),
        "algorithm.empty_length": (1e-4, 0.1),
        "algorithm.initial": ("plain", "images"),
    }


def test_a_younger_setting_with_another_value_today_is_filled_in_as_it_was() -> None:
    """Not what its choice says today: MAML++'s own value of norm_parameters came later."""
    now = compose("algorithm=mamlpp")
    stored = copy.deepcopy(now)
    assert stored["algorithm"].pop("norm_parameters") == "per_step"
    with composer() as composing:
        evaluated = composing.evaluation(OmegaConf.create(stored), ["eval.tasks=10"])
        resumed = composing.resumption(OmegaConf.create(stored), [], "the run")
    assert evaluated["algorithm"] == resumed["algorithm"] == stored["algorithm"] | {"norm_parameters": "adapted"}
    assert changes(stored, now) == ["algorithm.norm_parameters=adapted, now per_step"]
    assert changes(stored, evaluated | {"eval": now["eval"]}) == []


@pytest.mark.parametrize("made", [MatchingNet, ProtoNet])
def test_code_that_knew_no_scale_means_what_configurations_without_one_mean(made: type) -> None:
    added = with_added({"_target_": f"{made.__module__}.{made.__name__}"})
    defaults = {name: p.default for name, p in inspect.signature(made).parameters.items()}
    for name, value in (("scale", 1.0), ("learn_scale", False)):
        assert added[name] == defaults[name] == value
