"""Characters of small typefaces that the tests write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalearn.cli.main import main
from metalearn.data.classes import SPLITS, random_split
from metalearn.data.images import ImageClasses
from metalearn.data.sets import fonts
from metalearn.errors import UserError
from tests.data.pictures import tiny_fonts
from tests.data.pictures.tiny_fonts import Box
from tests.data.small_files import section

CHARACTERS = "".join(map(chr, range(0x4E00, 0x4E00 + 50)))
FACES = 10


def drawing(character: int, face: int) -> Box:
    """A rectangle whose height says which character it is, and its width which typeface."""
    return 0, 0, 80 + 80 * face, 40 + 19 * character


def load(root: Path, **changes: Any) -> ImageClasses:
    settings: dict[str, Any] = {"split_seed": 0, "size": 84, "unseen_typefaces": False, "min_images": None}
    listed = root.parent / "fifty.txt"
    listed.write_text(" ".join(CHARACTERS) + "\n", encoding="utf-8")
    return fonts.load(root=str(root), **({"characters": str(listed)} | settings | changes))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten typefaces: all have 45 characters; of the other five the k-th is in k of them."""
    folder = tmp_path_factory.mktemp("typefaces") / "fonts"
    for face in range(FACES):
        there = {c: drawing(n, face) for n, c in enumerate(CHARACTERS) if n < 45 or face < n - 45}
        tiny_fonts.write(folder, f"Face{face}", there)
    return folder


def widths(images: np.ndarray) -> set[int]:
    """Which typefaces drew the images."""
    columns = [int(image[0].any(axis=0).sum()) for image in images]
    return {round((width * 1000 / 72 - 80) / 80) for width in columns}


def test_a_class_is_a_character_and_an_image_a_typeface(root: Path) -> None:
    dataset = load(root)
    counts = dict(zip(dataset.class_names, dataset.images.counts.tolist(), strict=True))
    expected = {f"U+{0x4E00 + n:04X}": FACES if n < 45 else n - 45 for n in range(50)}
    assert counts == {name: count for name, count in expected.items() if count}
    assert dataset.images.images.shape[1:] == (1, 84, 84)
    for number in (0, 20, 44):
        assert widths(dataset.images.of_class(number)) == set(range(FACES))
    assert str(dataset.classes("train")[0]).startswith("fonts:U+4E")


def test_characters_are_divided_whatever_the_typefaces_have(root: Path) -> None:
    split = load(root).split
    names = [f"U+{ord(character):04X}" for character in CHARACTERS]
    listed = random_split(names, 8, 10, 0)
    assert split.classes == {part: tuple(n for n in of if n != "U+4E2D") for part, of in listed.classes.items()}
    assert split.name == "fifty-seed0"
    assert load(root, split_seed=1).split.classes["test"] != split.classes["test"]
    few = load(root, min_images=3).split
    assert few.name == "fifty-seed0-min3"
    assert {name for part in SPLITS for name in set(split.classes[part]) - set(few.classes[part])} == {
        "U+4E2E",
        "U+4E2F",
    }


def test_typefaces_can_be_divided_as_well(root: Path) -> None:
    dataset = load(root, unseen_typefaces=True, min_images=2)
    assert dataset.split.name == "fifty-seed0-unseen-typefaces-min2"
    used = {
        part: set.union(*(widths(dataset.images.of_class(number)) for number in dataset.numbers(part)))
        for part in SPLITS
    }
    assert {part: len(faces) for part, faces in used.items()} == {"train": 5, "val": 2, "test": 3}
    assert len(set.union(*used.values())) == FACES
    other = load(root, unseen_typefaces=True, min_images=2, split_seed=3)
    assert set.union(*(widths(other.images.of_class(number)) for number in other.numbers("test"))) != used["test"]


