"""`metalearn reproduce`: an experiment's published numbers, and what a run of it came to."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import metalearn
from metalearn.cli.main import main
from metalearn.config.files import choices, conf_dir
from metalearn.errors import UserError
from metalearn.kinds import REGRESSION
from metalearn.report import results as shown
from metalearn.report import terminal
from metalearn.runs.reference import Row, read_reference
from metalearn.runs.reproduce import changed_settings, departures, evaluation_modes, other_question
from metalearn.runs.reproduce_seeds import over_seeds
from metalearn.sweeps.directory import SweepDir
from tests.compose import compose

ROW = {"score": "accuracy", "transductive": None, "reported": 50.0, "interval": 0.5, "band": 0.0}
TINY = """\
# @package _global_
defaults:
  - override /algorithm: {algorithm}
dataset: {{classes: 40, val_classes: 8, test_classes: 12}}
backbone: {{filters: 4}}
task: {{queries: 3, train: {{ways: 5, queries: 2}}}}
train: {{steps: 4, meta_batch_size: 2, task_chunk: 1, val_every: 2, val_tasks: 4, checkpoint_every: 2}}
eval: {{tasks: 6, pictures: 0}}
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def experiment(algorithm: str, rows: dict[str, dict[str, Any]], **more: Any) -> None:
    """Writes the experiment `own/experiment/tiny.yaml`, seconds to train, and its published numbers."""
    reference = {
        "paper": "Somebody 2021, A Paper",
        "table": "table 7",
        "url": "https://example.org",
        "interval_over": "seeds",
        "rows": {name: ROW | row for name, row in rows.items()},
        "differences": {"steps": "4 steps; theirs 40,000", "gone": None},
    }
    for folder in ("experiment", "reference"):
        Path("own", folder).mkdir(parents=True)
    Path("own/experiment/tiny.yaml").write_text(TINY.format(algorithm=algorithm))
    Path("own/reference/tiny.yaml").write_text(json.dumps(reference | more))


def reproduce(*arguments: str, run_dir: str = "run") -> dict[str, Any]:
    place = [] if "--run" in arguments else [f"hydra.run.dir={run_dir}"]
    main(["reproduce", "tiny", "--config-dir", "own", *arguments, *place])
    record: dict[str, Any] = json.loads((Path(run_dir) / "reproduction.json").read_text())
    return record


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        main(["reproduce", *argv])
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("metalearn: error: ")


# --- the reference ----------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("name", choices("experiment"))
def test_every_shipped_experiment_says_what_it_reproduces(name: str) -> None:
    reference = read_reference(compose(f"experiment={name}"))
    assert reference.url.startswith("https://")
    assert reference.differences
    for row in reference.rows:
        assert (row.band is None) is (row.reported is None), row
        assert row.interval is None or reference.interval_over is not None, row
        if row.band is not None and row.reported is not None:
            if row.score == REGRESSION.score:  # an error: the band allows for a larger one
                assert row.reported <= row.band <= 1.2 * row.reported, row
            else:
                assert row.reported - 5 <= row.band <= row.reported, row


@pytest.mark.thorough
@pytest.mark.parametrize("name", choices("experiment"))
def test_every_shipped_experiment_gives_its_algorithm_the_settings_that_it_takes(name: str) -> None:
    """One that starts from an experiment of another algorithm would keep that one's settings, and be refused when it is built."""
    node = compose(f"experiment={name}")["algorithm"]
    module, _, made = node["_target_"].rpartition(".")
    taken = inspect.signature(getattr(importlib.import_module(module), made)).parameters
    assert set(node) - {"_target_", "limits"} <= set(taken)


@pytest.mark.parametrize(
    ("band", "reported", "ours", "verdict"),
    [
        (98.0, 98.7, 98.0, "reproduced"),
        (98.0, 98.7, 97.999, "below the band"),
        (None, None, 97.0, "no published number"),
        (None, 98.7, 99.0, "no band"),
        (98.0, 98.7, None, "not scored"),
    ],
)
def test_verdict(band: float | None, reported: float | None, ours: float | None, verdict: str) -> None:
    assert Row("a", "accuracy", None, reported, None, band).verdict(ours) == verdict


