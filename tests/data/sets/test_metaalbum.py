"""Converts a set of Meta-Album from small files of exactly the published layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from metalearn.data.classes import SPLITS
from metalearn.data.sets import metaalbum
from metalearn.errors import UserError
from tests.data.small_files import image, picture, pixels, settings, unpacked, write_zip

CLASSES = [f"BIRD {k}" for k in range(20)]
ROWS = [(f"{k}_{i}.jpg", name) for k, name in enumerate(CLASSES) for i in range(2)]
INFO = {
    "dataset_name": "BRD",
    "total_categories": 20,
    "has_super_categories": True,
    "image_column_name": "FILE_NAME",
    "category_column_name": "CATEGORY",
    "super_category_column_name": "SUPER_CATEGORY",
}


def files(above: str = "", info: bytes | None = None, labels: str | None = None) -> dict[str, bytes]:
    table = labels or "FILE_NAME,CATEGORY,SUPER_CATEGORY\n" + "".join(f"{file},{name},birds\n" for file, name in ROWS)
    return {
        f"{above}info.json": json.dumps(INFO).encode() if info is None else info,
        f"{above}labels.csv": table.encode(),
        **{f"{above}images/{file}": picture(k) for k, (file, _) in enumerate(ROWS)},
    }


def load(root: Path, **changes: object) -> metaalbum.ImageClasses:
    return metaalbum.load(**settings(root, **{"set": "BRD", "version": "Mini", "split": "random"} | changes))


def test_packed_unpacked_and_the_set_itself(tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    write_zip(tmp_path / "packed" / "BRD_Mini.zip", files("BRD_Mini/"))
    write_zip(tmp_path / "packed" / "BRD_Micro.zip", files())
    unpacked(tmp_path / "unpacked", files("BRD_Mini/"))
    dataset = load(tmp_path / "packed")
    assert dataset.class_names == tuple(sorted(CLASSES))
    assert np.array_equal(image(dataset, "BIRD 3", 1), pixels(picture(7), 12))
    assert {str(each).partition(":")[0] for each in dataset.classes("test")} == {"metaalbum/BRD"}
    others = [
        load(tmp_path / "packed", version="Micro"),
        load(tmp_path / "unpacked"),
        load(tmp_path / "unpacked" / "BRD_Mini", set=None),
        load(tmp_path / "packed" / "BRD_Mini.zip", set=None),
    ]
    for other in others:
        assert np.array_equal(other.images.images, dataset.images.images)
        assert other.classes("train") == dataset.classes("train")


def test_a_quarter_each_for_validation_and_test(tmp_path: Path) -> None:
    unpacked(tmp_path, files("BRD_Mini/"))
    dataset = load(tmp_path)
    assert [len(dataset.split.classes[part]) for part in SPLITS] == [10, 5, 5]
    assert len(load(tmp_path, split="test_only").split.classes["test"]) == 20


def test_columns_of_other_names(tmp_path: Path) -> None:
    info = json.dumps(INFO | {"image_column_name": "file", "category_column_name": "species"}).encode()
    labels = "\ufefffile, species\n" + "".join(f"{file}, {name}\n" for file, name in ROWS)
    unpacked(tmp_path, files("BRD_Mini/", info, labels))
    assert load(tmp_path).class_names == tuple(sorted(CLASSES))


@pytest.mark.parametrize(
    ("info", "labels", "said"),
    [
        (b"[1]", None, "info.json holds no mapping"),
        (b"{", None, "info.json holds no mapping"),
        (None, "FILE,CATEGORY\na.jpg,x\n", "has no column FILE_NAME .it has: FILE, CATEGORY"),
        (None, "FILE_NAME,CATEGORY\n0_0.jpg,x\ngone.jpg,y\n", "names 2 images, 1 of them are in images/"),
        (None, "FILE_NAME,CATEGORY\n", "names no image"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, info: bytes | None, labels: str | None, said: str) -> None:
    unpacked(tmp_path, files("BRD_Mini/", info, labels))
    with pytest.raises(UserError, match=said):
        load(tmp_path)


def test_a_missing_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"PLK_Mini\.zip .*or PLK_Mini, which.*by hand: https://meta-album"):
        load(tmp_path, set="PLK")
    with pytest.raises(UserError, match=r"dataset\.set=null needs dataset\.root"):
        metaalbum.load(**settings(None, set=None, version="Mini", split="random"))
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "nowhere", set=None)
