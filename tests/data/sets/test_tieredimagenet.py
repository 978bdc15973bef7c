"""tiered-ImageNet, from small files of exactly the published layout, with all 608 classes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalearn.data.classes import SPLITS, read_split
from metalearn.data.sets import tieredimagenet
from metalearn.errors import UserError
from tests.data.small_files import image, picture, pixels, python_2_pickle, settings, unpacked, write_tar

CLASSES = read_split("tieredimagenet", "ren").classes
# The two files have a line for each of 1,000 classes, in an order of their own. Two are named "crane"; one of them is in this data set.
ENGLISH = {name: f"{name[::-1]}, thing {name}" for part in SPLITS for name in CLASSES[part]}
ENGLISH |= {"n02012849": "crane", "n03126707": "crane"}
TEXTS = {
    "class_names.txt": "".join(f"{ENGLISH[name]}\n" for name in sorted(ENGLISH, reverse=True)).encode(),
    "synsets.txt": "".join(f"{name}\n" for name in sorted(ENGLISH, reverse=True)).encode(),
}
# Classes are published in the order of a folder's listing, which is none; images class after class.
ORDER = {part: list(np.random.default_rng(0).permutation(CLASSES[part])) for part in SPLITS}
ENCODED = [picture(k, 12, 12, "PNG") for k in range(100)]


def png(part: str, place: int, number: int) -> bytes:
    return ENCODED[(7 * place + 3 * number + len(part)) % 100]


def labels(part: str) -> dict[str, Any]:
    return {
        "label_specific": np.repeat(np.arange(len(ORDER[part]), dtype=np.int32), 2),
        "label_general": np.zeros(2 * len(ORDER[part]), dtype=np.int32),
        "label_specific_str": [ENGLISH[name] for name in ORDER[part]],
        "label_general_str": ["terrier"],
    }


def images(part: str) -> list[np.ndarray]:
    """As OpenCV encodes: an array [bytes, 1] for each image."""
    return [
        np.frombuffer(png(part, place, number), np.uint8)[:, None]
        for place in range(len(ORDER[part]))
        for number in range(2)
    ]


def files(prefix: str = "", write: Any = python_2_pickle, **changes: Any) -> dict[str, bytes]:
    made = {f"{part}_images_png.pkl": write(images(part)) for part in SPLITS}
    made |= {f"{part}_labels.pkl": write(labels(part)) for part in SPLITS} | TEXTS
    made |= {f"{name}.pkl": write(held) for name, held in changes.items()}
    return {f"{prefix}{name}": content for name, content in made.items()}


def check(root: Path) -> None:
    dataset = tieredimagenet.load(**settings(root, split="ren"))
    assert [len(dataset.split.classes[part]) for part in SPLITS] == [351, 97, 160]
    assert dataset.images.counts.tolist() == [2] * 608
    for part in SPLITS:
        for place in (0, len(ORDER[part]) - 1):
            for number in range(2):
                found = image(dataset, str(ORDER[part][place]), number)
                assert np.array_equal(found, pixels(png(part, place, number), 12))
    assert "n02012849" in dataset.split.classes["train"]
    assert "n03126707" not in dataset.class_names
    assert dataset.classes("val")[0].origin == "imagenet"


@pytest.mark.parametrize("where", ["", "tiered-imagenet/", "tiered-imagenet-"])
def test_the_files_of_the_archive_and_of_zenodo(tmp_path: Path, where: str) -> None:
    check(unpacked(tmp_path, files(where)))


def test_the_archive_in_place(tmp_path: Path) -> None:
    write_tar(tmp_path / "tiered-imagenet.tar", files("tiered-imagenet/"))
    check(tmp_path)


def test_pickles_of_python_3_and_images_in_no_order(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(2 * len(ORDER["train"]))
    mixed = labels("train")
    mixed["label_specific"] = mixed["label_specific"][order]
    shuffled = [images("train")[k].tobytes() for k in order]
    changes = {"train_labels": mixed, "train_images_png": shuffled}
    unpacked(tmp_path, files(write=lambda held: pickle.dumps(held, 4), **changes))
    dataset = tieredimagenet.load(**settings(tmp_path, split="ren"))
    own = [k for k in order if k // 2 == 5]
    for number, k in enumerate(own):
        assert np.array_equal(image(dataset, str(ORDER["train"][5]), number), pixels(png("train", 5, k % 2), 12))


def test_missing_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tiered-imagenet-train_images_png\.pkl .* and 7 more files are missing in"):
        tieredimagenet.load(**settings(tmp_path, split="ren"))
    unpacked(tmp_path, {name: held for name, held in files().items() if name != "synsets.txt"})
    with pytest.raises(UserError, match=r"dataset=tieredimagenet: synsets\.txt .* fetches it from"):
        tieredimagenet.load(**settings(tmp_path, split="ren"))


VAL = labels("val")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_labels": [1]}, r"val_labels\.pkl has no label_specific and label_specific_str"),
        (
            {"val_labels": VAL | {"label_specific": np.zeros((2, 2), np.int32)}},
            "label_specific is no list of whole numbers",
        ),
        (
            {"val_labels": VAL | {"label_specific": VAL["label_specific"] + 1}},
            "labels lie from 0 to 96, 1 to 97 are there",
        ),
        ({"val_labels": labels("test")}, "is no class of the val split of tiered-ImageNet|labels"),
        ({"val_images_png": images("val")[:-1]}, r"val_images_png\.pkl has 193 images, val_labels\.pkl has 194 labels"),
        ({"val_images_png": images("test")}, r"val_images_png\.pkl has more than 194 images"),
        ({"val_images_png": {"images": 1}}, r"val_images_png\.pkl is refused: its pickle"),
        ({"val_images_png": [1, 2]}, r"val_images_png\.pkl holds something else than encoded images"),
        ({"val_images_png": [np.zeros(4, np.uint8)]}, r"val_images_png\.pkl, image 1 is not a readable image"),
    ],
)
def test_other_contents_are_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    unpacked(tmp_path, files(**changes))
    with pytest.raises(UserError, match=message) as error:
        tieredimagenet.load(**settings(tmp_path, split="ren"))
    assert "\n" not in str(error.value)


def test_texts_that_do_not_belong_together_are_one_line(tmp_path: Path) -> None:
    unpacked(tmp_path, files() | {"synsets.txt": b"n1\n"})
    with pytest.raises(UserError, match=r"class_names\.txt has 609 lines, synsets\.txt has 1"):
        tieredimagenet.load(**settings(tmp_path, split="ren"))
