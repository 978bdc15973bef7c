"""Published files: found packed or unpacked, missing with all that the user needs to know, checked piece by piece."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from metalearn.data.files.published import About, PublishedFile, find, folder_of, verify
from metalearn.errors import UserError

CONTENT = bytes(range(256)) * 20
IMAGES = PublishedFile(
    "images.zip",
    ("https://one.example/images.zip", "https://two.example/images.zip"),
    len(CONTENT),
    md5=hashlib.md5(CONTENT).hexdigest(),
    unpacked="images",
)
LABELS = PublishedFile("labels.csv")
ABOUT = About("Small pictures", "https://pictures.example", "CC0", (IMAGES, LABELS), folder="pictures")


def test_files_are_found_packed_or_unpacked_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").touch()
    (tmp_path / "images").mkdir()
    assert find("small", ABOUT, tmp_path) == (tmp_path / "images", tmp_path / "labels.csv")
    (tmp_path / "images.zip").touch()
    assert find("small", ABOUT, tmp_path) == (tmp_path / "images.zip", tmp_path / "labels.csv")
    assert find("small", ABOUT, tmp_path, [LABELS]) == (tmp_path / "labels.csv",)


def test_a_missing_file_is_one_line_with_name_size_checksum_place_and_command(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").touch()
    with pytest.raises(UserError) as error:
        find("small", ABOUT, tmp_path)
    message = str(error.value)
    for part in (
        *("images.zip", "5.1 kB", f"md5 {IMAGES.md5}", str(tmp_path), "or images, which it unpacks to"),
        *("metalearn data fetch small", IMAGES.urls[0], "dataset.root=DIR"),
    ):
        assert part in message
    assert "\n" not in message
    assert "more file" not in message


def test_several_missing_files_are_counted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images\.zip .* and 1 more file are missing .* fetches them"):
        find("small", ABOUT, tmp_path)


def test_what_needs_a_login_names_the_page(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels\.csv \(no size or checksum .* by hand: https://pictures\.example"):
        find("small", ABOUT, tmp_path, [LABELS])


def test_the_folder_is_the_root_or_lies_in_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path))
    assert folder_of("small", ABOUT, "/elsewhere") == Path("/elsewhere")
    assert folder_of("small", ABOUT, None) == tmp_path / "pictures"
    assert folder_of("small", About("Others", "", ""), None) == tmp_path / "small"


def test_a_folder_that_another_program_made_inside_counts_where_the_outer_one_is_empty(tmp_path: Path) -> None:
    about = replace(ABOUT, inner=("Pictures/raw",))
    (tmp_path / "Pictures/raw/images").mkdir(parents=True)
    assert folder_of("small", about, str(tmp_path)) == tmp_path / "Pictures/raw"
    (tmp_path / "labels.csv").touch()
    assert folder_of("small", about, str(tmp_path)) == tmp_path


def test_a_file_is_verified_by_size_first_and_by_the_strongest_checksum(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    path.write_bytes(CONTENT)
    seen: list[int] = []
    assert verify(path, IMAGES, seen.append) is None
    assert seen[-1] == len(CONTENT)
    assert verify(path, PublishedFile("images.zip")) is None, "nothing is published to compare with"
    both = PublishedFile("x", (), None, md5="0" * 32, sha256=hashlib.sha256(CONTENT).hexdigest())
    assert verify(path, both) is None
    path.write_bytes(CONTENT[::-1])
    assert "its md5 is" in str(verify(path, IMAGES))
    assert "its sha256 is" in str(verify(path, both))
    path.write_bytes(CONTENT[:-1])
    assert verify(path, IMAGES) == f"it has {len(CONTENT) - 1} bytes, {len(CONTENT)} were expected"
