"""Somebody's own texts as a data set."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from metalearn.data.sets.text import load
from metalearn.data.text_classes import TextClasses
from metalearn.engine.build import build_algorithm
from metalearn.errors import UserError
from metalearn.nn.texts import texts_of
from tests.compose import compose

USUAL = {key: value for key, value in compose("dataset=text")["dataset"].items() if key != "_target_"}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path_factory.mktemp("cache")))


def read(root: Path | None, **changes: Any) -> TextClasses:
    return load(**{**USUAL, "root": None if root is None else str(root), **changes})


def texts_by_class(dataset: TextClasses) -> dict[str, list[str]]:
    return {
        name: texts_of(torch.tensor(dataset.texts.of_class(number))) for number, name in enumerate(dataset.class_names)
    }


def table(file: Path, rows: list[tuple[str, ...]], names: str = "text,label") -> Path:
    file.write_text("\n".join([names, *(",".join(row) for row in rows)]), encoding="utf-8")
    return file


def test_a_csv_file_of_texts_and_labels(tmp_path: Path) -> None:
    file = table(tmp_path / "mine.csv", [(f"text {k} ü", f"c{k % 6}") for k in range(18)])
    dataset = read(file)
    assert texts_by_class(dataset) == {f"c{c}": [f"text {k} ü" for k in range(c, 18, 6)] for c in range(6)}
    assert dataset.input_shape == (len("text 17 ü".encode()),)
    assert str(dataset.classes("test")[0]).startswith("text-mine:c")


def test_a_split_that_the_file_names(tmp_path: Path) -> None:
    rows = [(f"t {k}", f"c{k}", part) for k, part in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 3)]
    split = read(table(tmp_path / "x.csv", rows, "text,label,split")).split
    assert split.classes == {"train": ("c0", "c1", "c2", "c3"), "val": ("c4", "c5"), "test": ("c6", "c7", "c8")}


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_txt_files_for_each_class(tmp_path: Path, packed: bool) -> None:
    root = tmp_path / "mine"
    for part, names in {"train": "abcd", "val": "ef", "test": "gh"}.items():
        for name in names:
            (root / part / name).mkdir(parents=True)
            for k in range(3):
                (root / part / name / f"{k}.txt").write_text(f"\ufeff{name} says\n{k}\n", encoding="utf-8")
    if packed:
        with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
            for file in root.rglob("*.txt"):
                archive.write(file, file.relative_to(root))
        root = tmp_path / "mine.zip"
    dataset = read(root)
    assert dataset.split.classes == {"train": tuple("abcd"), "val": ("e", "f"), "test": ("g", "h")}
    assert texts_by_class(dataset)["a"] == [f"a says\n{k}" for k in range(3)]


def test_a_text_that_a_class_has_twice_is_taken_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [("same", f"c{k}") for k in range(6)] * 2 + [(f"other {k}", f"c{k}") for k in range(6)]
    with caplog.at_level(logging.INFO, "metalearn"):
        assert set(read(table(tmp_path / "x.csv", rows)).texts.counts) == {2}
    assert "12 texts of 6 classes, the list x.csv; 6 that a class has twice are taken once" in caplog.text


def test_long_texts_lose_their_end_which_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = table(tmp_path / "x.csv", [("é" * (3000 if k == 0 else 5), f"c{k % 6}") for k in range(6)])
    dataset = read(file)
    assert dataset.input_shape == (2048,)
    assert texts_by_class(dataset)["c0"] == ["é" * 1024]
    assert "1 of more than 2048 bytes lose their end (the longest has 6000: dataset.length)" in caplog.text
    assert texts_by_class(read(file, length=5))["c1"] == ["éé"]


def test_small_classes_are_left_out_before_a_split_is_drawn(tmp_path: Path) -> None:
    rows = [(f"text {k}", f"c{k % 12}") for k in range(36)] + [("alone", "single")]
    dataset = read(table(tmp_path / "x.csv", rows), min_texts=2)
    assert "single" not in {name for names in dataset.split.classes.values() for name in names}
    assert dataset.split.name == "random-0-min2"


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    before = read(table(file, [(f"old {k}", f"c{k}") for k in range(6)]))
    after = read(table(file, [(f"newer {k}", f"c{k}") for k in range(6)]))
    assert texts_by_class(before)["c0"] == ["old 0"]
    assert texts_by_class(after)["c0"] == ["newer 0"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,x\n", "dataset.root has 1 class to be divided: 6 or more are needed"),
        ("words,label\na,x\n", "the first line must name the columns text,label"),
        ("text,label\n,x\n", "row 2 has an empty text"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        read(tmp_path / "x.csv")
    assert "\n" not in str(raised.value)


def test_files_that_are_no_texts_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.root must be set"):
        read(None)
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="holds no text"):
        read(tmp_path)
    (tmp_path / "a" / "1.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"a/1\.txt is not UTF-8"):
        read(tmp_path)
    (tmp_path / "a" / "1.txt").write_bytes(b" \n")
    with pytest.raises(UserError, match=r"a/1\.txt has no text in it"):
        read(tmp_path)
    (tmp_path / "b.txt").write_text("stray")
    (tmp_path / "a" / "1.txt").unlink()
    with pytest.raises(UserError, match=r"its 1 text lies in no class folder, 'b\.txt' for one"):
        read(tmp_path)


def test_pictures_cannot_be_asked_of_texts(texts_file: Path) -> None:
    dataset = read(texts_file)
    with pytest.raises(UserError, match=r"train\.augment\.flip=0\.5: text has no images that could be changed"):
        dataset.check_augment({"degrees": 0.0, "flip": 0.5})


def test_an_algorithm_that_cannot_learn_classes_is_refused_before_a_backbone_of_images_is(texts_file: Path) -> None:
    config = compose("algorithm=cnp", "backbone=conv4", "dataset=text")
    with pytest.raises(
        UserError, match=r"^algorithm=cnp cannot learn classification tasks.*those that can: .*protonet"
    ):
        build_algorithm(config, read(texts_file))
    config = compose("algorithm=protonet", "backbone=conv4", "dataset=text")
    with pytest.raises(UserError, match=r"^backbone=conv4 needs images; .*those that take them: .*ngrams"):
        build_algorithm(config, read(texts_file))
