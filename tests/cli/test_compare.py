"""`metalearn compare` on the command line: its table, its files, its errors."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from metalearn.cli.main import main
from tests.runs.made_runs import config_of, make_run, task_scores


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    for seed in range(2):
        make_run(tmp_path / f"a{seed}", task_scores(0.9, seed), config_of("a_b", seed))
        make_run(tmp_path / f"b{seed}", task_scores(0.8, seed + 5), config_of("b", seed))
    return tmp_path


def test_the_table(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", str(outputs)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["algorithm", "seeds"]
    assert "baseline" in lines[1]
    assert "worse" in lines[2]
    assert any(line.startswith("note: the baseline is the best row") for line in lines)


def test_unchanged_columns_are_left_out(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", str(outputs), "--skip-unchanged"])
    assert "seeds" not in capsys.readouterr().out.splitlines()[0].split()


def test_files(outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / "out" / f"table.{name}" for name in ("csv", "json", "md", "tex")}
    main(["compare", str(outputs), *(word for name, file in files.items() for word in (f"--{name}", str(file)))])
    assert "written to:" in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert [row["name"] for row in rows] == ["a_b", "b"]
    assert float(rows[1]["difference_value"]) == pytest.approx(-0.1, abs=0.03)
    record = json.loads(files["json"].read_text())
    assert record["rows"][0]["is_baseline"]
    assert files["md"].read_text().startswith("| algorithm |")
    assert r"a\_b" in files["tex"].read_text()


def test_json_on_stdout_is_nothing_but_json(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", str(outputs), "--json", "-"])
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "compare needs runs"),
        (["none"], "'none' is not there"),
        (["RUNS", "--equal", "x"], "--equal: 'x' is not allowed"),
        (["RUNS", "--equal", "-1"], "--equal"),
        (["RUNS", "--top", "0"], "'0' is not allowed"),
        (["RUNS", "--sort", "nothing"], "--sort: no run has a setting 'nothing'"),
        (["RUNS", "--baseline", "c"], "--baseline: no row is 'c'"),
        (["RUNS", "--filter", "x"], "--filter: 'x' is not of the form"),
        (["RUNS", "--csv", "-", "--md", "-"], "only one of"),
        (["RUNS", "--csv", "RUNS"], "is a folder: name a file"),
        (["RUNS", "--basline", "a"], "did you mean '--baseline'"),
    ],
)
def test_mistakes_get_one_line(outputs: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", *(str(outputs) if word == "RUNS" else word for word in words)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_largest_first(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", str(outputs), "--sort", "-name"])
    assert capsys.readouterr().out.splitlines()[1].startswith("b ")
    main(["runs", str(outputs), "--sort", "-score"])
    assert "a_b" in capsys.readouterr().out.splitlines()[1]


def test_from_python(outputs: Path) -> None:
    import metalearn

    record = metalearn.compare(outputs, baseline="b", equal=20)
    assert [row["difference"] and row["difference"]["verdict"] for row in record["rows"]] == ["practically equal", None]
    assert len(metalearn.list_runs(outputs)) == 4
