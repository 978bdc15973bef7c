"""`metalearn predict` of runs of numbers: the same as adapting by hand, in the units of the table, kept in a file, one line for each mistake."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metalearn
from metalearn.cli.main import main
from metalearn.errors import UserError
from metalearn.runs.loaded import load_run, predicts_numbers, results_of
from metalearn.runs.regressor import adapted_to, columns_of
from metalearn.tasks import Examples

TINY = ("algorithm=maml", "train.steps=2", "train.val_every=2", "train.val_tasks=4", "eval.tasks=4", "eval.pictures=0")
SUPPORT = [(x, 40.0 - x, 1000 + 30 * x, 5 * x) for x in (1.0, 2.5, 4.0, 6.0, 7.0)]
QUERY = [(x, 40.0 - x, 1000 + 30 * x, 5 * x) for x in (0.5, 3.0, 9.0)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`table`, of two targets in units far from 1, and `waves`."""
    place = tmp_path_factory.mktemp("runs")
    rows = [f"c{i},{k},{40 - k},{1000 + 30 * k * i},{5 * k - i}" for i in range(10) for k in range(8)]
    (place / "cities.csv").write_text("\n".join(["city,age,area,price,rent", *rows]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        columns = ("dataset.task=city", "dataset.target=[price,rent]", "task.shots=3", "task.queries=3")
        main(["train", "dataset=tabular", *TINY, "dataset.file=cities.csv", *columns, "hydra.run.dir=table"])
        main(["train", "dataset=sinusoid", *TINY, "hydra.run.dir=waves"])
    return place


@pytest.fixture(autouse=True)
def here(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("table", "waves"):
        (tmp_path / name).symlink_to(runs / name)
    write("support.csv", "area,age,price,rent", [(area, age, price, rent) for age, area, price, rent in SUPPORT])
    write("query.csv", "age,area", [row[:2] for row in QUERY])
    write("known.csv", "rent,age,area,price", [(rent, age, area, price) for age, area, price, rent in QUERY])
    return tmp_path


def write(name: str, head: str, rows: list[tuple[float, ...]]) -> None:
    Path(name).write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")


def predicted(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    main(["predict", *words, "--json"])
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    return made


def by_hand(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Adapts the run's algorithm to [n, 4] rows of inputs and targets; the targets of [Q, 2] inputs, in units."""
    config = metalearn.load("table").config | {"device": "cpu"}
    run = load_run(Path("table"), config, results_of(Path("table")), numbers=True)
    columns = run.state["trained_on"]["columns"]
    mean, std = (np.array(columns[f"input_{part}"] + columns[f"target_{part}"]) for part in ("mean", "std"))
    rows = torch.tensor((support - mean) / std, dtype=torch.float32)
    inputs = torch.tensor((query - mean[:2]) / std[:2], dtype=torch.float32)
    with torch.no_grad():
        adapted = run.algorithm.adapt(Examples(rows[None, :, :2], rows[None, :, 2:], 2))
        outputs = run.algorithm.predict(adapted, inputs[None])[0]
    return outputs.numpy() * std[2:] + mean[2:]


def values(made: dict[str, Any]) -> np.ndarray:
    return np.array([list(row["predicted"].values()) for row in made["predictions"]])


def test_it_predicts_what_adapting_by_hand_does_in_the_units_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    made = predicted(capsys, "table", "--support", "support.csv", "--query", "query.csv")
    wanted = by_hand(np.array(SUPPORT), np.array(QUERY)[:, :2])
    np.testing.assert_allclose(values(made), wanted, rtol=1e-5)
    assert (made["inputs"], made["targets"], made["points"]) == (["age", "area"], ["price", "rent"], 5)
    assert made["predictions"][1]["inputs"] == {"age": 3.0, "area": 37.0}
    assert made["error"] is None
    assert "targets" not in made["predictions"][0]
    check = made["support_check"]
    held_out = [by_hand(np.delete(np.array(SUPPORT), i, 0), np.array([SUPPORT[i][:2]]))[0] for i in range(5)]
    errors = np.square(np.array(held_out) - np.array(SUPPORT)[:, 2:]).mean(0)
    np.testing.assert_allclose(list(check["mse"].values()), errors, rtol=1e-4)
    assert check["points"] == 5
    prices = np.array(SUPPORT)[:, 2]
    assert check["mse_of_mean"]["price"] == pytest.approx(
        np.mean([(np.delete(prices, i).mean() - prices[i]) ** 2 for i in range(5)])
    )


def test_where_targets_are_known_the_error_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("table", "--support", "support.csv", "--query", "query.csv", "known.csv")
    made = predicted(capsys, *words)
    gap = values(made)[3:] - np.array(QUERY)[:, 2:]
    np.testing.assert_allclose(list(made["error"]["mse"].values()), np.square(gap).mean(0), rtol=1e-6)
    np.testing.assert_allclose(list(made["error"]["mae"].values()), np.abs(gap).mean(0), rtol=1e-6)
    assert made["error"]["rows"] == 3, "those of the file that has targets"
    assert made["predictions"][3]["targets"] == {"price": 1015.0, "rent": 2.5}
    main(["predict", *words])
    out = capsys.readouterr().out
    assert "predicts price, rent from age, area, learned from 5 points" in out
    assert "mean squared error of 3 rows whose targets are there: price " in out
    assert f"{made['predictions'][3]['predicted']['rent']:.6g}" in out
    main(["predict", *words, "--csv"])
    shown = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(shown.out)))
    assert [float(row["predicted_price"]) for row in rows] == values(made)[:, 0].tolist()
    assert [row["price"] for row in rows] == ["", "", "", "1015.0", "1090.0", "1270.0"]
    assert "learned from 5 points" in shown.err


def test_a_saved_regressor_needs_neither_run_nor_points(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = predicted(capsys, "table", "--support", "support.csv", "--query", "query.csv", "--save", "mine.pt")
    for name in ("table", "waves"):
        Path(name).unlink()
    again = predicted(capsys, "--adapted", "mine.pt", "query.csv")
    for one, other in zip(again["predictions"], made["predictions"], strict=True):
        # By weights or in low rank: rounding.
        assert one.pop("predicted") == pytest.approx(other.pop("predicted"), rel=1e-5)
        assert one == other
    assert (again["run"], again["points"], again["support_check"]) == (made["run"], 5, None)
    torch.load("mine.pt", weights_only=True)


def test_data_without_names_have_x_and_y(capsys: pytest.CaptureFixture[str]) -> None:
    write("points.csv", "x,y", [(x, math.sin(x)) for x in (-2.0, 0.5, 1.5)])
    write("rows.csv", "y,x", [(0.0, 0.0), (math.sin(1), 1.0)])
    made = predicted(capsys, "waves", "--support", "points.csv", "--query", "rows.csv")
    assert (made["inputs"], made["targets"]) == (["x"], ["y"])
    assert made["run"] == "waves: maml, sinusoid 10-shot"
    assert made["error"]["mse"]["y"] == pytest.approx(
        np.mean([(row["predicted"]["y"] - row["targets"]["y"]) ** 2 for row in made["predictions"]])
    )


def test_from_python_both_faces_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    made = predicted(capsys, "table", "--support", "support.csv", "--query", "query.csv")
    assert metalearn.predict("table", "support.csv", "query.csv", save="mine.pt")["predictions"] == made["predictions"]
    assert Path("mine.pt").exists()
    run = metalearn.load("table")
    points = np.array(SUPPORT)
    found = run.predict(points[:, :2], points[:, 2:], np.array(QUERY)[:, :2])
    np.testing.assert_allclose(found.values.numpy(), values(made), rtol=1e-6)
    assert found.targets == ("price", "rent")
    waves = metalearn.load("waves")
    assert waves.predict([[0.0], [1.0]], [0.0, 1.0], [[0.5]]).values.shape == (1, 1)
    for x, y, said in (
        (points[:, :1], points[:, 2:], r"support_x has the shape \[5, 1\]; needed: \[5, 2\]"),
        (points[:, :2], points[:, 2], r"support_y has the shape \[5, 1\]; needed: \[5, 2\]"),
        (points[:0, :2], points[:0, 2:], r"support_x has the shape \[0, 2\]; needed: \[examples, 2\]"),
    ):
        with pytest.raises(UserError, match=said):
            run.predict(x, y, points[:, :2])
    with pytest.raises(UserError, match="coverage and abstain_below go with a run that predicts classes"):
        metalearn.predict("table", "support.csv", "query.csv", coverage=0.9)
    with pytest.raises(UserError, match="texts goes with a run of texts, this one predicts numbers"):
        metalearn.predict("table", "support.csv", "query.csv", texts=["1"])


def test_a_run_that_was_stopped_can_predict_too(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("stopped").mkdir()
    for name in ("config.yaml", "best.pt", "last.pt"):
        Path("stopped", name).symlink_to(runs / "waves" / name)
    assert predicts_numbers(Path("stopped"))
    write("points.csv", "x,y", [(0.0, 1.0)])
    made = predicted(capsys, "stopped", "--support", "points.csv", "--query", "points.csv")
    assert made["support_check"] is None, "of one point nothing can be held out"


def test_mistakes_are_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("none.csv").write_text("age,area,price,rent\n")
    Path("bad.csv").write_text("age,area,price,rent\n1,2,3,4\n1,2,x,4\n")
    Path("two.csv").write_text("city,age,area,price,rent\nOslo,1,2,3,4\nBergen,1,2,3,4\n")
    before = sorted(here.rglob("*"))
    support, query = ("--support", "support.csv"), ("--query", "query.csv")
    for words, message in (
        (["table", "--support", "query.csv", *query], "query.csv has no column 'price' (columns: age, area)"),
        (["table", *support, "--query", "gone.csv"], "--query gone.csv is not there"),
        (["table", "--support", "table", *query], "--support table is no file"),
        (["table", "--support", "none.csv", *query], "none.csv has no row"),
        (["table", "--support", "bad.csv", *query], "bad.csv, line 3: column 'price' holds 'x', which is no number"),
        (["table", "--support", "two.csv", *query], "has rows of 2 tasks in its column 'city' ('Oslo', 'Bergen')"),
        (["table", *support, *query, "--coverage", "0.9"], "--coverage goes with a run that predicts classes"),
        (["table", *support, *query, "--top", "2"], "--top goes with a run that predicts classes"),
        (["table", *support, "--text", "1"], "--text is for a run of texts, this one predicts numbers"),
        (["table", *support, *query, "--save", "none.csv/it.pt"], "--save none.csv/it.pt cannot be written"),
        (["table", *support, *query, "--save", "table/best.pt"], "is not overwritten"),
        (["waves", *support, *query], "support.csv has no column 'x'"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["predict", *words])
        assert left.value.code == 2, words
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, words
        assert message in lines[0]
    assert sorted(here.rglob("*")) == before


@pytest.mark.thorough
def test_an_algorithm_that_predicts_distributions_tells_its_deviations(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ("dataset.task=city", "dataset.target=[price,rent]", "task.shots=3", "task.queries=3")
    tiny = ("algorithm=cnp", "algorithm.width=16", *TINY[1:])
    main(["train", "dataset=tabular", *tiny, f"dataset.file={runs / 'cities.csv'}", *columns, "hydra.run.dir=unsure"])
    words = ("unsure", "--support", "support.csv", "--query", "known.csv")
    made = predicted(capsys, *words, "--save", "mine.pt")
    run = load_run(
        Path("unsure"), metalearn.load("unsure").config | {"device": "cpu"}, results_of(Path("unsure")), numbers=True
    )
    of_run = columns_of(run.trained_on)
    support, query = np.array(SUPPORT), np.array(QUERY)
    adapted = adapted_to(run.algorithm, of_run, support[:, :2], support[:, 2:], torch.device("cpu"))
    with torch.no_grad():
        found = run.algorithm.predict_distribution(adapted, of_run.of_model(query[:, :2], "inputs")[None])
    assert found is not None
    deviations = found.std[0].numpy() * np.array(of_run.target_std)
    said = np.array([list(row["deviations"].values()) for row in made["predictions"]])
    np.testing.assert_allclose(said, deviations, rtol=1e-5)
    np.testing.assert_allclose(values(made), of_run.in_units(found.mean[0]).numpy(), rtol=1e-5)
    inside = np.abs(values(made) - query[:, 2:]) <= 1.96 * said
    assert list(made["error"]["within_95"].values()) == pytest.approx(inside.mean(0).tolist())
    again = predicted(capsys, "--adapted", "mine.pt", "query.csv")
    assert [row["deviations"] for row in again["predictions"]] == [row["deviations"] for row in made["predictions"]]
    main(["predict", *words, "--csv"])
    shown = capsys.readouterr()
    assert [float(row["deviation_rent"]) for row in csv.DictReader(io.StringIO(shown.out))] == said[:, 1].tolist()
    assert "of these, within the predicted 95 % interval, ± 1.96 deviations: price " in shown.err
    main(["predict", *words])
    assert "± deviation" in capsys.readouterr().out
    of_tensors = metalearn.load("unsure").predict(support[:, :2], support[:, 2:], query[:, :2])
    assert of_tensors.deviations is not None
    np.testing.assert_allclose(of_tensors.deviations.numpy(), said, rtol=1e-5)
    assert metalearn.load("waves").predict([[0.0]], [0.0], [[0.5]]).deviations is None, "MAML predicts none"


def test_a_page_has_the_table_and_of_one_input_the_curve(capsys: pytest.CaptureFixture[str]) -> None:
    made = predicted(capsys, "table", "--support", "support.csv", "--query", "known.csv", "--html", "pages/table.html")
    text = Path("pages/table.html").read_text()
    assert "predicts price, rent from age, area, learned from 5 points" in text
    for row in made["predictions"]:
        assert f"<td>{row['predicted']['price']:.6g}</td>" in text
    assert "<svg" not in text, "a curve has one input"
    write("points.csv", "x,y", [(x, math.sin(x)) for x in (-3.0, 0.0, 2.0)])
    write("rows.csv", "y,x", [(0.5, 1.5), (0.25, -2.0), (0.0, 0.25), (1.0, 3.0)])
    main(["predict", "waves", "--support", "points.csv", "--query", "rows.csv", "--html", "waves.html"])
    text = Path("waves.html").read_text()
    assert text.count("<svg") == 1
    assert text.count("<title>support: ") == 3
    assert text.count("<title>target: ") == 4
    (line,) = re.findall(r'<polyline class="line c0" points="([^"]+)"', text)
    across = [float(point.partition(",")[0]) for point in line.split()]
    assert across == sorted(across), "from left to right, whatever the order of the rows"
    assert "band" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL), "this one is not sure of anything"


def test_a_page_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    with pytest.raises(SystemExit) as leaving:
        main(["predict", "table", "--support", "support.csv", "--query", "known.csv", "--html", "file/page.html"])
    assert leaving.value.code == 2
    assert "--html" in capsys.readouterr().err
