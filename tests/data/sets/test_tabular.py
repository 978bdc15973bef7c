"""Tables of the user's own: which rows make a task, how they are divided, in which units, and that whole runs learn from them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metalearn.cli.main import main
from metalearn.data.base import TrainedOn
from metalearn.data.classes import SPLITS
from metalearn.data.sets.tabular import Tabular, load
from metalearn.errors import UserError
from metalearn.tasks import TaskShape

CPU, SHAPE = torch.device("cpu"), TaskShape(1, 3, 4)
DEFAULTS: dict[str, Any] = {
    "task": "city",
    "target": "y",
    "inputs": None,
    "split": "auto",
    "split_seed": 0,
    "val_share": 0.16,
    "test_share": 0.2,
    "min_rows": None,
    "standardize": True,
    "origin": "auto",
}


def rows_of(cities: int, rows: int) -> list[tuple[str, float, float, float, float]]:
    """City, two inputs and two targets. Every number is in one row alone; y = x1 + 1000 and z tells the city."""
    made = []
    for i in range(cities):
        for k in range(rows + i % 3):
            x = 100.0 * i + k + 0.25
            made.append((f"c{i}", x, 7.0 * k - 3.0 * i, x + 1000, float(i)))
    return made


def written(tmp_path: Path, cities: int = 12, rows: int = 8, split: bool = False, name: str = "own.csv") -> str:
    head = ["city,x1,x2,y,z" + (",split" if split else "")]
    part = {i: ("train" if i % 3 == 0 else "val" if i % 3 == 1 else "Test") for i in range(cities)}
    lines = [",".join(map(str, row)) + (f",{part[int(row[0][1:])]}" if split else "") for row in rows_of(cities, rows)]
    file = tmp_path / name
    file.write_text("\n".join(head + lines) + "\n")
    return str(file)


def table(file: str, **settings: Any) -> Tabular:
    return load(file, **{**DEFAULTS, **settings})


def test_support_and_query_points_are_different_rows_of_one_task(tmp_path: Path) -> None:
    dataset = table(written(tmp_path), target=["y", "z"], standardize=False)
    for split in SPLITS:
        tasks = dataset.source(split, 0, CPU).tasks(0, 40, SHAPE)
        x, y = torch.cat([tasks.support.x, tasks.query.x], 1), torch.cat([tasks.support.y, tasks.query.y], 1)
        assert (x.shape, y.shape, tasks.support.ways) == ((40, 7, 2), (40, 7, 2), 2)
        torch.testing.assert_close(y[..., 0], x[..., 0] + 1000)
        assert all(len(set(of_task.tolist())) == 7 for of_task in x[..., 0]), "a row is in a task once"
        names = [class_.name for class_ in dataset.classes(split)]
        cities = [f"c{int(one)}" for one in y[:, 0, 1]]
        assert all(set(of_task.tolist()) == {of_task[0].item()} for of_task in y[..., 1]), "all rows are of one city"
        assert cities == [names[family] for family in tasks.classes[:, 0].tolist()]
        assert set(cities) == set(names), "every city is drawn"


def test_a_division_is_drawn_by_shares_and_its_seed(tmp_path: Path) -> None:
    file = written(tmp_path, 40)
    dataset, again, other = table(file), table(file), table(file, split_seed=1)
    parts = {split: {class_.name for class_ in dataset.classes(split)} for split in SPLITS}
    assert [len(parts[split]) for split in SPLITS] == [26, 6, 8]
    assert all(not parts[a] & parts[b] for a, b in itertools.combinations(SPLITS, 2))
    assert dataset.split.sha256 == again.split.sha256 != other.split.sha256
    assert table(file, test_share=0.5).split.sha256 != dataset.split.sha256


def test_the_column_split_divides_the_tasks(tmp_path: Path) -> None:
    file = written(tmp_path, 9, split=True)
    assert [class_.name for class_ in table(file).classes("test")] == ["c2", "c5", "c8"]
    assert table(file).split.name == "given"
    assert table(file).columns.inputs == ("x1", "x2", "z")
    assert table(file, split="random").split.name == "random-0"
    assert len(table(file, split="test_only").classes("test")) == 9


def test_units_are_those_of_the_training_rows_alone(tmp_path: Path) -> None:
    dataset = table(written(tmp_path), target=["z", "y"], inputs=["x2", "x1"])
    train = {class_.name for class_ in dataset.classes("train")}
    own = np.array([row[1:] for row in rows_of(12, 8) if row[0] in train])
    np.testing.assert_allclose(dataset.columns.input_mean, own[:, [1, 0]].mean(0))
    np.testing.assert_allclose(dataset.columns.target_std, own[:, [3, 2]].std(0))
    every = torch.cat(list(dataset.source("train", 0, CPU).every_example()))
    torch.testing.assert_close(every.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(every.std(0, correction=0), torch.ones(2))
    assert torch.cat(list(dataset.source("test", 0, CPU).every_example())).mean(0).abs().max() > 0.05


def test_errors_are_also_told_in_the_units_of_the_table(tmp_path: Path) -> None:
    dataset = table(written(tmp_path), target=["y", "z"])
    source = dataset.source("test", 0, CPU)
    tasks = source.tasks(0, 5, SHAPE)
    found = source.further_scores(tasks, tasks.query.y + torch.tensor([0.5, -0.25]))
    assert list(found) == ["mse_y", "mae_y", "mse_z", "mae_z"]
    of_y, of_z = dataset.columns.target_std
    torch.testing.assert_close(found["mse_y"], torch.full((5,), (0.5 * of_y) ** 2).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(found["mae_z"], torch.full((5,), 0.25 * of_z).double(), rtol=1e-5, atol=0)
    assert f"{of_y**2:.4g} of y" in dataset.notes[1]
    plain = table(written(tmp_path), standardize=False)
    assert plain.source("test", 0, CPU).further_scores(tasks, tasks.query.y) == {}
    assert plain.notes[1] == "mse is in the units of the table, squared"


def test_another_table_takes_the_columns_and_units_of_the_model(tmp_path: Path) -> None:
    model = table(written(tmp_path), inputs=["x2", "x1"])
    lines = [f"{x2},{name},{y},{x1},5" for name, x1, x2, y, _ in rows_of(4, 9)]
    (tmp_path / "other.csv").write_text("\n".join(["x2,city,y,x1,more", *lines]) + "\n")
    other = table(str(tmp_path / "other.csv"), split="test_only")
    with pytest.raises(UserError, match=r"other\.csv has no train task"):
        other.check("train", SHAPE)
    brought = other.brought_to(TrainedOn.of(json.loads(json.dumps(model.trained_on.record()))))
    assert brought.columns == model.columns
    assert brought.input_shape == (2,)
    tasks = brought.source("test", 0, CPU).tasks(0, 3, SHAPE)
    in_units = tasks.support.x.double() * torch.tensor(model.columns.input_std) + torch.tensor(model.columns.input_mean)
    targets = model.columns.in_units(tasks.support.y)
    torch.testing.assert_close(targets[..., 0], in_units[..., 1] + 1000, rtol=1e-5, atol=1e-2)
    (tmp_path / "thin.csv").write_text("city,x2,y\na,1,2\nb,2,3\nc,4,5\n")
    thin = table(str(tmp_path / "thin.csv"), split="test_only")
    with pytest.raises(UserError, match=r"trained with the column 'x1', which thin\.csv does not have as numbers"):
        thin.brought_to(model.trained_on)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "town"}, r"dataset\.task=town: own\.csv has no column 'town'"),
        ({"target": "yy"}, r"dataset\.target=yy: own\.csv has no column 'yy'"),
        ({"inputs": ["x1", "x3"]}, r"dataset\.inputs=x3: own\.csv has no column 'x3' \(columns: city, x1, x2, y, z\)"),
        ({"target": ["y", "y"]}, r"name the column 'y' twice"),
        ({"inputs": ["y"]}, r"name the column 'y' twice"),
        ({"split": "given"}, r"dataset\.split=given: own\.csv has no column 'split'"),
        ({"min_rows": 99}, r"dataset\.min_rows=99: no task of own\.csv has so many rows \(most: 10\)"),
        ({"test_share": 0.9}, r"own\.csv has 12 tasks: 2 for validation and 11 for test leave none for training"),
        ({"target": "x1", "inputs": ["x2"], "task": "z"}, None),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, settings: dict[str, Any], said: str | None) -> None:
    file = written(tmp_path)
    if said is None:  # numbers name tasks as well as texts
        assert {class_.name for split in SPLITS for class_ in table(file, **settings).classes(split)} >= {"0.0", "11.0"}
        return
    with pytest.raises(UserError, match=said) as error:
        table(file, **settings)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"dataset\.file must be set: a CSV file"):
        table(None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"dataset\.file=nowhere\.csv is not there"):
        table("nowhere.csv")


def test_tasks_of_too_few_rows_are_named_and_can_be_left_out(tmp_path: Path) -> None:
    file = written(tmp_path)
    said = r"task\.shots=5 \+ task\.queries=4 need 9 rows of every task, 'c\d+' has 8.*\(dataset\.min_rows=9 leaves such tasks out\)"
    with pytest.raises(UserError, match=said):
        table(file, split_seed=3).check("test", TaskShape(1, 5, 4))
    dataset = table(file, min_rows=9, split_seed=3)
    dataset.check("test", TaskShape(1, 5, 4))
    assert sum(len(dataset.classes(split)) for split in SPLITS) == 8


def test_a_task_in_two_splits_is_refused(tmp_path: Path) -> None:
    text = Path(written(tmp_path, 6, split=True)).read_text().splitlines()
    assert text[1].endswith(",train")
    for other, said in (
        ("test", "the task 'c0' has rows of the splits train and test"),
        ("tset", "no split 'tset'.*'test'"),
    ):
        (tmp_path / "own.csv").write_text("\n".join([text[0], text[1].removesuffix("train") + other, *text[2:]]) + "\n")
        with pytest.raises(UserError, match=said):
            table(str(tmp_path / "own.csv"))


def test_a_target_that_is_constant_in_training_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flat.csv").write_text("city,x,y\n" + "".join(f"c{i},{k},4\n" for i in range(6) for k in range(3)))
    with pytest.raises(UserError, match=r"dataset\.target=y: all rows of the training tasks have 4 there"):
        table(str(tmp_path / "flat.csv"))


def test_a_whole_run_says_its_units_and_both_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, 60)
    sizes = ("train.steps=4", "train.val_every=2", "train.val_tasks=20", "eval.tasks=60", "train.task_chunk=16")
    sizes += ("train.schedule=constant",)
    columns = ("dataset.task=city", "dataset.target=[y,z]", "task.shots=3", "task.queries=4")
    main(["train", "dataset=tabular", "algorithm=maml", f"dataset.file={file}", *columns, *sizes, "hydra.run.dir=run"])
    out = capsys.readouterr().out
    results = json.loads(Path("run/results.json").read_text())
    test = results["test"]
    assert test["mse"] == pytest.approx(test["loss"])
    assert test["ci95_classes"] > 0
    assert set(test["further"]) == {"mse_y", "mae_y", "mse_z", "mae_z"}
    assert "calibration" not in test
    assert not Path("run/test_classes.json").exists(), "nobody predicts the families"
    assert "over tasks, ± " in out
    assert "over task families" in out
    assert results["notes"][1].startswith("mse is of standardised targets: 1 is their variance")
    assert "train: 3 support + 4 query from 38 task families of tabular" in Path("run/run.log").read_text()
    with pytest.raises(SystemExit):
        main(["eval", "run", "dataset.split_seed=1"])
    assert "were training" in capsys.readouterr().err, "a family that was trained on is no test family"
    Path("elsewhere").mkdir()
    Path("elsewhere/own.csv").write_text(Path(file).read_text())
    Path(file).unlink()  # a run goes on and is tested wherever its table lies now
    main(["train", "--resume", "run", "train.steps=6", "dataset.file=elsewhere/own.csv"])
    assert json.loads(Path("run/results.json").read_text())["train"]["steps"] == 6
    main(["data", "check", "tabular", "dataset.file=elsewhere/own.csv", *columns[:2]])
    assert "  train: 38 tasks, " in capsys.readouterr().out
