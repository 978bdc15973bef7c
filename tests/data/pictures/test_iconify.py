"""Iconify's format: packages found and read, aliases followed, icons drawn as they say."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalearn.data.pictures import iconify
from metalearn.data.pictures.iconify import Icon, IconSet
from metalearn.data.pictures.svg import draw, drawn
from metalearn.errors import UserError
from tests.data.pictures.iconify_package import BAR, files, icon_set, pack, unpack

CORNER = '<path fill="currentColor" d="M0 0h16v4H4v12H0z"/>'  # an angle whose corner is at the top left


def read(icons: Mapping[str, Any], **more: Any) -> IconSet:
    return IconSet(json.dumps(icon_set("test", icons, **more)).encode(), "test.json")


def corner(**values: Any) -> np.ndarray:
    """Where the ink of an angle is, drawn as an icon or an alias with these values: bool [2, 2], its quarters."""
    icon = read({"angle": {"body": CORNER, "width": 16, "height": 16}}, aliases={"other": {"parent": "angle"} | values})
    image = draw(icon.icon("other") or pytest.fail("it is there"), 28, colour=False)
    assert image is not None
    return (image[0, 2:6, 2:6].mean() > 200, image[0, 2:6, -6:-2].mean() > 200), (
        image[0, -6:-2, 2:6].mean() > 200,
        image[0, -6:-2, -6:-2].mean() > 200,
    )


def empty_quarter(**values: Any) -> str:
    """Which corner of the image has no ink."""
    (top_left, top_right), (bottom_left, bottom_right) = corner(**values)
    quarters = {"tl": top_left, "tr": top_right, "bl": bottom_left, "br": bottom_right}
    (empty,) = [name for name, full in quarters.items() if not full]
    return empty


def test_aliases_are_turned_and_mirrored_as_the_format_says() -> None:
    assert empty_quarter() == "br"
    assert empty_quarter(hFlip=True) == "bl"
    assert empty_quarter(vFlip=True) == "tr"
    assert empty_quarter(rotate=1) == "bl"  # clockwise
    assert empty_quarter(rotate=2) == "tl"
    assert empty_quarter(rotate=3) == "tr"
    assert empty_quarter(rotate=5) == "bl"
    assert empty_quarter(hFlip=True, vFlip=True) == "tl"
    assert empty_quarter(hFlip=True, rotate=1) == "tl"  # first mirrored, then turned


def test_turns_and_mirrorings_add_up_along_a_chain_of_aliases() -> None:
    aliases = {
        "left": {"parent": "right", "hFlip": True},
        "back": {"parent": "left", "hFlip": True, "rotate": 3},
        "down": {"parent": "back", "rotate": 2, "width": 48},
    }
    icons = read({"right": {"body": CORNER, "rotate": 1, "left": 2}}, aliases=aliases)
    assert icons.icon("right") == Icon(CORNER, 2, 0, 24, 24, rotate=1)
    assert icons.icon("left") == Icon(CORNER, 2, 0, 24, 24, rotate=1, h_flip=True)
    assert icons.icon("down") == Icon(CORNER, 2, 0, 48, 24, rotate=2)
    assert icons.icon("up") is None
    assert icons.names == ("right",)


def test_sizes_come_from_the_icon_else_from_its_set_else_from_the_format() -> None:
    icons = {"own": {"body": BAR, "width": 30, "top": -2}, "sets": BAR}
    of_set = read(icons, height=20, top=1)
    assert of_set.icon("own") == Icon(BAR, 0, -2, 30, 20)
    assert of_set.icon("sets") == Icon(BAR, 0, 1, 24, 20)
    plain = IconSet(json.dumps({"prefix": "test", "icons": {"plain": {"body": BAR}}}).encode(), "test.json")
    assert plain.icon("plain") == Icon(BAR, 0, 0, 16, 16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", r"test\.json is not a set of icons"),
        (b'{"prefix": "test"}', r"test\.json is not a set of icons"),
        (b"[1]", r"test\.json is not a set of icons"),
        (b'{"icons": [1]}', r"test\.json is not a set of icons"),
        (b'{"icons": {}, "aliases": {"a": {"parent": "b"}, "b": {"parent": "a"}}}', "icon '.' .* lead in a circle"),
        (b'{"icons": {}, "aliases": {"a": {"parent": "x"}}}', "icon 'a' is not in Iconify's format"),
        (b'{"icons": {"a": {"width": 5}}}', "icon 'a' is not in Iconify's format"),
        (b'{"icons": {"a": {"body": "", "width": 0}}}', "it is 0 wide"),
        (b'{"icons": {"a": {"body": "", "width": 1e300}}}', r"it is 1e\+300 wide"),
        (b'{"icons": {"a": {"body": "", "left": NaN}}}', "it begins at nan"),
        (b'{"icons": {"a": {"body": "", "height": "tall"}}}', "icon 'a' is not in Iconify's format"),
    ],
)
def test_what_is_not_iconifys_format_is_refused_in_one_line(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        IconSet(content, "test.json").icon("a")
    assert "\n" not in str(error.value)


def test_a_package_is_found_packed_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = files([icon_set("bi", {"bell": BAR}), icon_set("ri", {"bell": BAR})], {})
    (tmp_path / "icons").mkdir()
    packed = pack(tmp_path / "icons", contents)
    folder = unpack(tmp_path, contents)
    installed = unpack(tmp_path / "node_modules" / "@iconify", contents).rename(tmp_path / "node_modules/@iconify/json")
    for root, place in ((packed, packed), (packed.parent, packed), (folder, folder), (tmp_path, folder)):
        assert iconify.find_package("icons", str(root)) == place
        assert [prefix for prefix, _ in iconify.read_sets(place, ["ri", "bi", "mdi"])] == ["bi", "ri"]
        assert list(iconify.read_credits(place)) == ["bi", "ri"]
    folder.rename(tmp_path / "elsewhere")
    assert iconify.find_package("icons", str(tmp_path)) == installed
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path))
    assert iconify.find_package("icons", None) == packed
    pack(packed.parent, contents, "iconify-json-2.2.536.tgz")
    with pytest.raises(UserError, match=r"iconify-json-2\.2\.535\.tgz and iconify-json-2\.2\.536\.tgz: name one"):
        iconify.find_package("icons", None)


def test_a_missing_package_is_said_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"npm pack @iconify/json.*2\.2\.535\.tgz \(104\.0 MB, sha256 1a545f"):
        iconify.find_package("icons", str(tmp_path))


def test_a_package_that_changes_is_noticed(tmp_path: Path) -> None:
    folder = unpack(tmp_path, files([icon_set("bi", {"bell": BAR})], {}))
    before = iconify.state(folder)
    assert iconify.state(folder) == before
    (folder / "json" / "bi.json").write_text(json.dumps(icon_set("bi", {"bell": CORNER})))
    assert iconify.state(folder) != before


def test_sets_under_other_licences_are_left_out(tmp_path: Path) -> None:
    sets = [icon_set(prefix, {"bell": BAR}) for prefix in ("ri", "bi", "mdi", "other")]
    package = pack(tmp_path, files(sets, {"bi": "GPL-3.0"}))
    credits = iconify.credits(package, ["ri", "mdi", "bi", "absent"], ["MIT"])
    assert [credit.prefix for credit in credits] == ["mdi", "ri"]
    assert str(credits[0]) == "mdi: Mdi by Mdi's authors, MIT, https://example.org/licence"


def test_a_damaged_list_of_sets_is_refused(tmp_path: Path) -> None:
    for content in (b"{", b"[]", b'{"bi": {"name": "Bi"}}'):
        package = pack(tmp_path, {"collections.json": content})
        with pytest.raises(UserError, match=r"package/collections\.json is not Iconify's list of sets"):
            iconify.read_credits(package)
    with pytest.raises(UserError, match=r"has no collections\.json"):
        iconify.read_credits(pack(tmp_path, {"package.json": b"{}"}))


def icon(body: str, width: float = 24, height: float = 24) -> Icon:
    return Icon(body, 0, 0, width, height)


def test_the_current_colour_is_black_ink_and_the_ink_box_is_centred() -> None:
    image = draw(icon(BAR), 28, colour=False)
    assert image is not None
    assert image.shape == (1, 28, 28)
    rows, columns = np.flatnonzero(image[0].any(axis=1)), np.flatnonzero(image[0].any(axis=0))
    assert (rows[0], rows[-1]) == (2, 25)
    assert columns.tolist() == [11, 12, 13, 14, 15] or columns.tolist() == [12, 13, 14, 15, 16]
    assert image.max() == 255


def test_colours_stay_on_white() -> None:
    body = '<path fill="#ff0000" d="M0 0h12v24H0z"/><path fill="#0000ff" d="M12 0h12v24H12z"/>'
    image = draw(icon(body), 28, colour=True)
    assert image is not None
    assert image[:, 14, 5].tolist() == [255, 0, 0]
    assert image[:, 14, 22].tolist() == [0, 0, 255]
    assert image[:, 0, 0].tolist() == [255, 255, 255]
    grey = draw(icon(body), 28, colour=False)
    assert grey is not None
    assert 150 < grey[0, 14, 5] < grey[0, 14, 22] < 255  # blue is darker than red


def test_wide_icons_keep_their_shape() -> None:
    image = draw(icon('<path d="M0 0h96v24H0z"/>', width=96), 28, colour=False)
    assert image is not None
    assert image[0].any(axis=1).sum() == 6
    assert image[0].any(axis=0).sum() == 24


def test_an_animated_icon_is_drawn_as_it_stays() -> None:
    appears = '<path fill="currentColor" d="M2 2h20v20H2z" opacity="0"><animate fill="freeze" attributeName="opacity" dur="1s" {}/></path>'
    for last in ('to="1"', 'values="0;1"'):
        image = draw(icon(appears.format(last)), 28, colour=False)
        assert image is not None
        assert image[0, 14, 14] == 255
    pulses = appears.format('to="1"').replace(' fill="freeze" attributeName', ' repeatCount="indefinite" attributeName')
    assert draw(icon(pulses), 28, colour=False) is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('<image href="/etc/hostname" width="24" height="24"/>', "another file"),
        ("<image xlink:href = 'file:///etc/hostname' width='24' height='24'/>", "another file"),
        ('<path d="M0 0h24"><animate', "not well-formed|unclosed token|no element"),
        ("<path", "expected a whitespace"),
    ],
)
def test_what_is_no_drawing_of_its_own_is_an_error(body: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(icon(body), 28, colour=False)


def test_what_cannot_be_drawn_or_seen_is_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    blank, broken = icon('<path fill="none" d="M0 0h9v9z"/>'), icon("<path")
    classes = dict(drawn({"bell": [icon(BAR), blank, icon(BAR)], "key": [broken, icon(CORNER)]}, 28, colour=False))
    assert {name: images.shape for name, images in classes.items()} == {"bell": (2, 1, 28, 28), "key": (1, 1, 28, 28)}
    assert "2 icons cannot be drawn or show nothing, one of 'bell' for example" in caplog.text
    with pytest.raises(UserError, match="none of the 2 icons of 'key' can be drawn"):
        list(drawn({"key": [broken, blank]}, 28, colour=False))


def test_a_missing_resvg_is_said_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UserError, match=r"pip install 'metalearn-runner\[icons\]'"):
        draw(icon(BAR), 28, colour=False)
