"""FGVC-Aircraft (Maji et al. 2013): 100 variants of aircraft, 100 photographs of each."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from metalearn.data.files.annotations import numbers, table, texts
from metalearn.data.files.published import About, PublishedFile
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked, Box, Label, Labels, load_listed

ABOUT = About(
    "FGVC-Aircraft",
    homepage="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    licence="for non-commercial research",
    files=(
        PublishedFile(
            "fgvc-aircraft-2013b.tar.gz",
            ("https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",),
            md5="d4acdd33327262359767eeaa97a4f732",
            unpacked="fgvc-aircraft-2013b",
        ),
    ),
)
_VARIANTS = ("images_variant_trainval.txt", "images_variant_test.txt")
_BOXES = "images_box.txt"


def load(asked: Asked, crop: str) -> ImageClasses:
    """100 variants, named as published: `737-300`, `F-16A/B`, `Falcon 2000`.

    Args:
        asked: what is asked of every data set of images (docs/data/index.md).
        crop: "box", the part in the published bounding box, as Meta-Dataset; "none", the whole photograph with the copyright line below it.

    Raises:
        UserError: the archive is missing or damaged, or the split is unknown.
    """

    def labels(places: tuple[Path, ...]) -> Labels:
        return _labels(places[0], boxes=crop == "box")

    return load_listed("aircraft", ABOUT, asked, labels, drawn=(15, 15), published=10_000, variant=f"-{crop}")


def _labels(place: Path, boxes: bool) -> Labels:
    found = texts(place, (*_VARIANTS, *([_BOXES] if boxes else [])))
    variant_of = {image: variant for name in _VARIANTS for image, variant in table(found[name], name, 2)}
    box_of: dict[str, Box] = {}
    for image, *cells in table(found.get(_BOXES, ""), _BOXES, 5):
        left, top, right, bottom = numbers(cells, _BOXES)
        # Published with the first pixel as 1 and the last one included.
        box_of[image] = (left - 1, top - 1, right, bottom)

    def label(path: str) -> Label | None:
        file = PurePosixPath(path)
        if file.suffix != ".jpg" or file.parent.name != "images" or file.stem not in variant_of:
            return None
        return Label(variant_of[file.stem], box_of.get(file.stem))

    return label
