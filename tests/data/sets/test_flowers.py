"""Converts the 102 flowers, from small files of exactly the published layout: every class, two images of each."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from metalearn.data.classes import SPLITS
from metalearn.data.sets import flowers
from metalearn.errors import UserError
from tests.data.small_files import classes_of, image, picture, pixels, settings, unpacked, write_tar

NAMES = classes_of("flowers")
# As published: uint8 [1, 8189], classes from 1 to 102 in no order.
LABELS = np.array([[(5 * k) % 102 + 1 for k in range(204)]], dtype=np.uint8)
FILES = {f"jpg/image_{k:05d}.jpg": picture(k) for k in range(1, 205)}


def mat(**arrays: Any) -> bytes:
    content = io.BytesIO()
    savemat(content, arrays)
    return content.getvalue()


def test_archive_and_folder(tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "folder", FILES)
    write_tar(tmp_path / "102flowers.tgz", FILES)
    for root in (tmp_path, folder):
        (root / "imagelabels.mat").write_bytes(mat(labels=LABELS))
        dataset = flowers.load(**settings(root, split="metadataset"))
        assert list(dataset.class_names) == NAMES
        for name in ("001.pink primrose", "012.colt's foot"):
            own = [k + 1 for k in range(204) if LABELS[0, k] == int(name[:3])]
            assert len(own) == 2
            for place, number in enumerate(own):
                expected = pixels(FILES[f"jpg/image_{number:05d}.jpg"], 12)
                assert np.array_equal(image(dataset, name, place), expected)
    assert [len(dataset.split.classes[part]) for part in SPLITS] == [71, 15, 16]


def test_labels_that_are_none_are_one_line(tmp_path: Path) -> None:
    write_tar(tmp_path / "102flowers.tgz", FILES)
    with pytest.raises(UserError, match=r"imagelabels\.mat \(502 bytes, sha256 4903e9"):
        flowers.load(**settings(tmp_path, split="metadataset"))
    for content, message in (
        (b"<html>", "is not the published table of labels"),
        (mat(other=LABELS), "is not the published table of labels"),
        (mat(labels=LABELS + 1), "the classes are numbered from 1 to 102, 103 is there"),
        (mat(labels=LABELS[:, :50]), r"image_00051\.jpg: .* has the classes of 50 images only"),
    ):
        (tmp_path / "imagelabels.mat").write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            flowers.load(**settings(tmp_path, split="metadataset"))
        assert "\n" not in str(error.value)
