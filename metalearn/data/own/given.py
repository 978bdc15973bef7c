"""Images that a user hands to a trained model: labelled ones to learn from, and others to label. They become what the model was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from metalearn.data.files.archives import is_archive, members
from metalearn.data.fit import fitted
from metalearn.data.normalize import Normalize
from metalearn.data.own.layout import checked_root, is_image, layout_of
from metalearn.data.pictures.paper import DARK, LIGHT, paper_level, reversed_ink
from metalearn.data.pictures.pixels import UnreadableImage, in_channels, opened_image, resized
from metalearn.errors import UserError, one_line

_LARGER = 4  # a drawing is reversed at so many times the size that is asked for: thin lines are still as dark as their ink there
SUPPORT, QUERY = "--support", "--query"


@dataclass
class Form:
    """How files become what a network sees.

    Attributes:
        shape: (channels, height, width).
        normalize: `dataset.normalize` of the data set that the model was trained on.
        fit: "crop", "squash" or "pad", as for `pixels.decode`.
        background: 0 or 255, behind transparent pixels and beside padded images.
        paper: of the drawings that the model was trained on: "dark" or "light"; None: they are no drawings, or nobody knows.
        invert: "yes", "no", or "auto": every image whose paper is the other one.
        notes: counts what was done to images out of the ordinary.
        inverted: how many images were.
        seen: how many images there were.
    """

    shape: tuple[int, int, int]
    normalize: Mapping[str, object] | None = None
    fit: str = "squash"
    background: int = 255
    paper: str | None = None
    invert: str = "auto"
    notes: Counter[str] = field(default_factory=Counter)
    inverted: int = 0
    seen: int = 0
    noun: str = "images"

    def read_support(self, root: str) -> Support:
        """See `read_support`."""
        return read_support(root, self)

    def nothing(self, classes: tuple[str, ...]) -> Support:
        """See `no_support`."""
        return no_support(classes, self)

    def read_queries(self, words: Sequence[str], texts: Sequence[str] = ()) -> Iterator[Query]:
        """See `read_queries`; UserError where there are texts."""
        if texts:
            raise UserError("--text is for a run of texts, this one learned images")
        return read_queries(list(words), self)

    def record(self) -> dict[str, object]:
        """Plain values, for a saved classifier."""
        return {"fit": self.fit, "background": self.background, "paper": self.paper, "invert": self.invert}

    def shown(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | str:
        """A stored image, for people: itself."""
        return pixels

    def pixels(self, content: bytes, name: str) -> NDArray[np.uint8]:
        """The image in a file, uint8 [c, size, size], size being the longer side of `shape`.

        Raises:
            UnreadableImage: it is none.
        """
        channels, height, width = self.shape
        size = max(height, width)
        opened = opened_image(content, name, draft=size * _LARGER, notes=self.notes)
        image = in_channels(opened, channels, self.background)
        self.seen += 1
        background = self.background
        if self._turns(image):
            self.inverted += 1
            image, background = reversed_ink(_smaller(image, size * _LARGER)), 255 - background
        if self.fit == "pad":  # with paper, where the image has such
            level = round(255 * paper_level(image))
            background = 0 if level < 32 else 255 if level > 223 else background
        if min(image.size) < size:
            self.notes[f"smaller than {size} pixels (enlarged)"] += 1
        made = np.asarray(resized(image, size, self.fit, background))
        return np.ascontiguousarray(made.transpose(2, 0, 1)) if channels == 3 else made[None].copy()

    def _turns(self, image: Image.Image) -> bool:
        if self.invert != "auto":
            return self.invert == "yes"
        level = paper_level(image)
        return (self.paper == DARK and level > 0.5) or (self.paper == LIGHT and level < 0.5)

    def values(self, pixels: NDArray[np.uint8]) -> Tensor:
        """What a network sees of uint8 [n, c, size, size]: float32 [n, *shape]."""
        return self.prepared(torch.from_numpy(pixels))

    def prepared(self, pixels: Tensor) -> Tensor:
        """The same of a tensor."""
        x = fitted(pixels.float().div_(255), self.shape)
        known = Normalize.of(self.normalize)  # type: ignore[arg-type]
        return x if known is None else known(x)

    @property
    def text(self) -> str:
        """One line on what was done to the images."""
        channels, height, width = self.shape
        colours = "grey" if channels == 1 else "RGB" if channels == 3 else f"{channels} channels"
        parts = [f"{self.seen} as {width}x{height} {colours} ({self.fit})", self._ink()]
        parts += [f"{count} {what}" for what, count in sorted(self.notes.items())]
        return "; ".join(parts)

    def _ink(self) -> str:
        ours = {DARK: "light ink on dark paper", LIGHT: "dark ink on light paper"}.get(self.paper or "")
        if self.invert == "no":
            return "none inverted (--invert no)"
        if self.invert == "yes":
            return "all inverted (--invert yes)"
        if ours is None:
            return "none inverted (the run's images are no drawings on black or white)"
        which = f"{self.inverted} of {self.seen}" if self.inverted else "none"
        return f"{which} inverted: the run's images have {ours}"


class Given(Protocol):
    """How what a user hands over becomes what a network sees: `Form` for images, `TextForm` for texts. Their methods are explained there."""

    noun: str

    def read_support(self, root: str) -> Support: ...
    def nothing(self, classes: tuple[str, ...]) -> Support: ...
    def read_queries(self, words: Sequence[str], texts: Sequence[str] = ()) -> Iterator[Query]: ...
    def values(self, pixels: NDArray[np.uint8]) -> Tensor: ...
    def record(self) -> dict[str, object]: ...
    def shown(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | str: ...
    @property
    def text(self) -> str: ...


class Support(NamedTuple):
    """Labelled images, or texts, class by class."""

    classes: tuple[str, ...]  # [N], by name
    pixels: NDArray[np.uint8]  # [n, c, size, size]; of texts [n, length]
    counts: tuple[int, ...]  # [N], images of each class
    paths: tuple[str, ...]  # [n]
    notes: tuple[str, ...]  # what was passed over

    @property
    def labels(self) -> Tensor:
        """int64 [n]."""
        return torch.arange(len(self.classes)).repeat_interleave(torch.tensor(self.counts))


def read_support(root: str, form: Form) -> Support:
    """The labelled images in a folder or archive of a folder for each class, or of a CSV file.

    Raises:
        UserError: there are none, a class is empty or alone, or a file cannot be read.
    """
    try:
        place = checked_root(root, SUPPORT)
        layout = layout_of(place, outside=True)
    except UserError as error:
        raise UserError(about_support(error)) from error
    if layout.empty:
        raise UserError(f"{SUPPORT} {root}: the class '{layout.empty[0]}' has no image")
    if layout.missing:
        raise UserError(
            f"{SUPPORT} {root} lists {'a file that is' if len(layout.missing) == 1 else f'{len(layout.missing)} files that are'} not there, "
            f"'{layout.missing[0]}'{'' if len(layout.missing) == 1 else ' for one'}"
        )
    by_class: dict[str, list[tuple[str, NDArray[np.uint8]]]] = {}
    for path, content in layout.contents():
        pixels = form.pixels(content, f"{SUPPORT} {root}: {path}")
        by_class.setdefault(layout.images[path].class_name, []).append((path, pixels))
    if len(by_class) < 2:
        raise UserError(
            f"{SUPPORT} {root} has one class, '{next(iter(by_class))}': two or more are needed, a folder for each"
        )
    classes = tuple(sorted(by_class))
    images = [image for name in classes for image in sorted(by_class[name], key=lambda image: image[0])]
    notes = [
        f"{len(names)} {what} passed over, '{names[0]}' for one"
        for names, what in ((layout.others, "files that are no images"), (layout.stray, "images of no class"))
        if names
    ]
    counts = tuple(len(by_class[name]) for name in classes)
    return Support(
        classes, np.stack([image for _, image in images]), counts, tuple(path for path, _ in images), tuple(notes)
    )


def no_support(classes: tuple[str, ...], form: Form) -> Support:
    """Of classes that descriptions tell: no image of any."""
    size = max(form.shape[1:])
    return Support(classes, np.empty((0, form.shape[0], size, size), np.uint8), (0,) * len(classes), (), ())


class Query(NamedTuple):
    """An image to label, or a file that cannot be read."""

    name: str  # the path, as the user wrote its beginning
    pixels: NDArray[np.uint8] | None  # [c, size, size]; of a text [length]
    fault: str = ""  # why there are no pixels
    folder: str = ""  # the last folder that it lies in, below what the user named


def check_queries(words: list[str]) -> None:
    """Raises UserError where a path is not there."""
    for word in words:
        if not word:  # of an unset shell variable; as a path it would stand for all that lies here
            raise UserError(f"{QUERY} '' is no path")
        if not Path(word).expanduser().exists():
            raise UserError(f"{QUERY} {word} is not there")


def read_queries(words: list[str], form: Form) -> Iterator[Query]:
    """The images that the user names: files, folders with all below them, archives.

    Raises:
        UserError: a path is not there, or a folder or an archive holds no image.
    """
    for word in words:
        path = Path(word).expanduser()
        if not path.exists():
            raise UserError(f"{QUERY} {word} is not there")
        if path.is_file() and not is_archive(path):
            try:
                content = path.read_bytes()
            except OSError as error:
                raise UserError(f"{QUERY} {word} cannot be read ({one_line(error)})") from error
            yield _query(content, word, "", form)
            continue
        found = False
        for name, content in members(path, _wanted):
            found = True
            yield _query(content, str(Path(word) / name), Path(name).parent.name, form)
        if not found:
            raise UserError(f"{QUERY} {word} holds no image")


def _query(content: bytes, name: str, folder: str, form: Form) -> Query:
    try:
        return Query(name, form.pixels(content, name), folder=folder)
    except UnreadableImage as error:
        return Query(name, None, one_line(error), folder)


def _wanted(name: str) -> bool:
    return is_image(name) and not any(part.startswith(".") for part in name.split("/"))


def _smaller(image: Image.Image, size: int) -> Image.Image:
    """The image with a shorter side of at most `size` pixels."""
    shortest = min(image.size)
    if shortest <= size:
        return image
    sides = (max(1, round(image.width * size / shortest)), max(1, round(image.height * size / shortest)))
    return image.resize(sides, Image.Resampling.LANCZOS)


def about_support(error: UserError) -> str:
    """What is wrong with a data set's root, said of `--support`."""
    return one_line(error).replace("dataset.root=", f"{SUPPORT} ").replace(f"{SUPPORT}=", f"{SUPPORT} ")
