"""FGVCx Fungi 2018 (https://github.com/visipedia/fgvcx_fungi_comp): 89,760 photographs of 1,394 species, as few as 6 of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metalearn.data.files.annotations import texts
from metalearn.data.files.published import About, PublishedFile
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked, Label, Labels, by_number, load_listed
from metalearn.errors import UserError, one_line

ABOUT = About(
    "FGVCx Fungi 2018",
    homepage="https://github.com/visipedia/fgvcx_fungi_comp",
    licence="for non-commercial research and education (terms of the Danish Svampe Atlas)",
    files=(
        PublishedFile(
            "fungi_train_val.tgz",
            ("https://labs.gbif.org/fgvcx/2018/fungi_train_val.tgz",),
            md5="df2b2980835668ed1d9a0e286e4bdadd",
            unpacked="images",
        ),
        PublishedFile(
            "train_val_annotations.tgz",
            ("https://labs.gbif.org/fgvcx/2018/train_val_annotations.tgz",),
            md5="c3c0f1b8a8d0b60619c43d9c89bdbc7e",
            unpacked="train.json",
        ),
    ),
)
_ANNOTATIONS = ("train.json", "val.json")


def load(asked: Asked) -> ImageClasses:
    """1,394 species, named by their number and name in the annotations: `0226.Cortinarius malicorius`.

    Raises:
        UserError: a file is missing or damaged, or the split is unknown.
    """
    return load_listed("fungi", ABOUT, asked, _labels, drawn=(200, 200), published=89_760)


def _labels(places: tuple[Path, ...]) -> Labels:
    """Two files of annotations in COCO's form, whose images together are the data set; species that share a name differ by number."""
    name_of = by_number("fungi", "metadataset")
    class_of: dict[str, str] = {}
    # Unpacked, the two files lie beside the folder of images.
    place = places[1].parent if places[1].name in _ANNOTATIONS else places[1]
    for name, text in texts(place, _ANNOTATIONS).items():
        try:
            annotated = json.loads(text)
            species = {each["image_id"]: each["category_id"] for each in annotated["annotations"]}
            class_of |= {_end(each): name_of[species[each["id"]]] for each in annotated["images"]}
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise UserError(f"{place}: {name} is not the published file of annotations ({reason})") from error

    def label(path: str) -> Label | None:
        name = class_of.get("/".join(path.split("/")[-2:]))
        return None if name is None else Label(name)

    return label


def _end(image: dict[str, Any]) -> str:
    """`<species>/<file>`: the archive's path begins with `images/`, that below the unpacked folder does not."""
    return "/".join(str(image["file_name"]).split("/")[-2:])