def test_equal_drawings_of_two_typefaces_count_once(root: Path, tmp_path: Path) -> None:
    for face, family in ((0, "Face"), (0, "Copy"), (1, "Other")):
        tiny_fonts.write(tmp_path / "fonts", family, {c: drawing(n, face) for n, c in enumerate(CHARACTERS)})
    dataset = load(tmp_path / "fonts")
    assert dataset.images.counts.tolist() == [2] * 50
    assert [str(face).partition(":")[0] for face in fonts.credits(str(tmp_path / "fonts"))] == [
        *("Copy Regular", "Face Regular", "Other Regular"),
    ]
    with pytest.raises(UserError, match=r"dataset\.unseen_typefaces=true needs 8 typefaces or more, there are 3"):
        load(tmp_path / "fonts", unseen_typefaces=True)


def test_typefaces_without_any_of_the_characters_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"none of its 10 typefaces has any of the 238 characters"):
        load(root, characters="latin")


def test_a_typeface_that_is_added_is_read(tmp_path: Path) -> None:
    tiny_fonts.write(tmp_path / "fonts", "One", {c: drawing(n, 0) for n, c in enumerate(CHARACTERS)})
    assert load(tmp_path / "fonts").images.counts.max() == 1
    tiny_fonts.write(tmp_path / "fonts", "Two", {c: drawing(n, 1) for n, c in enumerate(CHARACTERS)})
    assert load(tmp_path / "fonts").images.counts.max() == 2


def test_the_named_lists() -> None:
    lists = {name: "".join(fonts.read_characters(name)) for name in fonts.CHARACTERS}
    assert {name: len(characters) for name, characters in lists.items()} == {
        "latin": 238,
        "greek": 85,
        "cyrillic": 241,
        "hangul": 2350,
        "kanji": 2965,
    }
    assert all(len(set(characters)) == len(characters) for characters in lists.values())
    assert (lists["kanji"][0], lists["kanji"][-1]) == ("亜", "腕")
    assert (lists["hangul"][0], lists["hangul"][-1]) == ("가", "힝")
    assert lists["latin"].startswith("ABC")
    assert "αβγ" in lists["greek"]
    assert "абв" in lists["cyrillic"]


@pytest.mark.parametrize("name", fonts.CHARACTERS)
def test_the_page_states_the_division_of_each_list(name: str) -> None:
    names = [f"U+{ord(character):04X}" for character in fonts.read_characters(name)]
    val, test = round(0.16 * len(names)), round(0.2 * len(names))
    digits = random_split(names, val, test, 0).sha256[:12]
    (row,) = [line for line in section("fonts").splitlines() if line.startswith(f"| `{name}` |")]
    assert row.endswith(f"| {len(names) - val - test}, {val}, {test} | `{digits}` |")


def test_the_division_of_the_kanji_stays() -> None:
    names = [f"U+{ord(character):04X}" for character in fonts.read_characters("kanji")]
    digits = "839fb48ba4c8c5f0d96917ace2b0f7cdeada920f4f310248a230881d3ef9b592"
    assert random_split(names, 474, 593, 0).sha256 == digits


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is neither a file nor a list"),
        (b"\xff\xfe\x00", "cannot be read as UTF-8"),
        (b"aabb \n", r"has 2 characters \(at least 10\)"),
        (b"a" * (1 << 21), r"has 2 MiB \(at most 1\)"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        fonts.read_characters(str(file))
    assert str(error.value).startswith(f"dataset.characters={file}")


def test_a_list_of_ones_own_holds_each_character_once(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("\ufeffABCDE\nFGHIJ\tKA\u00a0B\u3000", encoding="utf-8")
    assert fonts.read_characters(str(tmp_path / "mine.txt")) == tuple("ABCDEFGHIJK")
    with pytest.raises(UserError, match=r"did you mean 'kanji'\? \(lists: latin, greek, cyrillic, hangul, kanji\)"):
        fonts.read_characters("kanj")


def test_the_folder_of_typefaces_is_checked_as_a_folder(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root.parent / "few.txt").write_text("".join(CHARACTERS))
    main(["data", "check", "fonts", f"dataset.root={root}", f"dataset.characters={root.parent / 'few.txt'}"])
    out = capsys.readouterr().out
    assert f"{root}: a folder" in out
    assert "intact" in out
