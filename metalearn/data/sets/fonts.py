"""Characters of typefaces: a class is a character, an example is how one typeface draws it.

The typefaces are those of a folder or of the system. A family counts once, with its plainest face.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metalearn.data.cache import load_or_make
from metalearn.data.classes import SPLITS, ClassSplit, random_split
from metalearn.data.files.published import About
from metalearn.data.images import ImageClasses
from metalearn.data.pictures.font_files import folders, state
from metalearn.data.pictures.typefaces import DRAWING, Typeface, draw, find_typefaces
from metalearn.errors import UserError, nearest, one_line
from metalearn.places import cache_dir, expanded

log = logging.getLogger("metalearn")

_VAL, _TEST = 0.16, 0.2  # shares of the characters
_VAL_FACES, _TEST_FACES = 0.2, 0.3  # shares of the typefaces, where they are divided too
_LARGEST_FILE, _FEWEST = 1 << 20, 10  # bytes and characters of a list of characters

ABOUT = About(
    title="characters as the typefaces of a folder, or of the system, draw them",
    homepage="docs/data/fonts.md",
    licence="each typeface's own",
    place=lambda root: folders(root)[0],
)


def load(
    root: str | None, characters: str, split_seed: int, size: int, unseen_typefaces: bool, min_images: int | None
) -> ImageClasses:
    """Characters: images [1, size, size], 255 = ink, one of each typeface that has the character; classes named `U+4E9C`.

    Args:
        root: a folder of .ttf, .otf and .ttc files; None: `$METALEARN_DATA/fonts`, else the folders of the system.
        characters: a named list, or a file whose characters are taken.
        split_seed: of the division of the characters, and of the typefaces.
        size: pixels.
        unseen_typefaces: whether each of train, val and test has typefaces of its own.
        min_images: leaves out characters that fewer typefaces have.

    Raises:
        UserError: there are no typefaces or too few, none has the characters, or there is no such list.
    """
    places, wanted = folders(root), read_characters(characters)
    names = {_name(character): character for character in wanted}
    listed = random_split(list(names), round(_VAL * len(names)), round(_TEST * len(names)), split_seed)
    of_class = {name: split for split, of_split in listed.classes.items() for name in of_split}

    def make() -> Iterator[tuple[str, NDArray[np.uint8]]]:
        faces = find_typefaces(places)
        of_face = _divided(faces, split_seed) if unseen_typefaces else {}
        return _drawn(
            names, faces, size, lambda name, face: of_face.get(face, of_class[name]) == of_class[name], places[0]
        )

    divided = f"unseen{split_seed}-" if unseen_typefaces else ""
    drawn = hashlib.sha256("".join(wanted).encode()).hexdigest()[:12]
    stored = load_or_make("fonts", f"{drawn}-{divided}{size}-v{DRAWING}-{state(places)}", make)
    there = set(stored.class_names)
    split = ClassSplit(
        f"{Path(characters).stem}-seed{split_seed}" + ("-unseen-typefaces" if unseen_typefaces else ""),
        {split: tuple(name for name in of_split if name in there) for split, of_split in listed.classes.items()},
    )
    whole = ImageClasses("fonts", stored.images, stored.class_names, split, dict.fromkeys(SPLITS, 1))
    return whole if min_images is None else whole.without_small_classes(min_images)


def credits(root: str | None) -> list[Typeface]:
    """The typefaces at `root` that are used, in the order of their names.

    Raises:
        UserError: there are none.
    """
    return find_typefaces(folders(root))


def _letters(first: int, last: int, script: str) -> tuple[str, ...]:
    """The small and capital letters of a script, from one code point to another."""
    letters = re.compile(rf"{script} (SMALL|CAPITAL) LETTER .*")
    characters = map(chr, range(first, last + 1))
    return tuple(each for each in characters if letters.fullmatch(unicodedata.name(each, "")))


def _of_a_standard(codec: str, first: int, last: int) -> tuple[str, ...]:
    """The characters of a standard of 94 rows of 94, from one row to another, in its order."""
    cells = (bytes([0xA0 + row, 0xA0 + cell]) for row in range(first, last + 1) for cell in range(1, 95))
    return tuple(character for cell in cells if (character := cell.decode(codec, "ignore")))


CHARACTERS: Mapping[str, Callable[[], tuple[str, ...]]] = {
    "latin": lambda: _letters(0x41, 0x17F, "LATIN"),  # with the accents of European languages
    "greek": lambda: _letters(0x370, 0x3FF, "GREEK"),
    "cyrillic": lambda: _letters(0x400, 0x4FF, "CYRILLIC"),
    "hangul": lambda: _of_a_standard("euc_kr", 16, 40),  # the syllables of KS X 1001
    "kanji": lambda: _of_a_standard("euc_jp", 16, 47),  # the first level of JIS X 0208
}


def read_characters(chosen: str) -> tuple[str, ...]:
    """The characters of a named list, or those of a file in UTF-8 but for spaces and line ends, each once.

    Raises:
        UserError: there is no such list and no such file, or the file cannot be read or has too few.
    """
    if chosen in CHARACTERS:
        return CHARACTERS[chosen]()
    file = expanded(Path(chosen), "dataset.characters")
    if not file.is_file():
        raise UserError(
            f"dataset.characters={chosen} is neither a file nor a list{nearest(chosen, CHARACTERS)} (lists: {', '.join(CHARACTERS)})"
        )
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise UserError(
                f"dataset.characters={chosen} has {file.stat().st_size >> 20} MiB (at most {_LARGEST_FILE >> 20})"
            )
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"dataset.characters={chosen} cannot be read as UTF-8 ({one_line(error)})") from error
    found = tuple(dict.fromkeys(each for each in text if each.isprintable() and not each.isspace()))
    if len(found) < _FEWEST:
        raise UserError(f"dataset.characters={chosen} has {len(found)} characters (at least {_FEWEST})")
    return found


def _name(character: str) -> str:
    return f"U+{ord(character):04X}"


def _divided(faces: Sequence[Typeface], seed: int) -> dict[Typeface, str]:
    """Typeface -> the split that it belongs to.

    Raises:
        UserError: there are too few for three splits.
    """
    of_family = {face.family: face for face in faces}
    val, test = (round(share * len(faces)) for share in (_VAL_FACES, _TEST_FACES))
    if min(val, test, len(faces) - val - test) < 2:
        raise UserError(f"dataset.unseen_typefaces=true needs 8 typefaces or more, there are {len(faces)}")
    split = random_split(list(of_family), val, test, seed)
    return {of_family[family]: part for part, families in split.classes.items() for family in families}


def _drawn(
    names: Mapping[str, str], faces: Sequence[Typeface], size: int, wanted: Callable[[str, Typeface], bool], place: Path
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """(class, uint8 [n, 1, size, size]) of every character that has a drawing. Equal drawings of two typefaces count once."""
    log.info(
        "drawing %d characters of %d typefaces, once: about %d s",
        *(len(names), len(faces), 1 + len(names) * len(faces) // 3000),
    )
    # A typeface is opened once and draws everything, but classes are handed out one by one: the images wait in a file without a name.
    with tempfile.TemporaryFile(dir=cache_dir()) as file:
        images = np.memmap(file, np.uint8, "w+", shape=(len(names), len(faces), 1, size, size))
        there = np.zeros(images.shape[:2], dtype=bool)
        for column, face in enumerate(faces):
            for row, image in enumerate(draw(face, list(names.values()), size)):
                if image is not None:
                    images[row, column], there[row, column] = image, True
        doubled = 0
        for row, name in enumerate(names):
            kept = {images[row, column].tobytes(): column for column in reversed(np.flatnonzero(there[row]).tolist())}
            doubled += int(there[row].sum()) - len(kept)
            columns = [column for column in sorted(kept.values()) if wanted(name, faces[column])]
            if columns:
                yield name, np.stack([images[row, column] for column in columns])
        log.info(
            "%d drawings; %d more are equal to that of another typeface, %d characters are lacking, blank or drawn like another one",
            *(int(there.sum()) - doubled, doubled, int((~there).sum())),
        )
    if not there.any():
        raise UserError(
            f"dataset.root={place}: none of its {len(faces)} typefaces has any of the {len(names)} characters"
        )
