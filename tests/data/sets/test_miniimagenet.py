"""mini-ImageNet, from small files of exactly the published forms, with all 100 classes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalearn.data.classes import SPLITS, read_split
from metalearn.data.sets import miniimagenet
from metalearn.errors import UserError
from tests.data.small_files import (
    classes_of,
    image,
    picture,
    pixels,
    python_2_pickle,
    settings,
    unpacked,
    write_tar,
    write_zip,
)

SIDE = 12  # pixels; 84 are published
CLASSES = read_split("miniimagenet", "ravi").classes
RNG = np.random.default_rng(0)
IMAGES = {name: RNG.integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8) for name in classes_of("miniimagenet", "ravi")}


def cache(part: str) -> dict[str, Any]:
    """What the pickle of Ren et al. holds of a part: images of a class lie where `class_dict` says, here not side by side."""
    names = list(CLASSES[part])
    return {
        "image_data": np.concatenate([[IMAGES[name][k] for name in names] for k in range(2)]),
        "class_dict": {name: [place, place + len(names)] for place, name in enumerate(names)},
    }


def of_categories(part: str) -> dict[str, Any]:
    """What the pickle of Gidaris and Komodakis holds of a part: labels count through all 100 classes."""
    every = [name for each in SPLITS for name in CLASSES[each]]
    names = [name for name in CLASSES[part] for _ in range(2)]
    return {
        "labels": [every.index(name) for name in names],
        "data": np.stack([IMAGES[name][k % 2] for k, name in enumerate(names)]),
        "catname2label": {name: label for label, name in enumerate(every)},
    }


def pickles(second: str = "validation", write: Any = python_2_pickle, **changes: Any) -> dict[str, bytes]:
    named = {"train": "train", "val": second, "test": "test"}
    return {f"mini-imagenet-cache-{named[part]}.pkl": write(changes.get(part, cache(part))) for part in SPLITS}


def check(root: Path) -> None:
    dataset = miniimagenet.load(**settings(root, split="ravi", size=SIDE))
    assert [len(dataset.split.classes[part]) for part in SPLITS] == [64, 16, 20]
    assert dataset.images.counts.tolist() == [2] * 100
    for name in ("n01532829", "n01855672", "n01930112"):  # one of each part
        for number in range(2):
            assert np.array_equal(image(dataset, name, number), IMAGES[name][number].transpose(2, 0, 1))
    assert str(dataset.classes("test")[0]) == "imagenet:n01930112"


@pytest.mark.parametrize("val", ["val", "validation"])
@pytest.mark.parametrize("write", [python_2_pickle, lambda held: pickle.dumps(held, 4)], ids=["python 2", "python 3"])
def test_the_pickles_under_both_names(tmp_path: Path, val: str, write: Any) -> None:
    check(unpacked(tmp_path, pickles(val, write)))


@pytest.mark.parametrize("inner", ["", "mini-imagenet/"])
def test_the_archive_of_the_pickles(tmp_path: Path, inner: str) -> None:
    write_tar(tmp_path / "mini-imagenet.tar.gz", {f"{inner}{name}": held for name, held in pickles("val").items()})
    check(tmp_path)


def test_the_pickles_by_category(tmp_path: Path) -> None:
    files = {
        f"miniImageNet_category_split_{name}.pickle": python_2_pickle(of_categories(part))
        for name, part in (("train_phase_train", "train"), ("val", "val"), ("test", "test"))
    }
    # Further images of the training classes, which no few-shot benchmark uses.
    files["miniImageNet_category_split_train_phase_test.pickle"] = python_2_pickle(of_categories("train"))
    check(unpacked(tmp_path, files))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("columns", ["filename,label", "class_name,image_name"])
def test_the_lists_with_their_images(tmp_path: Path, packed: bool, columns: str) -> None:
    names = {name: [f"{name}{k:08d}.jpg" for k in (5, 1)] for name in IMAGES}
    for part in SPLITS:
        rows = [(each, name) for name in CLASSES[part] for each in names[name]]
        lines = [",".join(row if columns == "filename,label" else row[::-1]) for row in rows]
        (tmp_path / f"{part}.csv").write_text("\r\n".join([columns, *lines, ""]))
    contents = {each: picture(int(each[1:9]) + k) for own in names.values() for k, each in enumerate(own)}
    if packed:
        write_zip(tmp_path / "images.zip", {f"images/{each}": content for each, content in contents.items()})
    else:  # as in ImageNet itself: a folder for each class, and more images than are listed
        unpacked(tmp_path, {f"images/{each[:9]}/{each}": content for each, content in contents.items()})
        unpacked(tmp_path, {"images/n01532829/n0153282900000009.jpg": picture(1)})
    dataset = miniimagenet.load(**settings(tmp_path, split="ravi", size=SIDE))
    assert dataset.images.counts.tolist() == [2] * 100
    for place, each in enumerate(sorted(names["n01930112"])):
        assert np.array_equal(image(dataset, "n01930112", place), pixels(contents[each], SIDE))


def test_images_that_a_list_names_are_missed(tmp_path: Path) -> None:
    unpacked(tmp_path, {"images/n0153282900000005.jpg": picture(0)})
    for part in SPLITS:
        (tmp_path / f"{part}.csv").write_text(
            f"filename,label\nn0153282900000005.jpg,n01532829\n{part}.jpg,n01532829\n"
        )
    with pytest.raises(UserError, match=r"images has 1 of the 4 images that train\.csv, val\.csv, test\.csv name"):
        miniimagenet.load(**settings(tmp_path, split="ravi"))
    (tmp_path / "val.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"val\.csv: its first line is not filename,label or image_name,class_name"):
        miniimagenet.load(**settings(tmp_path, split="ravi"))


def test_missing_files_are_one_line_that_counts_them(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"mini-imagenet-cache-train\.pkl .* and 2 more files are missing in .*data fetch"
    ):
        miniimagenet.load(**settings(tmp_path, split="ravi"))
    unpacked(tmp_path, {name: held for name, held in pickles().items() if "test" not in name})
    with pytest.raises(UserError, match=r"dataset=miniimagenet: mini-imagenet-cache-test\.pkl .* is missing"):
        miniimagenet.load(**settings(tmp_path, split="ravi"))


VAL = cache("val")


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([1], r"cache-validation\.pkl has no image_data and class_dict: it is not the published file"),
        ({**VAL, "image_data": VAL["image_data"][..., :2]}, r"its images are no bytes \[images, height, width, 3\]"),
        ({**VAL, "class_dict": [1]}, "class_dict is no dict of classes"),
        ({**VAL, "class_dict": {"n01855672": [32]}}, "names an image beyond the 32 for the class 'n01855672'"),
        ({**VAL, "class_dict": {"n01855672": []}}, "no list of images for the class 'n01855672'"),
        ({**VAL, "class_dict": {"n01855672": [0]}}, r"lack 15 of its classes, 'n0\d+' for one"),
        (cache("test"), "the class 'n01930112' is there twice"),
    ],
)
def test_other_contents_are_one_line(tmp_path: Path, held: Any, message: str) -> None:
    unpacked(tmp_path, pickles(val=held))
    with pytest.raises(UserError, match=message) as error:
        miniimagenet.load(**settings(tmp_path, split="ravi"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [1, 2]}, "32 images need as many labels"),
        ({"catname2label": {"n01855672": 64}}, "catname2label does not name all labels"),
        ({"data": 3}, "its images are no bytes"),
    ],
)
def test_other_categories_are_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    for name, part in (("train_phase_train", "train"), ("val", "val"), ("test", "test")):
        held = of_categories(part) | (changes if part == "val" else {})
        (tmp_path / f"miniImageNet_category_split_{name}.pickle").write_bytes(python_2_pickle(held))
    with pytest.raises(UserError, match=message):
        miniimagenet.load(**settings(tmp_path, split="ravi"))


def test_a_hostile_pickle_is_one_line(tmp_path: Path) -> None:
    unpacked(tmp_path, pickles() | {"mini-imagenet-cache-test.pkl": b"cos\nsystem\n(S'true'\ntR."})
    with pytest.raises(UserError, match=r"cache-test\.pkl is refused: its pickle asks for 'os\.system'"):
        miniimagenet.load(**settings(tmp_path, split="ravi"))


def test_an_archive_of_two_pickles_is_refused(tmp_path: Path) -> None:
    held = {name: content for name, content in pickles("val").items() if "train" not in name}
    write_tar(tmp_path / "mini-imagenet.tar.gz", held)
    with pytest.raises(UserError, match=r"mini-imagenet\.tar\.gz has no mini-imagenet-cache-train\.pkl"):
        miniimagenet.load(**settings(tmp_path, split="ravi"))
