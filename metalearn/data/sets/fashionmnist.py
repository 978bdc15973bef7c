"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 7,000 grey photographs, 28x28, of each of 10 kinds of clothing."""

from __future__ import annotations

from metalearn.data.cache import load_or_make
from metalearn.data.files.archives import fingerprint
from metalearn.data.files.idx import Pair, labelled
from metalearn.data.files.published import About, PublishedFile, find, folder_of
from metalearn.data.halves import halved, with_turned
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked

CONVERSION = 1  # of the cache entries; raise it when the conversion changes
# In the order of the labels.
NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def _file(name: str, size: int, md5: str, debians: tuple[int, str]) -> PublishedFile:
    """Debian packs the same content again, without the name and time in gzip's header."""
    return PublishedFile(
        f"{name}.gz",
        (
            f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{name}.gz",
            f"https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/{name}.gz",
        ),
        size,
        md5=md5,
        unpacked=name,
        repacked=(debians,),
    )


ABOUT = About(
    "grey photographs of 10 kinds of clothing",
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    files=(
        _file(
            "train-images-idx3-ubyte",
            26_421_880,
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            (26_421_856, "cf8536b0aa1a6ac5fa3f23001093305c"),
        ),
        _file(
            "train-labels-idx1-ubyte",
            29_515,
            "25c81989df183df01b3e8a0aad5dffbe",
            (29_491, "10bea18fdb374794d4bb42e356e600c9"),
        ),
        _file(
            "t10k-images-idx3-ubyte",
            4_422_102,
            "bef4ecab320f06d8554ea6380940ec79",
            (4_422_079, "f78720b4224f21cce2f2ccf2d7a94c9a"),
        ),
        _file(
            "t10k-labels-idx1-ubyte",
            5_148,
            "bb300cfdad3c16e7a12a480ee83cd310",
            (5_125, "0d30e22e447f3c33dab9ed536400ac01"),
        ),
    ),
    inner=("FashionMNIST/raw",),
    system="/usr/share/datasets/fashion-mnist",
)


def load(asked: Asked) -> ImageClasses:
    """10 classes of images [1, size, size]; the published training and test images of a class together.

    Raises:
        UserError: a file is missing or damaged.
    """
    places = find("fashionmnist", ABOUT, folder_of("fashionmnist", ABOUT, asked.root))
    pairs = [Pair.of_files(*places[:2]), Pair.of_files(*places[2:])]
    key = f"{asked.size}-v{CONVERSION}-{fingerprint(places, bool)}"
    stored = load_or_make("fashionmnist", key, lambda: with_turned(labelled(pairs, dict(enumerate(NAMES)), asked.size)))
    return halved("fashionmnist", stored, asked)
