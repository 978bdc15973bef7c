"""Classes: how one is identified, and which belong to which split."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metalearn.errors import UserError

SPLITS = ("train", "val", "test")
TURNED = "turned "  # begins the names of classes that are a data set's own ones, turned (metalearn/data/halves.py)
TEST_ONLY = "test_only"  # the name of the split without training classes
_SPLIT_FILES = Path(__file__).parent / "splits"
_TURNED = re.compile(r"(.*)@(0|90|180|270)", re.DOTALL)
# Glyph numbers had as many digits as the largest of the alphabet; now they have three or more.
_EARLIER_GLYPH = re.compile(r"(seed\d+/glyph)(\d+)")


@dataclass(frozen=True, order=True)
class ClassId:
    """Which class it is, across data sets and runs; `str` is what checkpoints store: `glyphs:seed0/glyph001@90`.

    Attributes:
        origin: the data set, a name without colon.
        name: within the data set; may hold any character.
        turn: by how many degrees its images are turned: 0, 90, 180 or 270.
    """

    origin: str
    name: str
    turn: int = 0

    def __post_init__(self) -> None:
        if ":" in self.origin:
            raise ValueError(f"the data set '{self.origin}' has a colon in its name")

    def __str__(self) -> str:
        # A name that ends like a turn needs one of its own behind it, so that `parse` takes off the right one.
        turned = self.turn or _TURNED.fullmatch(self.name)
        return f"{self.origin}:{self.name}" + (f"@{self.turn}" if turned else "")

    @classmethod
    def parse(cls, text: str) -> ClassId:
        """Reads the text that `str` made, in this version or an earlier one."""
        origin, _, name = text.partition(":")
        turn = 0
        if match := _TURNED.fullmatch(name):
            name, turn = match[1], int(match[2])
        if origin == "glyphs" and (match := _EARLIER_GLYPH.fullmatch(name)):
            name = f"{match[1]}{int(match[2]):03d}"
        return cls(origin, name, turn)

    @property
    def upright(self) -> ClassId:
        """The class whose images were turned."""
        return ClassId(self.origin, self.name)


@dataclass(frozen=True)
class ClassSplit:
    """Disjoint class names for training, validation and test, under a published or seeded name."""

    name: str
    classes: Mapping[str, tuple[str, ...]]  # "train" | "val" | "test" -> class names

    def __post_init__(self) -> None:
        for i, first in enumerate(SPLITS):
            for second in SPLITS[i + 1 :]:
                both = set(self.classes[first]) & set(self.classes[second])
                if both:
                    raise UserError(f"split '{self.name}': class '{min(both)}' is in {first} and in {second}")

    @property
    def sha256(self) -> str:
        """The hash of the class names in order. Two results with equal hashes were measured on the same classes."""
        text = "\n".join(f"{split}\t{name}" for split in SPLITS for name in self.classes[split])
        return hashlib.sha256(text.encode()).hexdigest()


def read_split(dataset: str, name: str, folder: Path | None = None) -> ClassSplit:
    """The class lists `<dataset>_<name>_{train,val,test}.txt`, one name in a line; a name may hold spaces.

    Args:
        dataset: its name.
        name: of the split.
        folder: where the lists lie; None: in `splits/`, which is shipped.

    Raises:
        UserError: there is no such split; the message lists those that there are.
    """
    folder = folder or _SPLIT_FILES
    files = {split: folder / f"{dataset}_{name}_{split}.txt" for split in SPLITS}
    if not all(file.is_file() for file in files.values()):
        shipped = sorted(f.stem.split("_")[-2] for f in folder.glob(f"{dataset}_*_train.txt"))
        raise UserError(f"dataset.split={name}: {dataset} has no such split (shipped: {', '.join(shipped) or 'none'})")
    return ClassSplit(
        name, {split: tuple(file.read_text(encoding="utf-8").splitlines()) for split, file in files.items()}
    )


def random_split(class_names: Sequence[str], val: int, test: int, seed: int) -> ClassSplit:
    """`test` and `val` classes drawn at random with `seed`, the rest for training; each part in the order of `class_names`.

    A pure function of its arguments.
    """
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(class_names))
    parts = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}
    return ClassSplit(
        f"random-{seed}", {split: tuple(class_names[i] for i in sorted(part)) for split, part in parts.items()}
    )


def test_only(class_names: Sequence[str]) -> ClassSplit:
    """All classes for test, as where a model of another data set is tested on this one."""
    return ClassSplit(TEST_ONLY, {"train": (), "val": (), "test": tuple(class_names)})
