"""Converts Fashion-MNIST from small files of exactly the published layout; real ones where this machine has them."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metalearn.data.cache import entries, size_of
from metalearn.data.classes import SPLITS
from metalearn.data.files.published import found, verify
from metalearn.data.overview import overview
from metalearn.data.sets import fashionmnist
from metalearn.errors import UserError
from metalearn.tasks import TaskShape
from tests.compose import compose
from tests.data.small_files import idx, image, section, settings

FILES = [file.name for file in fashionmnist.ABOUT.files]
RANDOM_0 = "0ad9e70b293c2f1af8f8a8cea6715c3fc629931056e22a00493eec1c056fc7cc"


def write(root: Path, train: int = 30, test: int = 20) -> dict[str, np.ndarray]:
    """Ten classes, one after another: images of noise."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", train), ("t10k", test)):
        arrays[f"{part}-images-idx3-ubyte.gz"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte.gz"] = (np.arange(count) % 10).astype(np.uint8)
    root.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        (root / name).write_bytes(gzip.compress(idx(values), 1))
    return arrays


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def load(root: Path | None, **changes: object) -> fashionmnist.ImageClasses:
    return fashionmnist.load(**settings(root, **{"split": "random", "size": 28} | changes))


def test_images_of_both_parts_and_their_turned_copies(tmp_path: Path) -> None:
    arrays = write(tmp_path)
    dataset = load(tmp_path)
    assert dataset.images.counts.tolist() == [5] * 20
    assert dataset.input_shape == (1, 28, 28)
    for label, name in enumerate(fashionmnist.NAMES):
        assert np.array_equal(image(dataset, name, 2)[0], arrays["train-images-idx3-ubyte.gz"][20 + label])
        assert np.array_equal(image(dataset, name, 4)[0], arrays["t10k-images-idx3-ubyte.gz"][10 + label])
        assert np.array_equal(image(dataset, f"turned {name}", 2)[0], np.rot90(image(dataset, name, 2)[0]))


def test_half_of_the_classes_is_for_test_and_validation_turns_those_of_training(root: Path) -> None:
    dataset = load(root)
    classes = dataset.split.classes
    assert [len(classes[part]) for part in SPLITS] == [5, 5, 5]
    assert classes["val"] == tuple(f"turned {name}" for name in classes["train"])
    assert {*classes["train"], *classes["test"]} == set(fashionmnist.NAMES)
    assert dataset.split.name == "random-0"
    assert dataset.split.sha256 == RANDOM_0
    assert f"`{RANDOM_0[:12]}`" in section("fashionmnist")
    assert load(root, split_seed=1).split.sha256 != RANDOM_0
    for part in SPLITS:
        dataset.check(part, TaskShape(5, 1, 4))


def test_all_ten_for_test(root: Path) -> None:
    dataset = load(root, split="test_only")
    assert set(dataset.split.classes["test"]) == set(fashionmnist.NAMES)
    assert dataset.source("test", 0, torch.device("cpu")).tasks(0, 2, TaskShape(10, 1, 4)).support.x.shape == (
        2,
        10,
        1,
        28,
        28,
    )
    with pytest.raises(UserError, match="its train split has no class"):
        dataset.check("train", TaskShape(5, 1, 1))
    assert load(root, split="test_only", min_images=5).split.name == "test_only"


@pytest.mark.parametrize("dataset", ["fashionmnist", "eurosat"])
def test_no_algorithm_prefers_more_ways_than_five_classes_allow(dataset: str) -> None:
    assert compose("dataset=omniglot", "algorithm=protonet")["task"]["train"]["ways"] == 20
    assert compose(f"dataset={dataset}", "algorithm=protonet")["task"]["train"]["ways"] == 5


def test_turned_copies_are_not_counted_as_classes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(root / "cache"))
    lines = list(overview(load(root)))
    assert lines[0].startswith("20 classes (10 of them turned copies), 100 images (5 a class), 28x28 pixels, grey")
    assert [size_of(entry) for entry in entries("fashionmnist")] == [(10, 50)]


def test_another_size_is_resized(root: Path) -> None:
    assert load(root, size=14).input_shape == (1, 14, 14)


def test_torchvisions_folder_and_unpacked_files(tmp_path: Path) -> None:
    write(tmp_path / "FashionMNIST/raw")
    packed = load(tmp_path)
    for name in FILES:
        file = tmp_path / "FashionMNIST/raw" / name
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    assert np.array_equal(load(tmp_path).images.images, packed.images.images)


def test_debians_package_is_found_where_there_is_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "system")
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(fashionmnist, "ABOUT", replace(fashionmnist.ABOUT, system=str(tmp_path / "system")))
    assert load(None).images.counts.sum() == 100
    with pytest.raises(
        UserError, match=r"train-images-idx3-ubyte\.gz \(26\.4 MB, md5 8d4f.*3 more files are missing in"
    ):
        load(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "train-images-idx3-ubyte.gz",
            b"not gzip",
            "train-images-idx3-ubyte.gz cannot be read .*: delete it and fetch it",
        ),
        ("train-images-idx3-ubyte.gz", gzip.compress(b"\0\0\x08\x03" + b"x" * 99)[:60], "train-images"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros(30, np.uint8))), "it is no idx3 file of bytes"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((29, 28, 28), np.uint8))), "29 images and 30 labels"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((30, 28, 28), np.uint8))[:-1]), "is cut off"),
        (
            "train-images-idx3-ubyte.gz",
            gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 30, 9999, 9999)),
            "9999x9999 pixels",
        ),
        ("train-labels-idx1-ubyte.gz", gzip.compress(idx(np.zeros(30, np.uint8))[:-4]), "30 labels are announced, 26"),
        (
            "train-labels-idx1-ubyte.gz",
            gzip.compress(idx(np.full(30, 12, np.uint8))),
            "has the label 12 .known: 0 to 9",
        ),
    ],
    ids=range(8),  # the content has the time in it: as a name it would differ from one process to the next
)
def test_damaged_files_are_one_line(root: Path, name: str, content: bytes, said: str) -> None:
    (root / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        load(root)
    assert "\n" not in str(error.value)


def test_debians_packing_counts_as_published(tmp_path: Path) -> None:
    file = tmp_path / "labels.gz"
    file.write_bytes(b"the same, packed again")
    known = replace(fashionmnist.ABOUT.files[1], repacked=((22, hashlib.md5(file.read_bytes()).hexdigest()),))
    assert verify(file, known) is None
    file.write_bytes(b"the same, packed wrong")
    assert "its md5 is" in str(verify(file, known))


def test_the_real_files_are_the_published_ones() -> None:
    root = Path(os.environ.get("METALEARN_DATA", "no-such-folder")) / "fashionmnist"
    root = root if root.is_dir() else Path(str(fashionmnist.ABOUT.system))
    if not root.is_dir():
        pytest.skip("needs Fashion-MNIST in $METALEARN_DATA/fashionmnist or Debian's package dataset-fashion-mnist")
    for file in fashionmnist.ABOUT.files:
        place = found(root, file)
        assert place is not None
        assert verify(place, file) is None
    assert load(root).images.counts.tolist() == [7000] * 20
