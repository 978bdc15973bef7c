"""What the check of somebody's own images finds, and the picture that it draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metalearn.data.own.check import Asked, Report, check_images
from metalearn.data.pictures.sheet import COLUMNS, ROWS, SIDE, write_sheet
from metalearn.errors import UserError
from tests.data.own.own_images import classes, odd_folder, picture, png, saved, written


def check(root: Path, *, sheet: Path | None = None, **asked: object) -> Report:
    return check_images(str(root), Asked(**asked), sheet)  # type: ignore[arg-type]


def opened(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def test_faults_are_named_and_odd_files_counted(tmp_path: Path) -> None:
    report = check(odd_folder(tmp_path / "odd"))
    assert report.faults == [
        "d/page.jpg is not a readable image (of no format that Pillow reads)",
        "the class 'empty' has no image",
        "the same byte for byte in 2 classes and in the splits train and test: e/double.png, f/0.png",
    ]
    facts = "\n".join(report.facts)
    assert "44 images of 6 classes, one folder for each class" in facts
    assert "6 to 8" in facts
    assert "42 in colour, 1 grey: dataset.channels=auto is 3" in facts
    assert "40 PNG, 2 JPEG, 1 GIF" in facts
    assert "passed over        no images: notes.txt" in facts
    assert report.tasks[:4] == [
        "split random-0; the largest tasks that fit:",
        "  train  2 ways, shots + queries = 6",
        "  val    2 ways, shots + queries = 8",
        "  test   2 ways, shots + queries = 6",
    ]
    assert "dataset.skip_unreadable=true" in report.tasks[-1]


@pytest.mark.parametrize("form", ["", ".zip", ".tar.gz"])
def test_nothing_is_wrong_with_an_ordinary_folder(tmp_path: Path, form: str) -> None:
    root = written(tmp_path / f"fine{form}", classes("abcdefgh", 20))
    report = check(root)
    assert report.faults == []
    assert "nothing is wrong" in report.text
    assert f"metalearn train dataset=folder dataset.root={root} task.ways=2 " in report.tasks[-1]
    assert report.tasks[-1].endswith("task.train.ways=4 task.queries=15 task.train.queries=15")


def test_the_command_has_the_settings_that_were_asked_for(tmp_path: Path) -> None:
    root = written(tmp_path / "True", classes("abcdefgh", 20))
    command = check(root, outside=True, split_seed=3).tasks[-1]
    assert f"dataset.root={root} dataset.outside=true dataset.split_seed=3 task.ways=2 " in command


def test_doubles_are_found_within_a_class_across_classes_and_in_another_format(tmp_path: Path) -> None:
    files = classes("ab", 3, "train/") | classes("cd", 3, "val/") | classes("ef", 3, "test/")
    files["train/a/again.png"] = files["train/a/1.png"]
    files["test/e/bitmap.bmp"] = saved(picture(1000 * ord("c")), "BMP")
    report = check(written(tmp_path, files))
    assert report.faults == [
        "the same byte for byte in the class 'a': train/a/1.png, train/a/again.png",
        "the same pixel for pixel in 2 classes and in the splits val and test: test/e/bitmap.bmp, val/c/0.png",
    ]


def test_a_class_of_one_image_and_a_missing_file_are_named(tmp_path: Path) -> None:
    report = check(written(tmp_path / "x", classes("abcdef", 3) | {"single/1.png": png(1)}))
    assert report.faults == ["the class 'single' has a single image (dataset.min_images=2 leaves such classes out)"]
    assert "dataset.min_images=2" in report.tasks[-1]
    rows = "".join(f"{name}/0.png,{name}\n" for name in "abcdefg")
    (tmp_path / "x/list.csv").write_text(f"path,label\n{rows}")
    assert "g/0.png is listed and not there" in check(tmp_path / "x/list.csv").faults


def test_too_few_classes_are_a_fault_and_the_rest_is_said_all_the_same(tmp_path: Path) -> None:
    report = check(written(tmp_path, classes("abc")))
    assert report.faults == [
        "dataset.root has 3 classes to be divided: 6 or more are needed, 2 for each split "
        "(more classes, or dataset.val_classes and dataset.test_classes in numbers)"
    ]
    assert report.tasks == []
    assert check(tmp_path, val_classes=1, test_classes=1).tasks[1:4] == [
        f"  {split:5}  none: 1 class of two images or more" for split in ("train", "val", "test")
    ]


def test_nothing_readable_is_no_crash(tmp_path: Path) -> None:
    report = check(written(tmp_path / "x", {f"{name}/0.jpg": b"text" for name in "ab"}), sheet=tmp_path / "sheet.png")
    assert len(report.faults) == 5
    assert not (tmp_path / "sheet.png").exists()


def test_what_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"PATH=.*nowhere is not there"):
        check(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no image"):
        check(tmp_path)


def test_the_sheet_has_a_row_for_each_class(tmp_path: Path) -> None:
    root = written(
        tmp_path / "x", classes("abcdef", 3) | {"a/red.png": saved(Image.new("RGB", (9, 9), (255, 0, 0)), "PNG")}
    )
    report = check(root, sheet=tmp_path / "sheet.png")
    assert report.tasks[-1] == f"contact sheet: {tmp_path / 'sheet.png'}"
    sheet = opened(tmp_path / "sheet.png")
    step = SIDE + 4
    assert sheet.shape[0] == 4 + 6 * step
    red = (sheet == (255, 0, 0)).all(-1)
    assert red.sum() == SIDE * SIDE
    assert np.flatnonzero(red.any(1)).max() < step, "in the row of its class, the first"
    assert (sheet[:step, :180] < 128).any(), "its name stands beside it"


def test_a_sheet_of_many_classes_shows_some_evenly(tmp_path: Path) -> None:
    names = [f"c{number:03d}" for number in range(ROWS + 50)]
    root = written(
        tmp_path / "x", {f"{name}/{k}.png": png(10 * at + k) for at, name in enumerate(names) for k in (0, 1)}
    )
    report = check(root, sheet=tmp_path / "sheet.png")
    assert report.tasks[-1].endswith(f"({ROWS} of {ROWS + 50} classes)")
    assert len(opened(tmp_path / "sheet.png")) == 4 + ROWS * (SIDE + 4)


def test_names_of_any_script_and_length_can_be_drawn(tmp_path: Path) -> None:
    small = np.zeros((3, SIDE, SIDE), np.uint8)
    write_sheet(tmp_path / "sheet.png", {"犬" * 50: [small] * (COLUMNS + 1), "собака": []})
    assert opened(tmp_path / "sheet.png").shape == (4 + 2 * (SIDE + 4), 180 + COLUMNS * (SIDE + 4), 3)
    with pytest.raises(UserError, match=r"--sheet: .*cannot be written"):
        write_sheet(tmp_path / "no/sheet.png", {"a": [small]})
