"""CSV files of numbers: what is read of them, and that each mistake is named with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metalearn.data.own import table
from metalearn.data.own.table import read_table
from metalearn.errors import UserError

TEXT = "city,a,b,note,y\nOslo,1,-2.5e1,x,3\nBergen,2,0,,4\nOslo,3,.5,y,5\n"


def written(tmp_path: Path, text: str, name: str = "points.csv") -> Path:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def test_columns_are_read_by_their_names(tmp_path: Path) -> None:
    found = read_table(written(tmp_path, TEXT), {"city": "dataset.task"}, {"y": "dataset.target"}, others=True)
    assert (found.labels["city"].names, found.labels["city"].codes.tolist()) == (("Oslo", "Bergen"), [0, 1, 0])
    assert list(found.numbers) == ["y", "a", "b"]
    assert found.matrix(["b", "y"]).tolist() == [[-25.0, 3.0], [0.0, 4.0], [0.5, 5.0]]
    assert (found.others, found.rows) == (("note",), 3)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_kind_of_file_does_not_matter(tmp_path: Path, delimiter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_ROWS", 2)  # read in several parts
    text = (
        "\ufeff"
        + TEXT.replace(",", delimiter).replace("\n", "\r\n").replace("Oslo", '"Oslo"')
        + delimiter * 4
        + "\r\n\r\n"
    )
    found = read_table(written(tmp_path, text), {"city": "dataset.task"}, others=True)
    assert found.labels["city"].codes.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(found.matrix(["a", "b", "y"]), [[1, -25, 3], [2, 0, 4], [3, 0.5, 5]])


def test_a_column_of_row_numbers_without_a_name_is_none_of_the_others(tmp_path: Path) -> None:
    found = read_table(written(tmp_path, ",city,y\n0,Oslo,1\n1,Oslo,2\n"), {"city": "t"}, others=True)
    assert list(found.numbers) == ["y"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "points.csv is empty: its first line must name the columns"),
        ("city,y\n", "points.csv has no row below its first line"),
        ("city,y,y\nOslo,1,2\n", "points.csv has two columns 'y'"),
        ("town,y\nOslo,1\n", "dataset.task=city: points.csv has no column 'city' \\(columns: town, y\\)"),
        ("city,Y1\nOslo,1\n", "dataset.target=y: points.csv has no column 'y'.*columns: city, Y1"),
        ("city,y\nOslo,1\nOslo\n", "points.csv, line 3 has 1 cell \\(needed: 2\\)"),
        ("city,y\nOslo,1\n,2\n", "points.csv, line 3: column 'city' is empty"),
        ("city,y\nOslo,1\nOslo,\n", "points.csv, line 3: column 'y' is empty \\(leave out"),
        ("city,y\nOslo,1\nOslo,nan\n", "points.csv, line 3: column 'y' holds 'nan': a finite number is needed"),
        ("city,y\nOslo,-inf\n", "points.csv, line 2: column 'y' holds '-inf': a finite number is needed"),
        ("city,y\nOslo,1\nOslo,abc\n", "points.csv, line 3: column 'y' holds 'abc', which is no number"),
        ("city;y\nOslo;1,5\n", "line 2: column 'y' holds '1,5', which is no number \\(write a decimal point\\)"),
        ('city,y\n"Os\nlo",1\n\nOslo,x\n', "points.csv, line 5: column 'y' holds 'x'"),
        ("city,y,z\nOslo,1,1\nOslo,2,2\nOslo,3,n/a\n", "points.csv, line 4: column 'z' holds 'n/a'"),
    ],
)
@pytest.mark.parametrize("rows", [2, 20_000])
def test_each_mistake_is_one_line_that_names_its_place(
    tmp_path: Path, text: str, said: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "_ROWS", rows)
    with pytest.raises(UserError, match=said) as error:
        read_table(written(tmp_path, text), {"city": "dataset.task"}, {"y": "dataset.target"}, others=True)
    assert "\n" not in str(error.value)


def test_a_file_of_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_bytes("city,y\nTromsø,1\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"points\.csv is not UTF-8"):
        read_table(tmp_path / "points.csv", others=True)
