"""Caltech-UCSD Birds-200-2011 (Wah et al. 2011): 11,788 photographs of 200 bird species, 41 to 60 of each."""

from __future__ import annotations

from pathlib import Path

from metalearn.data.files.annotations import numbers, table, texts
from metalearn.data.files.published import About, PublishedFile
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked, Box, Label, Labels, by_path, load_listed

ABOUT = About(
    "Caltech-UCSD Birds-200-2011",
    homepage="https://data.caltech.edu/records/65de6-vp158",
    licence="not stated",
    files=(
        PublishedFile(
            "CUB_200_2011.tgz",
            (
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                "https://zenodo.org/record/8000562/files/CUB_200_2011.tgz",
            ),
            1_150_585_339,
            md5="97eceeb196236b17998738112f37df78",
            sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
            unpacked="CUB_200_2011",
        ),
    ),
)
_by_path = by_path(r"images/(\d{3}\.[^/]+)/[^/]+\.jpg")


def load(asked: Asked, crop: str) -> ImageClasses:
    """200 species, named as the folders in the archive: `001.Black_footed_Albatross`.

    Args:
        asked: what is asked of every data set of images (docs/data/index.md).
        crop: "none", the whole photograph; "box", the part in the published bounding box.

    Raises:
        UserError: the archive is missing or damaged, or the split is unknown.
    """
    labels = _in_box if crop == "box" else _by_path
    return load_listed("cub", ABOUT, asked, labels, drawn=(30, 30), published=11_788, variant=f"-{crop}")


def _in_box(places: tuple[Path, ...]) -> Labels:
    """Boxes are published as: number of the image, left, top, width, height; a further file has the path of each number."""
    paths, boxes = "images.txt", "bounding_boxes.txt"
    found = texts(places[0], (paths, boxes))
    path_of = dict(table(found[paths], paths, 2))
    box_of: dict[str, Box] = {}
    for number, *cells in table(found[boxes], boxes, 5):
        left, top, width, height = numbers(cells, boxes)
        box_of[path_of.get(number, number)] = (left, top, left + width, top + height)
    whole = _by_path(places)

    def label(path: str) -> Label | None:
        found = whole(path)
        return found and found._replace(box=box_of.get("/".join(path.split("/")[-2:])))

    return label
