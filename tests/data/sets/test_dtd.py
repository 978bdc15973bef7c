"""Converts the Describable Textures Dataset, from small files of exactly the published layout: every class, two images of each."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from metalearn.data.classes import SPLITS
from metalearn.data.sets import dtd
from metalearn.errors import UserError
from tests.data.small_files import classes_of, image, picture, pixels, settings, unpacked, write_tar

NAMES = classes_of("dtd")
FILES = {
    **{f"dtd/images/{name}/{name}_{i:04d}.jpg": picture(10 * k + i) for k, name in enumerate(NAMES) for i in (2, 1)},
    "dtd/images/waffled/.directory": b"[Dolphin]",  # the published archive has it
    "dtd/labels/train1.txt": b"banded/banded_0001.jpg\n",
    "dtd/imdb/imdb.mat": b"MATLAB 5.0",
}


def test_archive_and_folder(tmp_path: Path) -> None:
    write_tar(tmp_path / "dtd-r1.0.1.tar.gz", FILES)
    packed = dtd.load(**settings(tmp_path, split="metadataset"))
    folder = dtd.load(**settings(unpacked(tmp_path / "other", FILES), split="metadataset"))
    assert list(packed.class_names) == NAMES
    assert packed.images.counts.tolist() == [2] * 47
    for dataset in (packed, folder):
        for k in (0, 46):
            first = FILES[f"dtd/images/{NAMES[k]}/{NAMES[k]}_0001.jpg"]
            assert np.array_equal(image(dataset, NAMES[k], 0), pixels(first, 12))
    assert [len(packed.split.classes[part]) for part in SPLITS] == [33, 7, 7]
    assert str(packed.classes("test")[0]) == "dtd:banded"


def test_a_missing_texture_is_named(tmp_path: Path) -> None:
    unpacked(tmp_path, FILES)
    shutil.rmtree(tmp_path / "dtd/images/zigzagged")
    with pytest.raises(UserError, match="the images of dtd lack 1 of its classes, 'zigzagged'"):
        dtd.load(**settings(tmp_path, split="metadataset"))