@pytest.mark.parametrize(
    ("ours", "ci95", "verdict"),
    [(0.75, 0.0, "reproduced"), (0.751, 0.0, "above the band"), (0.5, 0.1, "reproduced"), (0.7, 0.1, "undecided")],
)
def test_of_an_error_the_band_is_the_largest_that_counts(ours: float, ci95: float, verdict: str) -> None:
    row = Row("a", "mse", None, 0.67, None, 0.75, after=1)
    assert row.verdict(ours, ci95, higher_is_better=False) == verdict


NODE = {"paper": "p", "table": "t", "url": "u", "interval_over": None, "rows": {"a": ROW}, "differences": {}}


def written(content: dict[str, Any], experiment: str = "mine", file: str = "mine") -> dict[str, Any]:
    """Writes `reference/FILE.yaml` here; returns a configuration of the experiment."""
    Path("reference").mkdir(exist_ok=True)
    Path("reference", f"{file}.yaml").write_text(json.dumps(content))
    return {"names": {"experiment": experiment}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": {"a": ROW | {"bnd": 1}}}, "no setting 'reference.rows.a.bnd'; did you mean 'band'?"),
        ({"papr": "p"}, "reference of experiment=mine: no setting 'papr'; did you mean 'paper'?"),
        ({"rows": {"a": ROW | {"band": -1}}}, "reference of experiment=mine: rows.a.band=-1 is not allowed"),
        ({"interval_over": "runs"}, "interval_over=runs is not allowed (null or tasks or seeds)"),
        ({"differences": {"x": 1}}, "differences.x=1 is not allowed (null or str)"),
        ({"like": "mine"}, "'like: mine' leads back to itself"),
        ({"like": "nobody2021"}, "reference: nothing is called 'nobody2021'"),
    ],
)
def test_a_slip_in_a_reference_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        read_reference(written(NODE | change), [Path()])


def test_a_file_that_is_no_mapping_is_refused() -> None:
    config = written({})
    for text in ("- a", "a: [1", ""):
        Path("reference/mine.yaml").write_text(text)
        with pytest.raises(UserError, match=r"mine\.yaml"):
            read_reference(config, [Path()])


def test_null_takes_a_row_or_a_difference_away() -> None:
    node = NODE | {"rows": {"a": ROW, "b": None}, "differences": {"x": "words", "y": None}}
    reference = read_reference(written(node), [Path()])
    assert [row.name for row in reference.rows] == ["a"]
    assert reference.differences == ("words",)


def test_a_cell_adds_to_its_file_and_a_file_to_what_it_is_like() -> None:
    base = NODE | {"differences": {"x": "of the base", "y": "stays"}, "cells": {"five": {"table": "not taken over"}}}
    written(base, file="base2020")
    cells = {"one": {"rows": {"a": {"reported": 60.0}}, "differences": {"x": "of the cell"}}, "two": None}
    own = {"like": "base2020", "paper": "another", "cells": cells}
    one, two = (read_reference(written(own, f"own2021/{cell}", "own2021"), [Path()]) for cell in ("one", "two"))
    assert (one.paper, one.table, one.rows[0].reported, one.rows[0].band) == ("another", "t", 60.0, ROW["band"])
    assert one.differences == ("of the cell", "stays")
    assert (two.rows[0].reported, two.differences) == (50.0, ("of the base", "stays"))
    short = {"cells": {"fast": {"like": "own2021/one", "differences": {"z": "shorter"}}}}
    fast = read_reference(written(short, "short/fast", "short"), [Path()])
    assert fast == one._replace(differences=("of the cell", "stays", "shorter"))
    with pytest.raises(UserError, match="experiment=own2021/three has no reference"):
        read_reference({"names": {"experiment": "own2021/three"}}, [Path()])


def test_a_reference_inside_a_configuration_of_an_earlier_version_is_read() -> None:
    assert read_reference({"names": {"experiment": "gone"}, "reference": NODE}).paper == "p"


