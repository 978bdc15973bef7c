"""Texts that a user hands to a trained model: labelled ones to learn from, and others to label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metalearn.data.files.archives import is_archive, members
from metalearn.data.own.given import QUERY, SUPPORT, Query, Support, about_support
from metalearn.data.own.labels import column_of_texts
from metalearn.data.own.layout import TEXT_FILES, checked_root, is_csv
from metalearn.data.own.texts import decoded, labelled_texts
from metalearn.data.texts import as_bytes
from metalearn.errors import UserError, one_line
from metalearn.sizes import count_text

_LEAST = 2048  # bytes that are kept of a text, where the model's own texts are shorter


@dataclass
class TextForm:
    """How texts become what a network sees: a counterpart of `Form`.

    Attributes:
        length: bytes that are kept of a text.
        seen: how many texts there were.
        cut: how many of them were longer.
    """

    length: int
    seen: int = 0
    cut: int = 0
    noun: str = "texts"

    @classmethod
    def of_length(cls, length: int) -> TextForm:
        """For a model that was trained on texts of up to so many bytes."""
        return cls(max(length, _LEAST))

    def stored(self, texts: Sequence[str]) -> NDArray[np.uint8]:
        """uint8 [n, length]"""
        self.seen += len(texts)
        self.cut += sum(len(text.encode(errors="replace")) > self.length for text in texts)
        return as_bytes(texts, self.length)

    def values(self, pixels: NDArray[np.uint8]) -> Tensor:
        """What a network sees of stored texts: uint8 [n, length]."""
        return torch.from_numpy(pixels)

    def shown(self, pixels: NDArray[np.uint8]) -> str:
        """A stored text, for people."""
        return pixels.tobytes().rstrip(b"\0").decode("utf-8", errors="replace")

    def record(self) -> dict[str, object]:
        """Plain values, for a saved classifier."""
        return {"length": self.length}

    @property
    def text(self) -> str:
        """One line on what was done to the texts."""
        cut = f"; {self.cut} of more than {self.length} bytes lost their end" if self.cut else ""
        return f"{count_text(self.seen, 'text')}{cut}"

    def read_support(self, root: str) -> Support:
        """The labelled texts of a CSV file, or of a folder or archive with a folder of .txt files for each class.

        Raises:
            UserError: there are none, a class is alone or empty, or a file cannot be read.
        """
        try:
            found = labelled_texts(checked_root(root, SUPPORT), outside=True)
        except UserError as error:
            raise UserError(about_support(error)) from error
        if found.empty:
            raise UserError(f"{SUPPORT} {root}: the class '{found.empty[0]}' has no text")
        by_class: dict[str, list[str]] = {}
        names: dict[str, list[str]] = {}
        for place in sorted(found.texts):
            by_class.setdefault(place.class_name, []).extend(found.texts[place])
            names.setdefault(place.class_name, []).extend(found.names[place])
        if len(by_class) < 2:
            raise UserError(f"{SUPPORT} {root} has one class, '{next(iter(by_class))}': two or more are needed")
        classes = tuple(sorted(by_class))
        texts = [text for name in classes for text in by_class[name]]
        notes = (
            [
                f"{count_text(found.twice, 'text')} that a class has twice {'is' if found.twice == 1 else 'are'} taken once"
            ]
            if found.twice
            else []
        )
        if found.passed_over:
            notes.append(f"{count_text(len(found.passed_over), 'file')} passed over, '{found.passed_over[0]}' for one")
        counts = tuple(len(by_class[name]) for name in classes)
        return Support(
            classes, self.stored(texts), counts, tuple(one for name in classes for one in names[name]), tuple(notes)
        )

    def nothing(self, classes: tuple[str, ...]) -> Support:
        """Of classes that descriptions tell: no text of any."""
        return Support(classes, np.empty((0, self.length), np.uint8), (0,) * len(classes), (), ())

    def read_queries(self, words: Sequence[str], texts: Sequence[str] = ()) -> Iterator[Query]:
        """The texts themselves, then those that paths name: .txt files, each a text; CSV files, each row a text; folders and archives of .txt files.

        Raises:
            UserError: a path is not there or cannot be read, a folder holds no text, a CSV file has no column of texts, or a text is empty.
        """
        for text in texts:
            if not text.strip():
                raise UserError(f"--text {text!r} has no text in it")
            yield self._query(text, text)
        for word in words:
            path = Path(word).expanduser()
            if path.is_dir() or is_archive(path):
                found = False
                for name, content in members(path, lambda name: TEXT_FILES.is_one(name) and "/." not in f"/{name}"):
                    found = True
                    yield self._file(content, str(Path(word) / name), Path(name).parent.name)
                if not found:
                    raise UserError(f"{QUERY} {word} holds no text (.txt)")
                continue
            try:
                content = path.read_bytes()
            except OSError as error:
                raise UserError(f"{QUERY} {word} cannot be read ({one_line(error)})") from error
            if is_csv(path.name):
                for text in column_of_texts(content, f"{QUERY} {word}"):
                    yield self._query(text, text)
            else:
                yield self._file(content, word, "")

    def _file(self, content: bytes, name: str, folder: str) -> Query:
        try:
            return self._query(decoded(content, name), name, folder)
        except UserError as error:
            return Query(name, None, one_line(error), folder)

    def _query(self, text: str, name: str, folder: str = "") -> Query:
        return Query(" ".join(name.split()), self.stored([text])[0], folder=folder)
