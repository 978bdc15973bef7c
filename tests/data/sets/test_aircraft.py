"""Converts FGVC-Aircraft, from small files of exactly the published layout: every class, two images of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalearn.data.classes import SPLITS
from metalearn.data.sets import aircraft
from metalearn.errors import UserError
from tests.data.small_files import classes_of, image, picture, pixels, settings, unpacked, write_tar

NAMES = classes_of("aircraft")
# As published: numbers of images say nothing about classes, and one list of images is for test.
NUMBERS = {f"{(7919 * k) % 1_000_003:07d}": NAMES[k % 100] for k in range(200)}
ROOT = "fgvc-aircraft-2013b/data"
LINES = [f"{number} {name}" for number, name in NUMBERS.items()]
FILES = {
    **{f"{ROOT}/images/{number}.jpg": picture(k) for k, number in enumerate(NUMBERS)},
    f"{ROOT}/images_variant_trainval.txt": ("\n".join(LINES[:130]) + "\n").encode(),
    f"{ROOT}/images_variant_train.txt": ("\n".join(LINES[:60]) + "\n").encode(),
    f"{ROOT}/images_variant_test.txt": ("\n".join(LINES[130:]) + "\n").encode(),
    f"{ROOT}/images_box.txt": "".join(f"{number} 3 2 20 13\n" for number in NUMBERS).encode(),
    f"{ROOT}/variants.txt": "\n".join(NAMES).encode(),
}


@pytest.mark.parametrize(("crop", "box"), [("none", None), ("box", (2, 1, 20, 13))])
@pytest.mark.parametrize("packed", [True, False])
def test_every_variant(tmp_path: Path, crop: str, box: Any, packed: bool) -> None:
    if packed:
        write_tar(tmp_path / "fgvc-aircraft-2013b.tar.gz", FILES)
    else:
        unpacked(tmp_path, FILES)
    dataset = aircraft.load(**settings(tmp_path, split="metadataset", crop=crop))
    assert list(dataset.class_names) == NAMES
    assert {"F-16A/B", "Falcon 2000"} <= set(dataset.class_names)
    assert dataset.images.counts.tolist() == [2] * 100
    for name in ("F-16A/B", "A380"):
        own = sorted(number for number, variant in NUMBERS.items() if variant == name)
        for place, number in enumerate(own):
            assert np.array_equal(image(dataset, name, place), pixels(FILES[f"{ROOT}/images/{number}.jpg"], 12, box))
    assert [len(dataset.split.classes[part]) for part in SPLITS] == [70, 15, 15]


def test_another_archive_is_one_line(tmp_path: Path) -> None:
    write_tar(tmp_path / "fgvc-aircraft-2013b.tar.gz", {"data/images/1.jpg": picture(0)})
    with pytest.raises(UserError, match=r"tar\.gz has no images_variant_trainval\.txt: it is not the published"):
        aircraft.load(**settings(tmp_path, split="metadataset", crop="box"))
