"""A package of the user's own, trained and evaluated through the command line without an edit elsewhere."""

from __future__ import annotations

import csv
import os
import re
import sys
from pathlib import Path

import pytest
import yaml

from metalearn.cli.main import main
from metalearn.config import plugins
from metalearn.engine.build import _dataset
from metalearn.runs.record import read_results
from metalearn.sweeps.directory import SweepDir
from metalearn.sweeps.summary import write_summary

TINY = (
    *(
        "train.steps=2",
        "train.val_every=2",
        "train.val_tasks=2",
        "train.task_chunk=1",
        "eval.tasks=2",
        "eval.pictures=0",
    ),
    *("task.queries=1", "backbone.filters=8"),
)
FILES = {
    "__init__.py": "",
    "learner.py": """
from metalearn.algorithms.protonet import ProtoNet

class Mine(ProtoNet):
    def __init__(self, backbone, factor: float):
        super().__init__(backbone)
        self.factor = factor
""",
    "faulty.py": "from metalearn.algorithms.protonet import ProtoNet\nclass Faulty(ProtoNet):\n"
    "    def __init__(self, backbone):\n        first, second = (1, 2, 3)\n",
    "signs.py": """
from metalearn.data.base import Dataset
from metalearn.data.sets import glyphs

def load(classes: int) -> Dataset:
    return glyphs.load(classes=classes, drawers=4, size=16, seed=1, val_classes=6, test_classes=6)
""",
    "stopping.py": """
from metalearn.algorithms.protonet import ProtoNet

class Stopping(ProtoNet):
    def meta_loss(self, tasks):
        raise KeyboardInterrupt
""",
    "conf/algorithm/stopping.yaml": "_target_: mylab.stopping.Stopping\nlimits: {}\n",
    "absolute.py": """
from typing import ClassVar

from metalearn.algorithms.maml import MAML
from metalearn.data.sets.sinusoid import Sinusoid
from metalearn.kinds import Kind

def error(outputs, y):
    return (outputs - y).abs().flatten(1).mean(1)

MAE = Kind("absolute error", "mae", False, percent=False, loss=error, score_of=error)

class Learner(MAML):
    kinds: ClassVar = (MAE,)

class Waves(Sinusoid):
    def __init__(self, **intervals):
        super().__init__(**intervals)
        self.name, self.kind = "waves", MAE
""",
    "conf/algorithm/absolute.yaml": "defaults: [maml]\n_target_: mylab.absolute.Learner\n",
    "conf/dataset/waves.yaml": "defaults: [sinusoid]\n_target_: mylab.absolute.Waves\n",
    "conf/algorithm/my_learner.yaml": "_target_: mylab.learner.Mine\nfactor: 2.0\n"
    "prefers: {task.train.ways: 3}\nlimits: {factor: float > 0}\n",
    "conf/algorithm/faulty.yaml": "_target_: mylab.faulty.Faulty\nlimits: {}\n",
    "conf/dataset/signs.yaml": "_target_: mylab.signs.load\nclasses: 30\nlimits: {classes: int >= 20}\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package `mylab`, importable here and in child processes, trusted by nobody; the working directory is empty."""
    home = tmp_path / "home"
    for name, text in FILES.items():
        file = home / "mylab" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(home)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv(plugins.VARIABLE, "")
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        monkeypatch.delitem(sys.modules, name)
    _dataset.cache_clear()  # it may hold an object of an earlier test's package
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return home


def leaves_with(*argv: str) -> int:
    try:
        main(list(argv))
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def test_trains_and_is_evaluated_only_where_it_is_trusted(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path("run")
    choices = ("algorithm=my_learner", "dataset=signs", "hydra.run.dir=run")
    assert leaves_with("train", *choices, *TINY) == 2
    assert "no algorithm named 'my_learner'" in capsys.readouterr().err
    assert leaves_with("train", "--plugins", "mylab", *choices, *TINY) == 0
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["plugins"], config["task"]["train"]["ways"]) == (["mylab"], 3)
    results = read_results(run)
    assert (results["status"], results["algorithm"], results["dataset"]) == ("done", "my_learner", "signs")
    monkeypatch.setenv(plugins.VARIABLE, "")
    capsys.readouterr()
    for command in (["eval", "run"], ["train", "--resume", "run"]):
        assert leaves_with(*command) == 2
        assert "if you trust that package, give --plugins mylab" in capsys.readouterr().err
    assert leaves_with("eval", "run", "--plugins=mylab", "algorithm.factor=3.0") == 0
    monkeypatch.setenv(plugins.VARIABLE, "mylab")
    assert leaves_with("train", "--resume", "run") == 0


@pytest.mark.thorough
def test_the_processes_of_a_sweep_know_it(package: Path) -> None:
    command = ("train", "-m", "--plugins", "mylab", "algorithm=my_learner", "dataset=signs", "seed=0,1")
    assert leaves_with(*command, "sweep.jobs=2", "sweep_name=both", *TINY) == 0
    runs = sorted(Path("outputs/multirun/both").rglob("results.json"))
    assert [read_results(file.parent)["status"] for file in runs] == ["done", "done"]
    (again,) = [
        line for line in Path("outputs/multirun/both/sweep.json").read_text().splitlines() if "--plugins" in line
    ]
    assert "mylab" in again


def test_it_brings_a_kind_of_task(
    package: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = (
        "train",
        "-m",
        "--plugins",
        "mylab",
        "algorithm=absolute",
        "dataset=waves",
        "seed=0,1",
        "sweep_name=waves",
    )
    steps = (
        "train.steps=4",
        "train.val_every=1",
        "train.val_tasks=4",
        "train.lr=0.3",
        "train.task_chunk=4",
        "eval.tasks=4",
    )
    assert leaves_with(*command, *steps, "train.meta_batch_size=2") == 0
    sweep = Path("outputs/multirun/waves")
    results = read_results(sweep / "seed=0")
    with open(sweep / "seed=0" / "metrics.csv", newline="") as file:
        errors = [float(row["val/mae"]) for row in csv.DictReader(file) if row["val/mae"]]
    assert results["kind"] == {"name": "absolute error", "score": "mae", "higher_is_better": False, "percent": False}
    assert len(errors) == 4
    assert min(errors) < max(errors)
    assert results["val"]["mae"] == pytest.approx(min(errors), rel=1e-6)
    said = (sweep / "seed=0" / "run.log").read_text()
    assert re.search(r"step 4/4 \(100 %\)  loss [\d.]+  mae [\d.]+  val [\d.]+", said)
    test = f"{results['test']['mae']:.4f} ± {results['test']['ci95']:.4f}"
    assert test in capfd.readouterr().out
    monkeypatch.setenv(plugins.VARIABLE, "")  # the summary is read without the package
    write_summary(SweepDir(sweep))
    assert f"| [run](seed=0) | 0 | done | {test} |" in (sweep / "summary.md").read_text()
    assert leaves_with("eval", str(sweep / "seed=0"), "--plugins", "mylab") == 0
    assert f"test 10-shot: mae {test} (95 % interval" in capfd.readouterr().out


def test_an_algorithm_for_other_kinds_names_those_that_can(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert leaves_with("train", "--plugins", "mylab", "algorithm=maml", "dataset=waves") == 2
    message = "algorithm=maml cannot learn absolute error tasks (dataset=waves); those that can: absolute"
    assert message in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_a_run_that_stops_says_how_to_resume_it_with_the_package(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leaves_with("train", "--plugins", "mylab", "algorithm=stopping", "hydra.run.dir=run", *TINY) == 130
    assert f"to go on: metalearn train --resume {Path('run').resolve()} --plugins mylab\n" in capsys.readouterr().out


def test_a_fault_in_a_plugin_keeps_its_place(package: Path) -> None:
    with pytest.raises(ValueError, match="too many values to unpack"):
        main(["train", "--plugins", "mylab", "algorithm=faulty", *TINY])
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", ["mylabb", "os", "../mylab", "metalearn", "metalearn.errors", "no.where", ""])
def test_what_is_no_package_is_refused(name: str, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert leaves_with("train", "--plugins", name) == 2
    assert capsys.readouterr().err.startswith("metalearn: error: --plugins")


def test_an_installed_package_is_found_by_its_entry_point(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = package / "mylab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[metalearn.plugins]\nmylab = mylab\n")
    plugins._installed.cache_clear()
    try:
        assert plugins.trusted() == ("mylab",)
        assert leaves_with("train", "--cfg", "job", "algorithm=my_learner") == 0
    finally:
        plugins._installed.cache_clear()


def test_a_run_directory_makes_no_package_trusted(package: Path) -> None:
    from metalearn.config.build import build
    from metalearn.errors import UserError

    with pytest.raises(UserError, match="code of your own: --plugins PACKAGE"):
        build({"_target_": "mylab.learner.Mine"}, "algorithm", object, "metalearn.algorithms")
    assert "mylab" not in sys.modules
