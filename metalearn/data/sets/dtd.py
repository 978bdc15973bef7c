"""Describable Textures Dataset (Cimpoi et al. 2014): 47 textures, 120 photographs of each."""

from __future__ import annotations

from metalearn.data.files.published import About, PublishedFile
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked, by_path, load_listed

ABOUT = About(
    "Describable Textures Dataset",
    homepage="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    licence="for research purposes",
    files=(
        PublishedFile(
            "dtd-r1.0.1.tar.gz",
            ("https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",),
            625_239_812,
            md5="fff73e5086ae6bdbea199a49dfb8a4c1",
            sha256="e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
            unpacked="dtd",
        ),
    ),
)


def load(asked: Asked) -> ImageClasses:
    """47 textures, named as the folders in the archive.

    Raises:
        UserError: the archive is missing or damaged, or the split is unknown.
    """
    labels = by_path(r"images/([^/]+)/[^/]+\.jpg")
    return load_listed("dtd", ABOUT, asked, labels, drawn=(7, 7), published=5640)
