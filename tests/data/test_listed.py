"""What all data sets of listed image files share: which files, which classes, in which order, and what is said when something is wrong."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalearn.data import listed
from metalearn.data.files import scratch
from metalearn.data.files.published import About, PublishedFile
from metalearn.data.files.scratch import by_class, counted
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked, Label, by_path, load_listed
from metalearn.errors import UserError
from tests.data.small_files import ONE_EACH, picture, pixels, write_folder, write_tar, write_zip

ABOUT = About("Ten colours", "https://colours.example", "CC0", (PublishedFile("colours.zip", unpacked="colours"),))
LABELS = by_path(r"images/([^/]+)/[^/]+\.jpg")
FILES = {f"colours/images/shade {k}/{i}.jpg": picture(10 * k + i) for i in (2, 0, 1) for k in range(10)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("METALEARN_CACHE", str(cache))
    return cache


def load(root: Path, split: str = "random", labels: Any = LABELS, **changes: Any) -> ImageClasses:
    given = {key: changes.pop(key) for key in list(changes) if key not in Asked._fields}
    asked = Asked(str(root), split, 0, 12, ONE_EACH)._replace(**changes)
    return load_listed("colours", ABOUT, asked, labels, drawn=(2, 3), **given)


def test_zip_and_folder_give_the_same_pixels_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "zipped").mkdir()
    write_zip(tmp_path / "zipped" / "colours.zip", FILES)
    write_folder(tmp_path / "unpacked", FILES)
    zipped, unpacked = load(tmp_path / "zipped"), load(tmp_path / "unpacked")
    assert zipped.class_names == unpacked.class_names == tuple(f"shade {k}" for k in range(10))
    expected = [pixels(FILES[f"colours/images/shade {k}/{i}.jpg"], 12) for k in range(10) for i in range(3)]
    assert np.array_equal(zipped.images.images, expected)
    assert np.array_equal(unpacked.images.images, expected)
    assert [len(zipped.split.classes[part]) for part in ("train", "val", "test")] == [5, 2, 3]


def test_a_tar_in_any_order_gives_the_same(tmp_path: Path) -> None:
    place = tmp_path / "colours.tar.gz"
    write_tar(place, FILES)
    found = dict(listed.images_by_class(place, LABELS((place,)), 12))
    assert list(found) == [f"shade {k}" for k in range(10)]
    assert np.array_equal(found["shade 3"][1], pixels(FILES["colours/images/shade 3/1.jpg"], 12))


def test_it_is_converted_once_until_a_file_changes(tmp_path: Path) -> None:
    write_folder(tmp_path, FILES)
    asked = []

    def counting(places: tuple[Path, ...]) -> listed.Labels:
        asked.append(places)
        return LABELS(places)

    load(tmp_path, labels=counting)
    load(tmp_path, labels=counting)
    assert asked == [(tmp_path / "colours",)]
    (tmp_path / "colours/images/shade 0/3.jpg").write_bytes(picture(77))
    assert load(tmp_path, labels=counting).images.counts.tolist() == [4, *[3] * 9]


def test_lists_of_a_split_may_lie_anywhere(tmp_path: Path) -> None:
    write_folder(tmp_path, FILES)
    for part, classes in (("train", [0, 1]), ("val", [2]), ("test", [3])):
        (tmp_path / f"colours_mine_{part}.txt").write_text("".join(f"shade {k}\n" for k in classes))
    assert load(tmp_path, "mine", lists=tmp_path).split.classes["train"] == ("shade 0", "shade 1")
    with pytest.raises(UserError, match=r"dataset\.split=yours: colours has no such split \(shipped: mine\)"):
        load(tmp_path, "yours", lists=tmp_path)
    (tmp_path / "colours_mine_val.txt").write_text("shade 2\nshade 11\n")
    with pytest.raises(UserError, match=r"dataset\.split=mine: .* lack 1 of its classes, 'shade 11' for one"):
        load(tmp_path, "mine", lists=tmp_path)


def test_what_is_missing_or_another_thing_is_one_line(tmp_path: Path, own_cache: Path) -> None:
    with pytest.raises(UserError, match=r"colours\.zip .*or colours, which it unpacks to.* missing in"):
        load(tmp_path)
    write_zip(tmp_path / "colours.zip", {"readme.txt": b"nothing"})
    with pytest.raises(UserError, match=r"dataset\.root=.*: colours\.zip holds no image of Ten colours"):
        load(tmp_path)
    write_zip(tmp_path / "colours.zip", {"images/a/1.jpg": b"<html>"})
    with pytest.raises(UserError, match=r"images/a/1\.jpg is not a readable image"):
        load(tmp_path)
    write_zip(tmp_path / "colours.zip", {"images/a/1.jpg": picture(0)})
    with pytest.raises(UserError, match=r"dataset\.split=random needs 6 classes of colours or more, there are 1"):
        load(tmp_path)
    assert [entry.name for entry in own_cache.iterdir() if entry.name.startswith(".")] == []


def test_another_number_of_images_than_published_is_said_at_every_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path, FILES)
    with caplog.at_level(logging.WARNING, "metalearn"):
        load(tmp_path, published=30)
        assert not caplog.records
        for _ in range(2):
            load(tmp_path, published=31)
    assert [record.getMessage() for record in caplog.records] == [
        f"colours has 30 images in {tmp_path / 'colours'}: 31 are published"
    ] * 2


def test_settings_reach_the_data_set(tmp_path: Path) -> None:
    write_folder(tmp_path, FILES | {"colours/images/single/0.jpg": picture(5)})
    normalize = {"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}
    dataset = load(tmp_path, min_images=2, normalize=normalize, size=8, split_seed=1)
    assert dataset.input_shape == (3, 8, 8)
    assert dataset.normalize is not None
    assert dataset.normalize.std == (1.0, 2.0, 3.0)
    assert "single" not in {name for names in dataset.split.classes.values() for name in names}
    assert dataset.split.name == "random-1-min2"


def boxed(box: listed.Box) -> Any:
    return lambda places: lambda path: Label("all", box) if path.endswith(".jpg") else None


def test_a_box_is_cut_out_and_held_inside(tmp_path: Path) -> None:
    content = picture(3)
    write_folder(tmp_path, {"0.jpg": content})
    for box, inside in (((4, 2, 20, 14), (4, 2, 20, 14)), ((-5, -5.2, 12.4, 99), (0, 0, 12, 16))):
        ((_, images),) = listed.images_by_class(tmp_path, boxed(box)(()), 12)
        assert np.array_equal(images[0], pixels(content, 12, inside))
    with pytest.raises(UserError, match=r"0\.jpg has 24x16 pixels, its box .* lies outside"):
        list(listed.images_by_class(tmp_path, boxed((24, 0, 30, 4))(()), 12))


def test_images_of_interleaved_classes_are_put_together() -> None:
    given = [(name, f"{i}", np.full((3, 2, 2), 10 * i + ord(name), np.uint8)) for i in (1, 0) for name in "ba"]
    made = dict(by_class(given))
    assert list(made) == ["a", "b"]
    assert made["a"][:, 0, 0, 0].tolist() == [97, 107]
    assert list(by_class([])) == []


def test_a_full_cache_is_one_line(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(own_cache / "nowhere"))
    with pytest.raises(UserError, match=r"cannot write to the cache directory .*nowhere.*METALEARN_CACHE"):
        list(by_class([("a", "0", np.zeros((3, 2, 2), np.uint8))]))


def test_labels_by_path_begin_at_a_folder_and_end_with_the_path() -> None:
    label = by_path(r"images/([^/]+)/[^/]+\.jpg")(())
    assert label("cub/images/b c/1.JPG") == Label("b c")
    assert label("images/a/1.jpg") == Label("a")
    for other in ("myimages/a/1.jpg", "images/a/1.jpg.txt", "images/1.jpg", "images/a/b/1.jpg"):
        assert label(other) is None


def test_a_long_conversion_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "metalearn"):
        assert list(counted("abc", "letters")) == ["a", "b", "c"]
        assert not caplog.records, "a short one says nothing"
        monkeypatch.setattr(scratch, "_SECONDS", -1.0)
        assert list(counted("abc", "letters")) == ["a", "b", "c"]
    assert caplog.records[1].getMessage() == "2 letters are converted so far"
