"""Somebody's own texts and their labels: a CSV file of text,label[,split], or a folder or archive with a folder of .txt files for each class."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from metalearn.data.files.archives import is_archive
from metalearn.data.own.labels import read_texts
from metalearn.data.own.layout import TEXT_FILES, Place, class_name, layout_of
from metalearn.errors import UserError, one_line
from metalearn.sizes import count_text


@dataclass
class Labelled:
    """Labelled texts.

    Attributes:
        texts: class and split -> its texts, in the order of the file or of the files' names, each once.
        names: class and split -> where each of them stands.
        kind: the layout, in words.
        twice: how many texts were left out because their class had them already.
        empty: classes without a text.
        passed_over: files that belong to no class, or are no texts.
    """

    kind: str
    texts: dict[Place, list[str]] = field(default_factory=dict)
    names: dict[Place, list[str]] = field(default_factory=dict)
    twice: int = 0
    empty: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)

    def add(self, place: Place, text: str, name: str) -> None:
        """One more text, unless its class has it."""
        known = self.texts.setdefault(place, [])
        if text in self._seen.setdefault(place, set()):
            self.twice += 1
            return
        self._seen[place].add(text)
        known.append(text)
        self.names.setdefault(place, []).append(name)

    def __post_init__(self) -> None:
        self._seen: dict[Place, set[str]] = {}

    @property
    def summary(self) -> str:
        """One line on what was found."""
        parts = [
            f"{count_text(sum(map(len, self.texts.values())), 'text')} of "
            f"{count_text(len({place.class_name for place in self.texts}), 'class', 'classes')}, {self.kind}"
        ]
        parts += (
            [f"{self.twice} that a class has twice {'is' if self.twice == 1 else 'are'} taken once"]
            if self.twice
            else []
        )
        parts += [f"no text in {', '.join(self.empty[:3])}"] if self.empty else []
        parts += (
            [f"passed over: {count_text(len(self.passed_over), 'file')}, {self.passed_over[0]} for one"]
            if self.passed_over
            else []
        )
        return "; ".join(parts)


def labelled_texts(root: Path, depth: int = 1, outside: bool = False) -> Labelled:
    """The texts at `root`, without white space around them.

    Args:
        root: from `checked_root`.
        depth: how many folders make the name of a class; not of a CSV file.
        outside: whether files outside of a folder are read, through links.

    Raises:
        UserError: there is no text, one is empty or cannot be read, or it cannot be told what belongs to which class.
    """
    if not root.is_dir() and not is_archive(root):
        found = Labelled(f"the list {root.name}")
        for number, row in enumerate(read_texts(_content(root), str(root)), 1):
            found.add(Place(class_name(row.label), row.split), row.path, f"{root.name}, text {number}")
        return found
    layout = layout_of(root, depth, outside, TEXT_FILES)
    if layout.missing:
        raise UserError(f"{root} lists files that are not there, '{layout.missing[0]}' for one")
    found = Labelled(layout.kind, empty=layout.empty, passed_over=[*layout.others, *layout.stray])
    for path, content in layout.contents():
        found.add(layout.images[path], decoded(content, f"{root}: {path}"), path)
    return found


def decoded(content: bytes, name: str) -> str:
    """The text of a file, without white space around it; UserError where it is no UTF-8 or empty."""
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8") from error
    if not text:
        raise UserError(f"{name} has no text in it")
    return text


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({one_line(error)})") from error
