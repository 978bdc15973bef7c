"""Converts FGVCx Fungi, from small files of exactly the published layout: every class, two images of each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from metalearn.data.classes import SPLITS
from metalearn.data.sets import fungi
from metalearn.errors import UserError
from tests.data.small_files import classes_of, image, picture, pixels, settings, unpacked, write_tar

NAMES = classes_of("fungi")
# As published: the training file has most images, both have all categories, names may end with a space.
PATHS = [f"images/{name[5:]}/{100 * k + i}.JPG" for k, name in enumerate(NAMES) for i in range(2)]


def annotations(numbers: range) -> bytes:
    return json.dumps(
        {
            "images": [{"id": k, "file_name": PATHS[k], "width": 24, "height": 16} for k in numbers],
            "annotations": [{"id": k, "image_id": k, "category_id": k // 2} for k in numbers],
            "categories": [{"id": k, "name": f"{name[5:]} "} for k, name in enumerate(NAMES)],
        }
    ).encode()


def files() -> tuple[dict[str, bytes], dict[str, bytes]]:
    contents = [picture(k, 6, 4) for k in range(50)]
    images = {path: contents[k % 50] for k, path in enumerate(PATHS)}
    last = len(PATHS) - 100
    texts = {
        "train.json": annotations(range(last)),
        "val.json": annotations(range(last, len(PATHS))),
    }
    return images, texts


@pytest.mark.parametrize("packed", [True, False])
def test_every_species(tmp_path: Path, packed: bool) -> None:
    images, texts = files()
    if packed:
        write_tar(tmp_path / "fungi_train_val.tgz", images | {"images/unlisted/1.JPG": picture(0)})
        write_tar(tmp_path / "train_val_annotations.tgz", texts)
    else:
        unpacked(tmp_path, images | texts)
    dataset = fungi.load(**settings(tmp_path, split="metadataset", size=8))
    assert list(dataset.class_names) == NAMES
    assert dataset.images.counts.tolist() == [2] * 1394
    for k in (0, 1337, 2787):
        assert np.array_equal(image(dataset, NAMES[k // 2], k % 2), pixels(images[PATHS[k]], 8))
    assert [len(dataset.split.classes[part]) for part in SPLITS] == [994, 200, 200]


def test_other_annotations_are_one_line(tmp_path: Path) -> None:
    images, texts = files()
    write_tar(tmp_path / "fungi_train_val.tgz", images)
    for content in (
        b"<html>",
        b"[]",
        b"{}",
        texts["train.json"].replace(b'"category_id": 0', b'"category_id": 2000'),
    ):
        write_tar(tmp_path / "train_val_annotations.tgz", texts | {"train.json": content})
        with pytest.raises(UserError, match=r"train\.json is not the published file of annotations") as error:
            fungi.load(**settings(tmp_path, split="metadataset"))
        assert "\n" not in str(error.value)
