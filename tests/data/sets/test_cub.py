"""Converts Caltech-UCSD Birds, from small files of exactly the published layout: every class, two images of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metalearn.data.classes import SPLITS
from metalearn.data.sets import cub
from metalearn.errors import UserError
from tests.data.small_files import classes_of, image, picture, pixels, settings, unpacked, write_tar

NAMES = classes_of("cub")
PATHS = [f"{name}/{name[4:]}_{i:04d}_{100 + i}.jpg" for name in NAMES for i in (1, 2)]
FILES = {
    "attributes.txt": b"1 has_bill_shape::curved_(up_or_down)\n",
    "CUB_200_2011/images.txt": "".join(f"{k} {path}\n" for k, path in enumerate(PATHS, 1)).encode(),
    "CUB_200_2011/bounding_boxes.txt": "".join(
        f"{k} {float(k % 5)} 2.0 {10.0 + k % 3} 9.0\n" for k in range(1, len(PATHS) + 1)
    ).encode(),
    **{f"CUB_200_2011/images/{path}": picture(k) for k, path in enumerate(PATHS, 1)},
    "CUB_200_2011/parts/parts.txt": b"1 back\n",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cub")
    write_tar(root / "CUB_200_2011.tgz", FILES)
    return root


def test_both_splits(root: Path) -> None:
    sizes = {}
    for split in ("metadataset", "chen"):
        dataset = cub.load(**settings(root, split=split, crop="none"))
        assert list(dataset.class_names) == NAMES
        sizes[split] = [len(dataset.split.classes[part]) for part in SPLITS]
    assert sizes == {"metadataset": [140, 30, 30], "chen": [100, 50, 50]}
    assert np.array_equal(image(dataset, NAMES[7], 1), pixels(FILES[f"CUB_200_2011/images/{PATHS[15]}"], 12))


def test_the_part_in_the_box(root: Path) -> None:
    dataset = cub.load(**settings(root, split="chen", crop="box"))
    for k in (1, 16, 400):  # of the images, counted from 1
        content = FILES[f"CUB_200_2011/images/{PATHS[k - 1]}"]
        expected = pixels(content, 12, (k % 5, 2, k % 5 + 10 + k % 3, 11))
        assert np.array_equal(image(dataset, NAMES[(k - 1) // 2], (k - 1) % 2), expected)


def test_the_unpacked_folder(root: Path, tmp_path: Path) -> None:
    unpacked(tmp_path, FILES)
    for crop in ("none", "box"):
        folder = cub.load(**settings(tmp_path, split="chen", crop=crop))
        packed = cub.load(**settings(root, split="chen", crop=crop))
        assert np.array_equal(folder.images.images, packed.images.images)


def test_boxes_without_their_file_are_missed(tmp_path: Path) -> None:
    files = {name: content for name, content in FILES.items() if "bounding" not in name}
    write_tar(tmp_path / "CUB_200_2011.tgz", files)
    with pytest.raises(UserError, match=r"CUB_200_2011\.tgz has no bounding_boxes\.txt"):
        cub.load(**settings(tmp_path, split="chen", crop="box"))