@pytest.mark.thorough
@pytest.mark.parametrize("name", choices("experiment"))
def test_every_cell_belongs_to_an_experiment(name: str) -> None:
    folder = name.partition("/")[0]
    cells = yaml.safe_load((conf_dir() / "reference" / f"{folder}.yaml").read_text(encoding="utf-8"))["cells"]
    assert set(cells) == {other.partition("/")[2] for other in choices("experiment") if other.startswith(f"{folder}/")}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name.startswith(("wang2019/", "ziko2020/")) else pytest.mark.thorough)
        for name in choices("experiment")
    ],
)
def test_what_has_no_outer_steps_starts_from_an_experiment_that_gives_its_features(name: str) -> None:
    config = compose(f"experiment={name}")
    starts_from = read_reference(config).starts_from
    assert starts_from is not None or config["train"]["steps"] > 0
    if starts_from is not None:
        start = compose(f"experiment={starts_from}")
        assert start["train"]["steps"] > 0
        trained = {"train": config["backbone"].get("train")} if "train" in config["backbone"] else {}
        assert start["backbone"] | trained == config["backbone"], "the same network, of which less may be trained on"
        if start["names"]["dataset"] == config["names"]["dataset"]:  # else nothing learns on the data set of the test
            assert start["dataset"] == config["dataset"]


@pytest.mark.parametrize("name", [name for name in choices("experiment") if name.startswith("hu2022/")])
def test_what_starts_from_pretrained_weights_names_their_classes_and_says_so_first(name: str) -> None:
    config = compose(f"experiment={name}")
    assert config["backbone"]["pretrained_on"] == "imagenet1k"
    assert "pre-training saw" in read_reference(config).differences[0]


def test_a_number_whose_interval_reaches_the_band_is_undecided() -> None:
    row = Row("a", "accuracy", None, 98.7, None, 98.0)
    assert [row.verdict(ours, 0.3) for ours in (97.6, 97.8, 98.2, 98.4)] == [
        "below the band",
        "undecided",
        "undecided",
        "reproduced",
    ]


def test_every_verdict_has_its_colour() -> None:
    row = Row("a", "accuracy", None, 98.0, None, 97.5)
    verdicts = [row.verdict(98.0), row.verdict(90.0), row.verdict(97.5, 0.3), row.verdict(None)]
    verdicts += [row.verdict(98.0, 0.1, ["eval.tasks"])]
    assert [shown.verdict_style(verdict) for verdict in verdicts] == [
        "green",
        "bold red",
        "yellow",
        "bold red",
        "yellow",
    ]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["task.ways=2"], "not comparable: task.ways differs"),
        (["eval.tasks=4"], "not comparable: eval.tasks differs"),
        (["task.ways=2", "task.shots=5"], "not comparable: task.ways, task.shots differ"),
        (["dataset.classes=30"], "not comparable: dataset.classes differs"),
        (["algorithm=matching"], "not comparable: algorithm._target_ differs"),
        (["eval.transductive=false"], "not comparable: eval.transductive differs"),
        (["eval.tasks=2000", "train.lr=0.5", "train.steps=3", "seed=4", "device=cpu"], "reproduced"),
    ],
)
def test_another_question_gets_no_verdict(overrides: list[str], said: str) -> None:
    protocol = compose("algorithm=protonet", "eval.tasks=6")
    run = compose("algorithm=protonet", "eval.tasks=6", *overrides)
    row = Row("a", "accuracy", None, 98.7, None, 98.0)
    assert row.verdict(99.0, 0.1, other_question(protocol, run)) == said


def test_each_way_of_evaluating_is_asked_for_once() -> None:
    rows = {"a": ROW, "b": ROW | {"transductive": True}, "c": ROW | {"transductive": True}}
    reference = read_reference(written(NODE | {"rows": rows}), [Path()])
    config = {"seed": 3, "eval": {"tasks": 5, "transductive": None}}
    modes = evaluation_modes(reference, config)
    assert [mode["eval"] for mode in modes] == [{"tasks": 5, "transductive": t} for t in (None, True)]
    assert all(mode["seed"] == 3 for mode in modes)


def test_changed_settings_are_those_that_may_move_a_number() -> None:
    protocol = {"seed": 0, "device": "auto", "train": {"lr": 1.0, "steps": 9, "log_every": 5}, "names": {"a": "b"}}
    run = {"seed": 1, "device": "cpu", "train": {"lr": 0.5, "log_every": 1}, "names": {"a": "c"}, "new": 1}
    assert changed_settings(protocol, run) == {"train.lr": {"experiment": 1.0, "run": 0.5}}


