"""Omniglot from zips and folders, real where this machine has it, and the ways in which what lies there can be wrong."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metalearn.data.classes import read_split
from metalearn.data.sets import omniglot
from metalearn.errors import UserError

ROTATIONS = {"train": 4, "val": 4, "test": 1}


def load(root: Path, **changes: Any) -> omniglot.ImageClasses:
    settings: dict[str, Any] = {
        "root": str(root),
        "download": False,
        "split": "random",
        "split_seed": 0,
        "size": 28,
        "resize": "antialias",
        "rotations": ROTATIONS,
    }
    return omniglot.load(**(settings | changes))


def drawing(seed: int) -> bytes:
    """A 105x105 1-bit PNG as Omniglot has them: white with a black bar somewhere."""
    image = Image.new("1", (105, 105), 1)
    image.paste(0, (10 + seed % 60, 20, 13 + seed % 60, 85))
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def write_zips(root: Path, characters: int = 300) -> None:
    for part, alphabet in (("images_background", "Aa"), ("images_evaluation", "Bb")):
        with zipfile.ZipFile(root / f"{part}.zip", "w") as archive:
            for character in range(1, characters + 1):
                for drawer in range(2):
                    archive.writestr(
                        f"{part}/{alphabet}/character{character:03d}/{character:04d}_{drawer:02d}.png",
                        drawing(character),
                    )


@pytest.fixture
def small_root(tmp_path: Path) -> Path:
    write_zips(tmp_path)
    return tmp_path


def test_zips_and_folders_give_the_same(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    unpacked = tmp_path_factory.mktemp("unpacked")
    for part in omniglot.PARTS:
        zipfile.ZipFile(small_root / f"{part}.zip").extractall(unpacked)
    zipped, folders = load(small_root), load(unpacked)
    assert zipped.class_names == folders.class_names
    assert len(zipped.class_names) == 600
    assert np.array_equal(zipped.images.images, folders.images.images)


def test_ink_is_one_and_antialias_is_not_nearest(small_root: Path) -> None:
    smooth, hard = (load(small_root, resize=resize).images.images for resize in ("antialias", "nearest"))
    assert set(np.unique(hard)) == {0, 255}
    assert len(np.unique(smooth)) > 2
    assert 0 < hard.mean() < 40  # a bar on empty ground: inverted, most is 0


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"images_background\.zip \(9\.5 MB, sha256 ad41.*or images_background, which it unpacks to.* missing in",
    ):
        load(tmp_path)


def test_a_truncated_zip_is_refused(small_root: Path) -> None:
    whole = (small_root / "images_evaluation.zip").read_bytes()
    (small_root / "images_evaluation.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"images_evaluation\.zip is not an intact zip"):
        load(small_root)


def test_a_zip_with_a_flipped_byte_is_refused(small_root: Path) -> None:
    content = bytearray((small_root / "images_evaluation.zip").read_bytes())
    content[content.index(b"IDAT") + 8] ^= 0xFF
    (small_root / "images_evaluation.zip").write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"images_evaluation\.zip is not an intact zip|not a readable image"):
        load(small_root)


def test_a_zip_of_something_else_is_refused(small_root: Path) -> None:
    for part in omniglot.PARTS:
        with zipfile.ZipFile(small_root / f"{part}.zip", "w") as archive:
            archive.writestr("readme.txt", "nothing")
    with pytest.raises(UserError, match="no Omniglot images"):
        load(small_root)


def test_a_split_whose_classes_are_missing_is_refused(small_root: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.split=vinyals: the images lack 1623 of its classes"):
        load(small_root, split="vinyals")


def unpacked(root: Path, where: Path) -> Path:
    for part in omniglot.PARTS:
        zipfile.ZipFile(root / f"{part}.zip").extractall(where)
    return where


def test_files_that_change_in_a_folder_are_read_again(
    small_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = unpacked(small_root, tmp_path_factory.mktemp("folder"))
    before = load(folder)
    (folder / "images_background/Aa/character001/0001_00.png").write_bytes(drawing(17))
    after = load(folder)
    assert not np.array_equal(before.images.images, after.images.images)
    (folder / "images_background/Aa/character001/0001_02.png").write_bytes(drawing(5))
    assert len(load(folder).images.images) == len(after.images.images) + 1


def test_what_macos_adds_is_passed_over(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = unpacked(small_root, tmp_path_factory.mktemp("folder"))
    (folder / "images_background/Aa/character001/._0001_00.png").write_bytes(b"\x00\x05\x16\x07")
    with zipfile.ZipFile(small_root / "images_background.zip", "a") as archive:
        archive.writestr("__MACOSX/images_background/Aa/character001/._0001_00.png", b"\x00\x05\x16\x07")
    assert np.array_equal(load(folder).images.images, load(small_root).images.images)


def test_too_few_characters_for_a_random_split_are_counted(tmp_path: Path) -> None:
    write_zips(tmp_path, characters=10)
    with pytest.raises(UserError, match=r"dataset\.split=random needs 524 characters or more, there are 20"):
        load(tmp_path)


def test_torchvisions_folder_and_one_of_the_parts_are_understood(
    small_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outer = tmp_path_factory.mktemp("outer")
    unpacked(small_root, outer / "omniglot-py")
    assert len(load(outer, download=True).class_names) == 600
    with pytest.raises(UserError, match=r"is one of the two parts: dataset\.root=.*omniglot-py holds both"):
        load(outer / "omniglot-py" / "images_background", download=True)


def test_splits_have_the_published_sizes_and_are_disjoint() -> None:
    sizes = {name: [len(c) for c in read_split("omniglot", name).classes.values()] for name in ("vinyals", "lake")}
    assert sizes == {"vinyals": [1028, 172, 423], "lake": [806, 158, 659]}
    lake = read_split("omniglot", "lake").classes
    alphabets = [{name.split("/")[0] for name in lake[split]} for split in ("train", "val", "test")]
    assert [len(a) for a in alphabets] == [25, 5, 20]
    assert len(set.union(*alphabets)) == 50
    with pytest.raises(UserError, match=r"dataset\.split=vinials: .* \(shipped: lake, vinyals\)"):
        read_split("omniglot", "vinials")


@pytest.mark.parametrize("split", ["vinyals", "lake", "random"])
def test_real_omniglot(omniglot_root: Path, split: str) -> None:
    dataset = load(omniglot_root, split=split)
    assert dataset.images.images.shape == (1623 * 20, 1, 28, 28)
    assert dataset.images.counts.tolist() == [20] * 1623
    assert sum(len(names) for names in dataset.split.classes.values()) == 1623
    assert 0.05 < dataset.images.images.mean() / 255 < 0.15, "ink is the small part"
    test = dataset.source("test", 0, torch.device("cpu"))
    assert len(test.class_names) == len(dataset.split.classes["test"])


def test_real_omniglot_is_converted_once(omniglot_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(omniglot_root)
    monkeypatch.setattr(omniglot, "_pixels", lambda *_: pytest.fail("it was converted again"))
    assert np.array_equal(load(omniglot_root).images.images[-20:], first.images.images[-20:])


def test_characters_with_few_drawings_can_be_left_out(small_root: Path) -> None:
    """As in an incomplete copy: of one character there is a single drawing."""
    with zipfile.ZipFile(small_root / "images_background.zip", "a") as archive:
        archive.writestr("images_background/Aa/character999/0999_01.png", drawing(1))
    assert "Aa/character999" in load(small_root, min_images=1).split.classes["train"] + tuple(
        name for split in ("val", "test") for name in load(small_root).split.classes[split]
    )
    kept = load(small_root, min_images=2)
    assert "Aa/character999" not in {name for names in kept.split.classes.values() for name in names}
    assert sum(len(names) for names in kept.split.classes.values()) == 600
