"""Converts EMNIST from a small gzip.zip of exactly the published layout: idx files in gzip, each image column by column."""

from __future__ import annotations

import gzip
import string
from pathlib import Path

import numpy as np
import pytest

from metalearn.data.classes import SPLITS
from metalearn.data.sets import emnist
from metalearn.errors import UserError
from tests.data.small_files import idx, image, section, settings, write_folder, write_zip

RANDOM_0 = {
    "balanced": "ff322431a37a53bbf84162cfb9271f859dc5b3c3e5e4f8b56efcd9a3527875f4",
    "byclass": "f64eff113e1bb9be0dc671f99d70e8b07b68297a76bd3a1f89a03df393ed6339",
    "letters": "192333b8058bea2f23d60af6e0b52a0f05422476a9d67c411dca257eb67c4d4b",
}
LABELS = {"balanced": range(47), "byclass": range(62), "letters": range(1, 27)}


def files(variant: str, each: int = 2) -> tuple[dict[str, bytes], np.ndarray]:
    """Files of one variant, and the upright training images."""
    rng = np.random.default_rng(1)
    made: dict[str, bytes] = {f"gzip/emnist-{variant}-mapping.txt": b"0 48\n"}
    labels = np.repeat(np.array(LABELS[variant], np.uint8), each)
    upright = rng.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
    for part, images in (("train", upright), ("test", upright[::-1])):
        stored = np.ascontiguousarray(images.transpose(0, 2, 1))
        of_part = labels if part == "train" else labels[::-1]
        made[f"gzip/emnist-{variant}-{part}-images-idx3-ubyte.gz"] = gzip.compress(idx(stored), 1)
        made[f"gzip/emnist-{variant}-{part}-labels-idx1-ubyte.gz"] = gzip.compress(idx(of_part), 1)
    return made, upright


def load(root: Path, variant: str, **changes: object) -> emnist.ImageClasses:
    return emnist.load(**settings(root, variant=variant, **{"split": "random", "size": 28} | changes))


@pytest.mark.parametrize(
    ("variant", "classes", "sizes"),
    [
        ("balanced", string.digits + string.ascii_uppercase + "abdefghnqrt", [22, 10, 15]),
        ("byclass", string.digits + string.ascii_uppercase + string.ascii_lowercase, [30, 12, 20]),
        ("letters", string.ascii_uppercase, [12, 6, 8]),
    ],
)
def test_every_variant_upright(tmp_path: Path, variant: str, classes: str, sizes: list[int]) -> None:
    made, upright = files(variant)
    write_zip(tmp_path / "gzip.zip", made)
    dataset = load(tmp_path, variant)
    assert dataset.class_names == tuple(sorted(classes))
    for number, name in enumerate(classes):
        assert np.array_equal(image(dataset, name, 0)[0], upright[2 * number])
        # The test part is the other way round.
        assert np.array_equal(image(dataset, name, 2)[0], upright[2 * number + 1])
    assert [len(dataset.split.classes[part]) for part in SPLITS] == sizes
    assert dataset.split.sha256 == RANDOM_0[variant]
    sizes_and_hash = f"{', '.join(map(str, sizes))} | `{RANDOM_0[variant][:12]}` |"
    assert sizes_and_hash in section("emnist")


def test_all_classes_for_test(tmp_path: Path) -> None:
    write_zip(tmp_path / "gzip.zip", files("balanced")[0])
    dataset = load(tmp_path, "balanced", split="test_only")
    assert [len(dataset.split.classes[part]) for part in SPLITS] == [0, 0, 47]


def test_the_unpacked_folder_and_torchvisions(tmp_path: Path) -> None:
    made, _ = files("letters")
    (tmp_path / "packed").mkdir()
    write_zip(tmp_path / "packed" / "gzip.zip", made)
    write_folder(tmp_path / "unpacked", made)
    write_folder(tmp_path / "torchvision" / "EMNIST" / "raw", made)
    packed = load(tmp_path / "packed", "letters")
    for folder in ("unpacked", "torchvision"):
        assert np.array_equal(load(tmp_path / folder, "letters").images.images, packed.images.images)


def test_a_missing_variant_is_named(tmp_path: Path) -> None:
    write_zip(tmp_path / "gzip.zip", files("letters")[0])
    with pytest.raises(UserError, match=r"gzip\.zip has no file 'gzip/emnist-byclass-train-labels-idx1-ubyte\.gz'"):
        load(tmp_path, "byclass")


def test_the_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gzip\.zip \(561\.8 MB, md5 58c8.*metalearn data fetch emnist"):
        load(tmp_path, "letters")
