"""Your own images: layouts, archives, splits, what is refused, and when a conversion is made again."""

from __future__ import annotations

import io
import logging
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalearn.config.identity import compared
from metalearn.data.images import ImageClasses
from metalearn.data.sets import folder
from metalearn.errors import UserError
from metalearn.tasks import TaskShape
from tests.compose import compose
from tests.data.own.own_images import classes, odd_folder, picture, png, saved, written

FORMS = ["", ".zip", ".tar", ".tar.gz"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("METALEARN_CACHE", str(place))
    return place


def load(root: Path | None, **changes: Any) -> ImageClasses:
    settings: dict[str, Any] = compose("dataset=folder")["dataset"]
    settings.pop("_target_")
    return folder.load(**(settings | {"root": root and str(root), "size": 8} | changes))


def sizes(dataset: ImageClasses) -> tuple[int, ...]:
    return tuple(len(dataset.split.classes[split]) for split in ("train", "val", "test"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("below", ["", "photos/"])
def test_one_folder_for_each_class(tmp_path: Path, form: str, below: str) -> None:
    plain = load(written(tmp_path / "plain", classes("abcdef")))
    files = dict(reversed(classes("abcdef", below=below).items())) | {f"{below}cover.png": png(1), "readme.txt": b"x"}
    dataset = load(written(tmp_path / f"mine{form}", files))
    assert dataset.class_names == tuple("abcdef")
    assert dataset.input_shape == (3, 8, 8)
    assert dataset.images.counts.tolist() == [3] * 6
    assert np.array_equal(dataset.images.images, plain.images.images)
    assert dataset.split == plain.split
    assert sizes(dataset) == (2, 2, 2)
    dataset.check("test", TaskShape(2, 1, 2))


@pytest.mark.parametrize("form", FORMS)
def test_folders_of_splits(tmp_path: Path, form: str) -> None:
    files = classes("ab", below="Train/") | classes("cd", below="valid/") | classes("ef", below="test/")
    dataset = load(written(tmp_path / f"mine{form}", files))
    assert dataset.split.name == "given"
    assert dataset.split.classes == {"train": ("a", "b"), "val": ("c", "d"), "test": ("e", "f")}
    drawn = load(tmp_path / f"mine{form}", split="random")
    assert drawn.split.name == "random-0"
    assert sorted(name for names in drawn.split.classes.values() for name in names) == list("abcdef")


def test_a_split_that_folders_do_not_name_is_drawn_from_the_training_classes(tmp_path: Path) -> None:
    dataset = load(written(tmp_path, classes("abcdefgh", below="train/") | classes("yz", below="test/")))
    assert dataset.split.name == "given-random-0"
    assert dataset.split.classes["test"] == ("y", "z")
    assert sizes(dataset) == (4, 4, 2)
    assert sizes(load(tmp_path, val_classes=3)) == (5, 3, 2)
    assert load(tmp_path, split_seed=1).split.classes["val"] != dataset.split.classes["val"]


def test_a_class_in_two_splits_is_refused_and_can_be_drawn_whole(tmp_path: Path) -> None:
    written(tmp_path, classes("abcdef", below="train/") | classes("abcdef", 2, below="test/"))
    with pytest.raises(UserError, match=r"the class 'a' has images in test and train; .*dataset\.split=random"):
        load(tmp_path)
    dataset = load(tmp_path, split="random")
    assert dataset.images.counts.tolist() == [5] * 6


@pytest.mark.parametrize("form", FORMS)
def test_a_list_of_labels(tmp_path: Path, form: str) -> None:
    files = {f"images/{number:02d}.png": png(number) for number in range(12)}
    rows = [f"images/{number:02d}.png,{'abcdef'[number % 6]}" for number in range(12)]
    files["labels.csv"] = "\n".join(["path,label", *rows]).encode()
    root = written(tmp_path / f"mine{form}", files)
    dataset = load(root)
    assert dataset.class_names == tuple("abcdef")
    assert dataset.images.counts.tolist() == [2] * 6
    if not form:
        direct = load(root / "labels.csv")
        assert np.array_equal(direct.images.images, dataset.images.images)
        assert direct.origin == dataset.origin == "folder-mine"


def test_a_list_with_splits_and_paths_elsewhere(tmp_path: Path) -> None:
    written(tmp_path, classes("abc") | {"lists/x.csv": b"../a/0.png;a;train\n../b/0.png;b;val\n../c/0.png;c;test\n"})
    (tmp_path / "lists/x.csv").write_bytes(b"path;label;split\n" + (tmp_path / "lists/x.csv").read_bytes())
    with pytest.raises(UserError, match=r"'\.\./a/0\.png' lies outside of .*dataset\.outside=true"):
        load(tmp_path / "lists/x.csv")
    dataset = load(tmp_path / "lists/x.csv", outside=True)
    assert dataset.split.classes == {"train": ("a",), "val": ("b",), "test": ("c",)}


def test_listed_files_that_are_missing_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"{name}/0.png,{name}\n" for name in "abcdefxy")
    written(tmp_path, classes("abcdef") | {"x.csv": f"path,label\n{rows}".encode()})
    for root in (tmp_path, tmp_path / "x.csv"):
        with pytest.raises(UserError, match=r"2 listed files cannot be found, 'x/0\.png' for one"):
            load(root)
        assert load(root, skip_unreadable=True).class_names == tuple("abcdef")


def test_names_of_classes_may_be_two_folders(tmp_path: Path) -> None:
    written(tmp_path, classes("abc", below="Greek/") | classes("abc", below="Latin/"))
    assert load(tmp_path, class_depth=2).class_names == tuple(f"{a}/{c}" for a in ("Greek", "Latin") for c in "abc")
    with pytest.raises(UserError, match="has 2 classes to be divided: 6 or more are needed"):
        load(tmp_path)


def test_odd_files_are_read_and_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd_folder(tmp_path / "odd")
    with pytest.raises(
        UserError, match=r"1 file cannot be read as images: d/page\.jpg .*metalearn data check .*skip_unreadable"
    ):
        load(tmp_path / "odd")
    with caplog.at_level(logging.INFO, "metalearn"):
        dataset = load(tmp_path / "odd", skip_unreadable=True)
    assert dataset.images.counts.tolist() == [8, 8, 8, 6, 7, 6]
    said = caplog.messages[-1]
    for part in (
        "1 16 bit",
        "1 CMYK",
        "1 animated (first frame)",
        "palette",
        "1 turned upright by EXIF",
        "1 with alpha",
    ):
        assert part in said
    assert said.endswith("passed over: 1 empty class, 1 file that is no image")


def test_channels_follow_the_files(tmp_path: Path) -> None:
    grey = {
        f"{name}/{number}.png": saved(picture(number).convert("L"), "PNG") for name in "abcdef" for number in (1, 2)
    }
    written(tmp_path, grey)
    assert load(tmp_path).input_shape == (1, 8, 8)
    assert load(tmp_path, channels=3).input_shape == (3, 8, 8)
    written(tmp_path, {"f/colour.png": png(1)})
    assert load(tmp_path).input_shape == (3, 8, 8)
    assert load(tmp_path, channels=1, size=16).input_shape == (1, 16, 16)


def test_a_folder_that_changed_is_read_again(tmp_path: Path, cache: Path) -> None:
    written(tmp_path, classes("abcdef"))
    before = load(tmp_path)
    entries = len(list(cache.iterdir()))
    (tmp_path / "notes.txt").write_text("of no importance")
    load(tmp_path)
    assert len(list(cache.iterdir())) == entries
    (tmp_path / "a/0.png").write_bytes(saved(picture(99, 30, 30), "PNG"))
    changed = load(tmp_path)
    assert not np.array_equal(before.images.images, changed.images.images)
    (tmp_path / "a/0.png").unlink()
    assert load(tmp_path).images.counts.tolist() == [2, 3, 3, 3, 3, 3]
    for file in (tmp_path / "b").iterdir():
        file.rename(tmp_path / "c" / f"b{file.name}")
    with pytest.raises(UserError, match="has 5 classes"):
        load(tmp_path)


def test_splits_are_drawn_by_seed_and_size(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyzABCD"
    written(tmp_path, classes(letters, 1))
    assert sizes(load(tmp_path)) == (19, 5, 6)
    assert sizes(load(tmp_path, val_classes=2, test_classes=10)) == (18, 2, 10)
    assert load(tmp_path, split_seed=1).split.sha256 != load(tmp_path).split.sha256
    with pytest.raises(UserError, match=r"dataset\.val_classes=20 and dataset\.test_classes=10 leave no class"):
        load(tmp_path, val_classes=20, test_classes=10)


def test_small_classes_are_left_out_before_a_split_is_drawn(tmp_path: Path) -> None:
    written(tmp_path, classes("abcdef", 3) | classes("xyz", 1))
    assert sizes(load(tmp_path)) == (3, 3, 3)
    kept = load(tmp_path, min_images=2)
    assert sizes(kept) == (2, 2, 2)
    assert kept.split.name == "random-0-min2"
    with pytest.raises(UserError, match="has 0 classes of 9 images or more to be divided"):
        load(tmp_path, min_images=9)


def test_classes_belong_to_their_folder(tmp_path: Path) -> None:
    """The same folder in any form is recognised, another one is not accused."""
    names = {}
    for place in ("one/cats", "two/cats.zip", "three/cats.tar.gz", "one/dogs"):
        root = tmp_path / place
        root.parent.mkdir(exist_ok=True)
        names[place] = {str(each) for each in load(written(root, classes("abcdef"))).classes("test")}
    assert names["one/cats"] == names["two/cats.zip"] == names["three/cats.tar.gz"]
    assert not names["one/cats"] & names["one/dogs"]
    assert {str(each)[:9] for each in load(tmp_path / "one/dogs", origin="imagenet").classes("val")} == {"imagenet:"}
    with pytest.raises(UserError, match=r"dataset\.origin=a:b is not allowed"):
        load(tmp_path / "one/dogs", origin="a:b")


def test_runs_on_two_folders_are_two_runs_and_on_a_moved_one_the_same() -> None:
    """A sweep over `dataset.root` must not take the second for done."""

    def of(root: str) -> dict[str, Any]:
        return compared(compose("dataset=folder", f"dataset.root={root}"))

    assert of("/x/cats") != of("/x/dogs")
    assert of("/x/cats") == of("/y/cats.zip") == of("cats.tar.gz")
    assert of("/x/cats/a.csv") != of("/x/cats/b.csv")


@pytest.mark.parametrize("form", FORMS)
def test_what_holds_no_classes_is_refused(tmp_path: Path, form: str) -> None:
    root = tmp_path / f"mine{form}"
    for files, message in (
        ({"a.txt": b"x"}, "holds no image"),
        ({"1.png": png(1), "2.png": png(2)}, r"its 2 images lie in no class folder, '1\.png' for one"),
        (classes("abcde"), "has 5 classes to be divided: 6 or more are needed, 2 for each split"),
        (
            classes("abcdef") | {"a.csv": b"path,label\nx,y", "b.csv": b"path,label\nx,y"},
            r"holds 2 lists of images \(a\.csv, b\.csv\)",
        ),
        ({"a\tb/1.png": png(1)} | classes("c"), r"the class 'a\\tb' has a control character"),
        ({f"{name}/0.jpg": b"text" for name in "abc"}, r"3 files cannot be read|none of its 3 images can be read"),
    ):
        with pytest.raises(UserError, match=message) as raised:
            load(written(root, files))
        assert "\n" not in str(raised.value)
        if form:
            root.unlink()
        else:
            root.rename(tmp_path / f"done{len(list(tmp_path.iterdir()))}")


def hostile(root: Path, kind: str) -> Path:
    """An honest archive with one hostile member at its end."""
    honest = classes("abcdef")
    if kind == "escape":
        return written(root, honest | {"../../escaped.png": png(1)})
    if kind == "bomb":
        with zipfile.ZipFile(root, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/1.png", png(1))
            for number in range(3):
                archive.writestr(f"a/bomb{number}.png", bytes(100 << 20))
        return root
    if kind == "pixels":
        content = bytearray(saved(picture(1), "PNG"))
        content[16:24] = (60000).to_bytes(4, "big") * 2
        return written(root, honest | {"a/x.png": bytes(content)})
    with tarfile.open(root, "w") as tar:
        for name, content in honest.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        member = tarfile.TarInfo("a/link.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    return root


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("x.zip", "escape", "leads out of the archive"),
        ("x.tar.gz", "escape", "leads out of the archive"),
        ("x.zip", "bomb", "refused as a bomb"),
        ("x.zip", "pixels", r"1 file cannot be read as images: a/x\.png"),
        ("x.tar", "link", r"'a/link\.png' is a link"),
    ],
)
def test_hostile_archives_leave_nothing_behind(tmp_path: Path, cache: Path, name: str, kind: str, message: str) -> None:
    root = hostile(tmp_path / name, kind)
    with pytest.raises(UserError, match=message) as raised:
        load(root)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == [root]
    assert list(cache.iterdir()) == []


def test_links_are_followed_where_they_stay_inside(tmp_path: Path) -> None:
    root = written(tmp_path / "mine", classes("abcdef"))
    (root / "a/again.png").symlink_to(root / "b/0.png")
    assert load(root).images.counts.tolist() == [4, 3, 3, 3, 3, 3]
    written(tmp_path / "elsewhere", classes("g"))
    (root / "g").symlink_to(tmp_path / "elsewhere/g")
    with pytest.raises(UserError, match=r"g is a link that leads out of .*dataset\.outside=true"):
        load(root)
    assert load(root, outside=True).class_names == tuple("abcdefg")


def test_the_root_must_be_named() -> None:
    with pytest.raises(UserError, match=r"dataset\.root must be set: a folder, an archive or a CSV file"):
        load(None)
