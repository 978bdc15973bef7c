"""Images that users hand to a trained model: ink and paper, squares, odd files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metalearn.data.own.given import Form, read_queries, read_support
from metalearn.data.pictures.paper import DARK, LIGHT, paper_of, reversed_ink
from metalearn.errors import UserError


def drawing(ink: int = 0, paper: int = 255, size: tuple[int, int] = (64, 64)) -> Image.Image:
    pixels = np.full(size, paper, np.uint8)
    pixels[20:44, 28:36] = ink
    return Image.fromarray(pixels)


def content(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def form(**of: object) -> Form:
    return Form((1, 16, 16), **of)  # type: ignore[arg-type]


def folder(path: Path, **classes: int) -> Path:
    for name, count in classes.items():
        (path / name).mkdir(parents=True)
        for i in range(count):
            drawing(ink=i).save(path / name / f"{i}.png")
    return path


def test_paper_is_told_from_the_border_and_photographs_have_none() -> None:
    rng = np.random.default_rng(0)
    ink = np.zeros((20, 1, 16, 16), np.float32)
    ink[:, :, 4:12, 6:9] = 1
    assert paper_of(ink) == DARK
    assert paper_of(1 - ink) == LIGHT
    assert paper_of(rng.random((20, 3, 16, 16)).astype(np.float32)) is None
    assert paper_of(ink[:0]) is None


def test_reversed_black_on_white_is_the_negative_and_grey_paper_becomes_black() -> None:
    plain = np.asarray(drawing())
    assert np.array_equal(np.asarray(reversed_ink(drawing())), 255 - plain)
    photographed = np.asarray(reversed_ink(drawing(ink=60, paper=190)))
    assert (photographed.min(), photographed.max()) == (0, 255)
    light = drawing(ink=255, paper=0)
    assert np.array_equal(np.asarray(reversed_ink(light)), 255 - np.asarray(light))
    coloured = Image.merge("RGB", [drawing(10, 200), drawing(20, 210), drawing(200, 220)])
    assert np.asarray(reversed_ink(coloured))[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("paper", "invert", "image", "corner", "inverted"),
    [
        (DARK, "auto", drawing(), 0, 1),
        (DARK, "auto", drawing(255, 0), 0, 0),
        (LIGHT, "auto", drawing(255, 0), 255, 1),
        (None, "auto", drawing(), 255, 0),
        (None, "yes", drawing(), 0, 1),
        (DARK, "no", drawing(), 255, 0),
    ],
)
def test_ink_is_swapped_where_the_run_has_it_the_other_way(
    paper: str | None, invert: str, image: Image.Image, corner: int, inverted: int
) -> None:
    made = form(paper=paper, invert=invert)
    assert made.pixels(content(image), "x.png")[0, 0, 0] == corner
    assert (made.inverted, made.seen) == (inverted, 1)


def test_drawings_are_padded_with_their_own_paper() -> None:
    made = form(paper=DARK, fit="pad", background=255).pixels(content(drawing(size=(64, 32))), "x.png")
    assert made[0, :, 0].max() == made[0, :, -1].max() == 0


def test_values_are_what_the_network_was_trained_on() -> None:
    made = Form((3, 8, 12), {"mean": [0.5] * 3, "std": [0.25] * 3})
    pixels = made.pixels(content(drawing(0, 0)), "x.png")
    assert pixels.shape == (3, 12, 12)
    values = made.values(pixels[None])
    assert values.shape == (1, 3, 8, 12)
    assert values.unique().tolist() == [-2.0]


def test_support_of_unequal_classes(tmp_path: Path) -> None:
    found = read_support(str(folder(tmp_path, b=3, a=1)), form())
    assert (found.classes, found.counts) == (("a", "b"), (1, 3))
    assert found.pixels.shape == (4, 1, 16, 16)
    assert found.labels.tolist() == [0, 1, 1, 1]
    assert found.paths == ("a/0.png", "b/0.png", "b/1.png", "b/2.png")


def test_support_from_a_list(tmp_path: Path) -> None:
    folder(tmp_path / "images", x=2)
    (tmp_path / "labels.csv").write_text("path,label\nimages/x/0.png,left\nimages/x/1.png,right\n")
    found = read_support(str(tmp_path / "labels.csv"), form())
    assert (found.classes, found.counts) == (("left", "right"), (1, 1))


def test_mistakes_about_support_name_it(tmp_path: Path) -> None:
    one, empty, broken = (
        folder(tmp_path / "one", a=2),
        folder(tmp_path / "empty", a=1, b=0),
        folder(tmp_path / "t", a=1, b=1),
    )
    (broken / "b" / "0.png").write_text("no image")
    (tmp_path / "list.csv").write_text("path,label\none/a/0.png,a\none/a/7.png,b\n")
    for place, words in (
        (tmp_path / "none", "is not there"),
        (one, "one class, 'a'"),
        (empty, "class 'b' has no image"),
        (broken, "b/0.png is not a readable image"),
        (one / "a", "lie in no class folder"),
        (empty / "b", "holds no image"),
        (tmp_path / "list.csv", "'one/a/7.png'"),
        (broken / "b" / "0.png", "is no folder, no archive"),
    ):
        with pytest.raises(UserError, match=words) as error:
            read_support(str(place), form())
        assert "--support" in str(error.value)
        assert "dataset.root" not in str(error.value)


def test_queries_are_files_and_all_below_folders(tmp_path: Path) -> None:
    folder(tmp_path / "deep", a=1, b=1)
    (tmp_path / "deep" / "b" / "bad.png").write_text("no image")
    (tmp_path / "deep" / "notes.txt").write_text("passed over")
    found = list(read_queries([str(tmp_path / "deep"), str(tmp_path / "deep" / "a" / "0.png")], form()))
    assert [(Path(query.name).name, query.folder, bool(query.fault)) for query in found] == [
        ("0.png", "a", False),
        ("0.png", "b", False),
        ("bad.png", "b", True),
        ("0.png", "", False),
    ]
    with pytest.raises(UserError, match=r"--query .* is not there"):
        list(read_queries([str(tmp_path / "none.png")], form()))
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        list(read_queries([str(tmp_path / "bare")], form()))