def started(**of_start: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A run that started from `earlier`, a run of "first" with train.lr=1, and its departures where the protocol is `of_start`."""
    start = {"names": {"experiment": "first"}, "train": {"lr": 1.0, "steps": 5}}
    Path("earlier").mkdir(exist_ok=True)
    Path("earlier/config.yaml").write_text(yaml.safe_dump(start))
    protocol = {"train": {"init": None, "steps": 0}}
    run = {"train": {"init": "earlier", "steps": 0}}
    own = {"starts_from": "first"} | of_start
    reference = read_reference(written(NODE | own), [Path()])._replace(start=start | {"train": {"lr": 1.0, "steps": 5}})
    return run, departures(protocol, reference, run)


def test_the_place_of_the_run_that_it_starts_from_is_no_departure() -> None:
    assert started()[1] == {}


def test_a_run_of_another_experiment_to_start_from_is_one() -> None:
    assert started(starts_from="second")[1] == {
        "train.init": {"experiment": "a run of second", "run": "a run of first"}
    }


def test_so_are_other_settings_of_the_run_that_it_starts_from() -> None:
    run, _ = started()
    config = yaml.safe_load(Path("earlier/config.yaml").read_text())
    reference = read_reference(written(NODE | {"starts_from": "first"}), [Path()])
    protocol, start = {"train": {"init": None, "steps": 0}}, config | {"train": {"lr": 0.5, "steps": 5}}
    assert departures(protocol, reference._replace(start=start), run) == {
        "train.init": {"experiment": "a run of first", "run": "a run of first with train.lr=1.0"}
    }
    shutil.rmtree("earlier")
    assert departures(protocol, reference._replace(start=start), run) == {
        "train.init": {"experiment": "a run of first", "run": "earlier"}
    }, "which run it was can no longer be told"


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_it_trains_scores_every_row_and_keeps_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {
        "as trained": {"band": 99.9, "reported": 99.95},
        "transductive": {"transductive": True, "reported": None, "interval": None, "band": None},
        "alone": {"transductive": False},
        "first shot": {"score": "first_shot"},
    }
    experiment("maml", rows)
    record = reproduce("algorithm.inner_lr=0.25", "seed=1")
    results = json.loads(Path("run/results.json").read_text())
    assert record["results"] == results
    assert (results["status"], results["experiment"], results["seed"]) == ("done", "tiny", 1)
    trained, transductive, alone, missing = record["rows"]
    assert trained["ours"] == transductive["ours"] == pytest.approx(100 * results["test"]["accuracy"])
    assert trained["ci95"] == pytest.approx(100 * results["test"]["ci95"])
    assert trained["ci95_classes"] == pytest.approx(100 * results["test"]["ci95_classes"])
    assert trained["difference"] == pytest.approx(trained["ours"] - 99.95)
    assert trained["unit"] == "percent"
    assert (trained["transductive"], trained["tasks"], trained["verdict"]) == (True, 6, "below the band")
    assert (transductive["verdict"], transductive["difference"]) == ("no published number", None)
    (file,) = Path("run").glob("eval-*.json")
    evaluated = json.loads(file.read_text())
    assert evaluated["overrides"][-1] == "eval.transductive=false"
    assert evaluated["test"]["transductive"] is alone["transductive"] is False
    assert "per_step" in results["test"]
    assert "per_step" not in evaluated["test"], "papers report the last state; the others would cost as much each"
    assert alone["ours"] == pytest.approx(100 * evaluated["test"]["accuracy"])
    assert alone["verdict"] == "reproduced"
    assert (missing["ours"], missing["verdict"]) == (None, "not scored")
    assert record["overrides"] == ["algorithm.inner_lr=0.25", "seed=1"], "without the run's directory"
    assert (record["experiment"], record["seed"], record["interval_over"]) == ("tiny", 1, "seeds")
    assert record["differences"] == ["4 steps; theirs 40,000"]
    assert record["changed"] == {"algorithm.inner_lr": {"experiment": 0.5, "run": 0.25}}
    out = capsys.readouterr().out
    for said in (
        "tiny: Somebody 2021, A Paper, table 7 (https://example.org)",
        f"as trained: paper 99.95 ± 0.5 %, ours {trained['ours']:.2f} ± {trained['ci95']:.2f} % of 6 tasks, "
        f"± {trained['ci95_classes']:.2f} over classes, difference",
        "  - 4 steps; theirs 40,000",
        "not the experiment's protocol, changed: algorithm.inner_lr=0.25 (not 0.5)",
    ):
        assert said in out
        assert said in Path("run/run.log").read_text()


WAVES = """\
# @package _global_
defaults:
  - override /dataset: sinusoid
  - override /task: 10shot_regression
  - override /backbone: mlp
  - override /algorithm: maml
algorithm: {test_inner_steps: 3}
train: {steps: 2, meta_batch_size: 2, task_chunk: 2, val_every: 2, val_tasks: 4}
eval: {tasks: 20}
"""


def test_errors_after_some_inner_steps_are_compared_with_a_band_above_them(capsys: pytest.CaptureFixture[str]) -> None:
    def row(after: int | None, band: float) -> dict[str, Any]:
        return {"score": "mse", "after": after, "reported": 0.001, "interval": None, "band": band}

    rows = {"before": row(0, 1e6), "1 step": row(1, 1e-3), "all": row(None, 1e6), "last": row(3, 1e6), "9": row(9, 1.0)}
    experiment("maml", rows)
    Path("own/experiment/tiny.yaml").write_text(WAVES)
    record = reproduce()
    test = record["results"]["test"]
    before, one, every, last, missing = record["rows"]
    assert (before["ours"], one["ours"]) == (test["per_step"][0], test["per_step"][1])
    assert (before["ci95"], one["ci95"]) == (test["per_step_ci95"][0], test["per_step_ci95"][1])
    assert every["ours"] == last["ours"] == test["mse"] == pytest.approx(test["per_step"][-1])
    assert last["ci95"] == test["ci95"] == pytest.approx(test["per_step_ci95"][-1])
    assert (before["verdict"], one["verdict"], missing["verdict"]) == ("reproduced", "above the band", "not scored")
    assert one["difference"] == pytest.approx(one["ours"] - 0.001)
    assert (one["unit"], one["higher_is_better"]) == (None, False)
    out = capsys.readouterr().out
    assert f"1 step: paper 0.001, ours {one['ours']:.3f} ± {one['ci95']:.3f} of 20 tasks, difference +" in out
    assert "band <= 0.001, verdict above the band" in out
    results = json.loads(Path("run/results.json").read_text())
    del results["test"]["per_step_ci95"]  # as an earlier version wrote it
    Path("run/results.json").write_text(json.dumps(results))
    again = reproduce("--run", "run")
    assert [row["ours"] for row in again["rows"]] == pytest.approx([row["ours"] for row in record["rows"][:4]] + [None])
    whole = over_seeds([record, again | {"seed": 1}], [])
    assert [row["verdict"] for row in whole["rows"]] == [row["verdict"] for row in record["rows"]]


def test_a_finished_run_is_compared_without_training(capsys: pytest.CaptureFixture[str]) -> None:
    experiment("protonet", {"accuracy": {}})
    first = reproduce()
    assert (first["changed"], first["overrides"]) == ({}, [])
    checkpoint = Path("run/last.pt").stat().st_mtime_ns
    assert reproduce("--run", "run")["rows"] == first["rows"]
    assert not list(Path("run").glob("eval-*.json")), "results.json holds what was asked for"
    other = reproduce("--run=run", "eval.tasks=4", "--run", "run")
    assert other["rows"][0]["tasks"] == 4
    assert other["changed"] == {"eval.tasks": {"experiment": 6, "run": 4}}
    assert Path("run/last.pt").stat().st_mtime_ns == checkpoint
    assert "not the experiment's protocol, changed: eval.tasks=4 (not 6)" in capsys.readouterr().out


def test_further_scores_are_rows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment("protonet", {"ways": {"score": "ways"}})
    monkeypatch.setattr(
        "metalearn.algorithms.protonet.ProtoNet.further_scores",
        lambda self, tasks: {"ways": tasks.query.y.amax(1).float() / 8},
    )
    (row,) = reproduce()["rows"]
    assert (row["ours"], row["ci95"], row["verdict"]) == (50.0, 0.0, "reproduced")


def test_the_verdict_knows_that_other_classes_might_have_been_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment("protonet", {"ways": {"score": "ways", "band": 49.9}})
    monkeypatch.setattr(
        "metalearn.algorithms.protonet.ProtoNet.further_scores",
        lambda self, tasks: {"ways": tasks.query.y.amax(1).float() / 8},
    )
    monkeypatch.setattr("metalearn.engine.evaluate.Scores.ci95_classes", lambda self, per_task: 0.004)
    (row,) = reproduce()["rows"]
    assert (row["ci95"], row["ci95_classes"], row["verdict"]) == (0.0, pytest.approx(0.4), "undecided")
    out = capsys.readouterr().out
    assert "ours 50.00 ± 0.00 % of 6 tasks, ± 0.40 over classes, difference" in out
    assert "ours: 95 % over test tasks and over classes, one seed (0)" in out


def test_a_record_that_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment("protonet", {"accuracy": {}})
    reproduce()
    Path("run/reproduction.json").unlink()
    capsys.readouterr()

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("metalearn.atomic.write", full_disk)
    with pytest.raises(SystemExit) as leaving:
        reproduce("--run", "run")
    assert leaving.value.code == 1
    captured = capsys.readouterr()
    assert "accuracy: paper 50 ± 0.5 %, ours " in captured.out, "shown before it is lost"
    (line,) = captured.err.splitlines()
    assert line == "run/reproduction.json cannot be written: No space left on device"


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_mistakes_are_one_line_and_leave_nothing(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    before = sorted(elsewhere.rglob("*"))
    for argv, said in (
        ([], "reproduce needs an experiment"),
        (["seed=1"], "reproduce needs an experiment"),
        (
            ["snell2017/omniglot_5w2s"],
            "no experiment named 'snell2017/omniglot_5w2s'; did you mean 'snell2017/omniglot_5w",
        ),
        (
            ["snell"],
            "no experiment named 'snell'; these begin so: snell2017/omniglot_20w1s, snell2017/omniglot_20w5s, ",
        ),
        (
            ["omniglot_5w1s"],
            "no experiment named 'omniglot_5w1s'; these end so: antoniou2019/omniglot_5w1s, bertinetto2019/omniglot_5w1s, ",
        ),
        (["nothing"], "no experiment named 'nothing' (available: antoniou2019/*, bertinetto2019/*, chen2019/*, "),
        (
            ["snell2017_omniglot_5w1s"],
            "no experiment named 'snell2017_omniglot_5w1s'; it is called 'snell2017/omniglot_5w1s' now",
        ),
        (
            ["protonet_omniglot_5w1s"],
            "no experiment named 'protonet_omniglot_5w1s'; it is called 'short/protonet_omniglot_5w1s' now",
        ),
        (["short/protonet_omniglot_5w1s", "train.stps=1"], "no setting 'train.stps'; did you mean 'train.steps'?"),
        (["short/protonet_omniglot_5w1s", "train.steps=-1"], "train.steps=-1 is not allowed (int >= 0)"),
        (["short/protonet_omniglot_5w1s", "seed=0,1"], "'seed=0,1': several values need -m"),
        (["short/protonet_omniglot_5w1s", "-m"], "no flag named '-m'"),
        (["short/protonet_omniglot_5w1s", "--run", "nowhere"], "'nowhere' is no directory"),
        (["short/protonet_omniglot_5w1s", "--json", "-"], "--json - goes with --run"),
        (["short/protonet_omniglot_5w1s", "--config-dir", "nowhere"], "--config-dir: 'nowhere' is no directory"),
    ):
        assert refused(capsys, *argv).startswith(said)
    assert sorted(elsewhere.rglob("*")) == before


@pytest.mark.thorough
def test_an_experiment_on_the_features_of_another(capsys: pytest.CaptureFixture[str]) -> None:
    experiment("protonet", {"accuracy": {}}, starts_from="first")
    Path("own/experiment/first.yaml").write_text(TINY.format(algorithm="protonet"))
    tiny = TINY.format(algorithm="nearest_centroid").replace("steps: 4", "steps: 0")
    Path("own/experiment/tiny.yaml").write_text(tiny)
    assert refused(capsys, "tiny", "--config-dir", "own") == (
        "this experiment starts from a run of first: metalearn train experiment=first trains one, then train.init=RUN_DIR"
    )
    main(["train", "--config-dir", "own", "experiment=first", "hydra.run.dir=first"])
    record = reproduce("train.init=first")
    assert record["changed"] == {}
    assert record["rows"][0]["verdict"] == "reproduced"
    other = metalearn.reproduce("tiny", "train.init=first", "hydra.run.dir=other", config_dir="own")
    assert other["changed"] == {}
    assert other["rows"][0]["ours"] == record["rows"][0]["ours"]


def test_an_experiment_that_reproduces_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    experiment("protonet", {})
    Path("own/reference/tiny.yaml").unlink()
    assert (
        refused(capsys, "tiny", "--config-dir", "own")
        == "experiment=tiny has no reference: it reproduces no published number"
    )


def test_a_sweep_over_more_than_seeds_is_not_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    experiment("protonet", {"a": {}})
    file = Path("own/experiment/tiny.yaml")
    file.write_text(file.read_text() + "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      train.lr: 0.1,0.2\n")
    said = refused(capsys, "tiny", "--config-dir", "own", "sweep.seeds=2")
    assert said == "reproduce trains one run, or one for each seed; experiment=tiny is a sweep over train.lr"
    assert not Path("outputs").exists()


@pytest.mark.thorough
def test_seeds_are_trained_continued_and_compared_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    experiment("maml", {"as trained": {"band": 99.9}, "alone": {"transductive": False}})
    words = ["reproduce", "tiny", "--config-dir", "own", "sweep.seeds=2", "sweep_name=both", "algorithm.inner_lr=0.25"]
    main([*words, "--json", "whole.json"])
    folder = Path("outputs/multirun/both")
    whole = json.loads((folder / "reproduction.json").read_text())
    assert json.loads(Path("whole.json").read_text()) == whole
    each = [json.loads((folder / f"seed={seed}" / "reproduction.json").read_text()) for seed in (0, 1)]
    assert [record["seed"] for record in each] == whole["seeds"] == [0, 1]
    assert whole["runs"] == ["seed=0", "seed=1"]
    for number, row in enumerate(whole["rows"]):
        ours = [record["rows"][number]["ours"] for record in each]
        assert row["each"] == ours
        assert row["ours"] == pytest.approx(sum(ours) / 2)
        assert row["std"] == pytest.approx(abs(ours[0] - ours[1]) / 2**0.5)
        assert row["ci95_seeds"] == pytest.approx(12.7062 * abs(ours[0] - ours[1]) / 2, rel=1e-4, abs=1e-9)
        assert row["ci95"] == pytest.approx(sum(record["rows"][number]["ci95"] for record in each) / 2)
    assert whole["changed"] == {"algorithm.inner_lr": {"experiment": 0.5, "run": 0.25}}
    assert whole["overrides"] == each[0]["overrides"] == ["algorithm.inner_lr=0.25"], "without what is the sweep's"
    out = capsys.readouterr().out
    assert out.count("  - 4 steps; theirs 40,000") == 1
    assert out.count("tiny: Somebody 2021") == 1
    assert SweepDir(folder).commands() == [f"metalearn {' '.join(words)} --json whole.json"]
    before = [(folder / f"seed={seed}" / "last.pt").stat().st_mtime_ns for seed in (0, 1)]
    main(words)
    assert [(folder / f"seed={seed}" / "last.pt").stat().st_mtime_ns for seed in (0, 1)] == before, "nothing is missing"
    capsys.readouterr()
    runs = [word for seed in (0, 1) for word in ("--run", str(folder / f"seed={seed}"))]
    main(["reproduce", "tiny", "--config-dir", "own", *runs, "--json", "-"])
    assert [row["each"] for row in json.loads(capsys.readouterr().out)["rows"]] == [
        row["each"] for row in whole["rows"]
    ]
    (folder / "reproduction.json").unlink()
    main(["reproduce", "tiny", "--config-dir", "own", "--run", str(folder)])
    again = json.loads((folder / "reproduction.json").read_text())
    assert [row["each"] for row in again["rows"]] == [row["each"] for row in whole["rows"]]
    record = metalearn.reproduce("tiny", runs=[folder / "seed=0", folder / "seed=1"], config_dir="own")
    assert [row["each"] for row in record["rows"]] == [row["each"] for row in whole["rows"]]
    shutil.copytree(folder / "seed=0", "copy")
    said = refused(capsys, "tiny", "--config-dir", "own", *runs, "--run", "copy")
    assert said == "'outputs/multirun/both/seed=0' and 'copy' have the same seed, 0"


def test_from_python_seeds_are_trained_too() -> None:
    experiment("protonet", {"a": {}})
    record = metalearn.reproduce("tiny", "sweep_name=py", "eval.tasks=4", seeds=[3, 5], config_dir="own")
    assert (record["seeds"], record["rows"][0]["tasks"]) == ([3, 5], 4)
    assert record == json.loads(Path("outputs/multirun/py/reproduction.json").read_text())
    with pytest.raises(UserError, match="seeds to train or finished runs"):
        metalearn.reproduce("tiny", seeds=[0], runs=["run"], config_dir="own")


def test_the_mean_over_seeds_and_its_verdict() -> None:
    def record(seed: int, ours: float | None) -> dict[str, Any]:
        row = ROW | {"name": "a", "ours": ours, "ci95": 0.1, "ci95_classes": 0.3, "tasks": 9, "difference": 0.0}
        paper = dict.fromkeys(("experiment", "paper", "table", "url", "interval_over", "differences"))
        return paper | {"seed": seed, "rows": [row | {"band": 49.0}], "overrides": [], "changed": {}}

    (row,) = over_seeds([record(0, 50.0), record(1, 51.0), record(2, 52.0)], [])["rows"]
    assert (row["ours"], row["std"], row["difference"]) == (51.0, 1.0, 1.0)
    assert row["ci95_seeds"] == pytest.approx(4.302653 / 3**0.5)
    assert row["verdict"] == "undecided", "2.48 over seeds is more than the 2 to the band"
    (row,) = over_seeds([record(0, 51.0), record(1, 51.0)], [])["rows"]
    assert row["verdict"] == "reproduced"
    (row,) = over_seeds([record(0, 51.0), record(1, 51.0)], ["task.ways"])["rows"]
    assert row["verdict"] == "not comparable: task.ways differs"
    (row,) = over_seeds([record(0, 51.0), record(1, None)], [])["rows"]
    assert (row["ours"], row["verdict"]) == (None, "not scored")


def test_what_the_model_does_not_allow_is_refused_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    experiment("protonet", {"a": {"transductive": True}})
    assert "eval.transductive=true" in refused(capsys, "tiny", "--config-dir", "own", "hydra.run.dir=run")
    assert not Path("run").exists()


def test_a_run_that_did_not_finish_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    experiment("protonet", {"a": {}})
    with pytest.raises(SystemExit) as leaving:
        reproduce("train.max_loss=1e-9")
    assert leaving.value.code == 1
    assert not Path("run/reproduction.json").exists()
    said = refused(capsys, "tiny", "--config-dir", "own", "--run", "run")
    assert said == "'run' is not a finished run (status: diverged)"


def test_the_reference_is_no_part_of_the_run() -> None:
    experiment("protonet", {"a": {}})
    first = reproduce()["results"]["config_hash"]
    assert "reference" not in yaml.safe_load(Path("run/config.yaml").read_text())
    # An experiment of an earlier version holds it itself; where both exist, its own counts.
    own = NODE | {"rows": {"a": ROW | {"reported": 60.0}}}
    file = Path("own/experiment/tiny.yaml")
    file.write_text(file.read_text() + f"reference: {json.dumps(own)}\n")
    second = reproduce(run_dir="again")
    assert second["rows"][0]["reported"] == 60.0
    assert second["results"]["config_hash"] == first
    assert second["changed"] == {}
    assert reproduce("--run", "again", run_dir="again")["rows"] == second["rows"]


# --- on a terminal ----------------------------------------------------------------------------------------------------


def test_a_number_below_the_band_stands_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = ROW | {
        "name": "[b]row",
        "ours": 0.5,
        "ci95": 0.1,
        "tasks": 9,
        "difference": -49.5,
        "verdict": "below the band",
    }
    record = {
        "experiment": "e",
        "paper": "p",
        "table": "t",
        "url": "u",
        "interval_over": None,
        "seed": 0,
        "rows": [row, row | {"verdict": "reproduced"}],
        "differences": [],
        "changed": {},
    }
    monkeypatch.setattr(terminal, "on_terminal", lambda: True)
    monkeypatch.setattr(terminal, "CONSOLE", terminal.Console(file=sys.stdout, force_terminal=True, width=120))
    shown.reproduction(record)
    out = capsys.readouterr().out
    assert "\x1b[1;31mbelow the band" in out
    assert "\x1b[32mreproduced" in out
    assert "[b]row" in out
