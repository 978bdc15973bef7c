"""Typefaces found in folders, and which of their drawings say something about a character."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metalearn.data.pictures import font_files
from metalearn.data.pictures.font_files import folders, state
from metalearn.data.pictures.typefaces import Typeface, draw, find_typefaces
from metalearn.errors import UserError
from tests.data.pictures import tiny_fonts
from tests.data.pictures.tiny_fonts import Box

SMALL: Box = (100, 100, 350, 600)
LARGE: Box = (0, 0, 500, 1000)


def face(folder: Path, drawings: dict[str, Box | None], **more: Box | None) -> Typeface:
    return Typeface("Own", "Regular", tiny_fonts.write(folder, "Own", drawings, **more), 0)


def size_of(image: np.ndarray | None) -> tuple[int, int]:
    """Columns and rows with ink."""
    assert image is not None
    return int(image[0].any(axis=0).sum()), int(image[0].any(axis=1).sum())


def test_a_character_lies_in_the_middle_and_keeps_its_size_within_the_em(tmp_path: Path) -> None:
    small, large = draw(face(tmp_path, {"o": SMALL, "O": LARGE}), "oO", 28)
    assert size_of(small) == (6, 12)  # of the 24 pixels of the em
    assert size_of(large) == (12, 24)
    assert small is not None
    assert np.flatnonzero(small[0].any(axis=0)).tolist() == [11, 12, 13, 14, 15, 16]
    assert np.flatnonzero(small[0].any(axis=1)).tolist() == list(range(8, 20))
    assert small.max() == 255


def test_a_character_that_leaves_the_em_is_made_to_fit(tmp_path: Path) -> None:
    (wide,) = draw(face(tmp_path, {"W": (-500, 0, 1500, 1000)}), "W", 28)
    assert size_of(wide) == (24, 12)


def test_what_a_typeface_lacks_is_noticed_by_its_sign_for_it(tmp_path: Path) -> None:
    images = draw(face(tmp_path, {"a": SMALL}), "ab", 28)
    assert [image is not None for image in images] == [True, False]


def test_a_blank_sign_for_what_is_missing_is_no_drawing(tmp_path: Path) -> None:
    images = draw(face(tmp_path, {"a": SMALL, "b": None}, missing=None), "abc", 28)
    assert [image is not None for image in images] == [True, False, False]


def test_one_drawing_for_two_characters_says_nothing_about_either(tmp_path: Path) -> None:
    """As where a designer maps all that is not drawn yet to one placeholder; where it stands on the line does not matter."""
    drawings: dict[str, Box | None] = {"a": SMALL, "b": LARGE, "c": (300, 0, 550, 500)}
    assert [image is not None for image in draw(face(tmp_path, drawings), "abc", 28)] == [False, True, False]
    assert [image is not None for image in draw(face(tmp_path, drawings), "ab", 28)] == [True, True]


def test_a_character_far_larger_than_its_em_is_left_out(tmp_path: Path) -> None:
    assert draw(face(tmp_path, {"a": (-16000, 0, 16000, 10)}), "a", 28) == [None]


def test_a_family_counts_once_with_its_plainest_face(tmp_path: Path) -> None:
    for family, styles in {
        "One": ("Bold", "Regular", "Italic"),
        "Two": ("Black", "Medium"),
        "Six": ("W6", "W3"),
    }.items():
        for style in styles:
            tiny_fonts.write(tmp_path / family, family, {"a": SMALL}, style)
    found = find_typefaces([tmp_path])
    assert [(each.family, each.style) for each in found] == [("One", "Regular"), ("Six", "W3"), ("Two", "Medium")]
    assert str(found[0]) == f"One Regular: {tmp_path / 'One' / 'One-Regular.ttf'}"


def test_collections_hold_several_typefaces(tmp_path: Path) -> None:
    drawings: list[dict[str, Box | None]] = [{"a": SMALL}, {"a": LARGE}]
    fonts = [tiny_fonts.typeface(f"Part{number}", "Regular", each) for number, each in enumerate(drawings)]
    tiny_fonts.write_collection(tmp_path / "both.TTC", fonts)
    found = find_typefaces([tmp_path])
    assert [(each.family, each.number) for each in found] == [("Part0", 0), ("Part1", 1)]
    assert [size_of(draw(each, "a", 28)[0]) for each in found] == [(6, 12), (12, 24)]


def test_files_that_hold_no_typeface_are_passed_over_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    whole = tiny_fonts.write(tmp_path, "Own", {"a": SMALL})
    (tmp_path / "damaged.otf").write_bytes(whole.read_bytes()[:200])
    (tmp_path / "page.ttf").write_text("<html>")
    (tmp_path / "readme.txt").write_text("none")
    assert [each.family for each in find_typefaces([tmp_path])] == ["Own"]
    assert "2 files hold no typeface with outlines that can be read" in caplog.text
    whole.unlink()
    with pytest.raises(UserError, match=r"no typefaces \(\.ttf, \.otf, \.ttc\) there"):
        find_typefaces([tmp_path])


def test_where_typefaces_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path))
    monkeypatch.setattr(font_files, "_of_the_system", lambda: [tmp_path / "system", tmp_path / "absent"])
    with pytest.raises(UserError, match=r"dataset\.root=DIR names one"):
        folders(None)
    (tmp_path / "system").mkdir()
    assert folders(None) == [tmp_path / "system"]
    (tmp_path / "fonts").mkdir()
    assert folders(None) == [tmp_path / "fonts"]
    assert folders(str(tmp_path / "system")) == [tmp_path / "system"]
    with pytest.raises(UserError, match=r"dataset\.root=.*absent is not a folder"):
        folders(str(tmp_path / "absent"))


def test_every_system_has_usual_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    for platform in ("linux", "darwin", "win32"):
        monkeypatch.setattr(font_files.sys, "platform", platform)
        assert any(part in str(font_files._of_the_system()[0]) for part in ("fonts", "Fonts"))


def test_a_typeface_that_changes_is_noticed(tmp_path: Path) -> None:
    tiny_fonts.write(tmp_path, "Own", {"a": SMALL})
    before = state([tmp_path])
    (tmp_path / "readme.txt").write_text("none")
    assert state([tmp_path]) == before
    tiny_fonts.write(tmp_path, "Own", {"a": SMALL, "b": LARGE})
    assert state([tmp_path]) != before
