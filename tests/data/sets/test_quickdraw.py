"""Converts Quick, Draw! from small files of exactly the published layout: an array of sketches for each of the 345 things."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metalearn.data.classes import SPLITS
from metalearn.data.sets import quickdraw
from metalearn.errors import UserError
from tests.data.small_files import image, settings


def sketches(number: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (count, 784), dtype=np.uint8)


def write(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(quickdraw.NAMES):
        np.save(root / f"{name}.npy", sketches(number))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("quickdraw"))


def load(root: Path, **changes: object) -> quickdraw.ImageClasses:
    return quickdraw.load(**settings(root, **{"split": "metadataset", "per_class": 2, "size": 28} | changes))


def test_every_thing_and_its_first_sketches(root: Path) -> None:
    dataset = load(root)
    assert dataset.class_names == quickdraw.NAMES
    assert [len(dataset.split.classes[part]) for part in SPLITS] == [241, 52, 52]
    assert dataset.images.counts.tolist() == [2] * 345
    for number, name in ((0, "The Eiffel Tower"), (344, "zigzag")):
        assert np.array_equal(image(dataset, name, 1)[0], sketches(number)[1].reshape(28, 28))
    assert load(root, per_class=None).images.counts.tolist() == [3] * 345
    assert len(load(root, split="test_only").split.classes["test"]) == 345


def test_another_size_is_resized(root: Path) -> None:
    assert load(root, size=16).input_shape == (1, 16, 16)


def test_addresses_are_quoted() -> None:
    urls = {file.name: file.urls for file in quickdraw.ABOUT.files}
    assert len(urls) == 345
    assert urls["The Eiffel Tower.npy"][0].endswith("/numpy_bitmap/The%20Eiffel%20Tower.npy")


def test_the_folder_that_gsutil_makes(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "numpy_bitmap")
    assert np.array_equal(load(tmp_path).images.images, load(root).images.images)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>", "is no intact .npy file"),
        (np.zeros((2, 783), np.uint8), r"holds uint8 \[2, 783\]"),
        (np.zeros((2, 784), np.float32), "holds float32"),
        (np.array([{}], object), "is no intact .npy file"),
        (
            None,
            r"zigzag\.npy \(no size or checksum is published\) is missing in .*metalearn data fetch quickdraw fetches it",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: np.ndarray | bytes | None, said: str) -> None:
    file = write(tmp_path) / "zigzag.npy"
    file.unlink()
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        np.save(file, content, allow_pickle=True)
    with pytest.raises(UserError, match=said):
        load(tmp_path)
