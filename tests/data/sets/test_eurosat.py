"""Converts EuroSAT from small files of exactly the published layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metalearn.data.classes import SPLITS
from metalearn.data.sets import eurosat
from metalearn.errors import UserError
from tests.data.small_files import image, picture, pixels, section, settings, unpacked, write_zip

NAMES = (
    *("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"),
    *("Pasture", "PermanentCrop", "Residential", "River", "SeaLake"),
)
FILES = {
    f"2750/{name}/{name}_{k}.jpg": picture(10 * number + k, 16, 16)
    for number, name in enumerate(NAMES)
    for k in (1, 2, 10)
}


def load(root: Path, **changes: object) -> eurosat.ImageClasses:
    return eurosat.load(**settings(root, **{"split": "random"} | changes))


def test_the_zip_and_the_unpacked_folders(tmp_path: Path) -> None:
    (tmp_path / "zip").mkdir()
    write_zip(tmp_path / "zip" / "EuroSAT.zip", FILES)
    dataset = load(tmp_path / "zip")
    assert [name for name in dataset.class_names if not name.startswith("turned")] == list(NAMES)
    assert np.array_equal(image(dataset, "River", 0), pixels(FILES["2750/River/River_1.jpg"], 12))
    assert np.array_equal(image(dataset, "turned River", 0), np.rot90(image(dataset, "River", 0), axes=(1, 2)))
    for folder in (unpacked(tmp_path / "plain", FILES), unpacked(tmp_path / "torchvision" / "eurosat", FILES).parent):
        assert np.array_equal(load(folder).images.images, dataset.images.images)


def test_the_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_zip(tmp_path / "EuroSAT.zip", FILES)
    dataset = load(tmp_path)
    assert [len(dataset.split.classes[part]) for part in SPLITS] == [5, 5, 5]
    assert dataset.split.sha256 == "ed17095c7ac9b9bcabeb438325df40f79264d7bcbb93f2ac070947d87784f35b"
    assert f"`{dataset.split.sha256[:12]}`" in section("eurosat")
    assert load(tmp_path, split="test_only").split.classes["test"] == NAMES
    assert "eurosat has 30 images" in caplog.text
    assert "27000 are published" in caplog.text


def test_something_else_is_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / "EuroSAT.zip", {path: content for path, content in FILES.items() if "River" not in path})
    with pytest.raises(UserError, match="has images of 9 classes, EuroSAT has 10"):
        load(tmp_path)
    with pytest.raises(
        UserError, match=r"EuroSAT\.zip \(94\.3 MB, md5 c8fa.*or 2750, which it unpacks to.* is missing in"
    ):
        load(tmp_path / "elsewhere")
