"""Small copies of published data sets, in their layout and with all their classes, for what is tested of every data set.

`SMALL_SETS` has for the name of a data set what writes it into a folder: at least 16 images of each class, which its own task needs.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.io import savemat

from metalearn.data.classes import SPLITS, read_split
from metalearn.data.sets.fonts import read_characters
from metalearn.data.sets.icons import families as icon_families
from tests.data.pictures.iconify_package import bar, icon_set, pack
from tests.data.pictures.iconify_package import files as iconify_files
from tests.data.pictures.tiny_fonts import write as write_typeface
from tests.data.small_files import classes_of, idx, picture, write_tar, write_zip

EACH = 16  # images of a class
JPEGS = [picture(k, 8, 6) for k in range(97)]
PNGS = [picture(k, 8, 8, "PNG") for k in range(97)]


def jpeg(number: int) -> bytes:
    return JPEGS[number % len(JPEGS)]


def arrays(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def miniimagenet(root: Path) -> None:
    for part, each in (("train", "train"), ("validation", "val"), ("test", "test")):
        names = read_split("miniimagenet", "ravi").classes[each]
        held = {
            "image_data": arrays(EACH * len(names), 8, 8, 3),
            "class_dict": {name: list(range(k * EACH, (k + 1) * EACH)) for k, name in enumerate(names)},
        }
        (root / f"mini-imagenet-cache-{part}.pkl").write_bytes(pickle.dumps(held, 4))


def tieredimagenet(root: Path) -> None:
    classes = read_split("tieredimagenet", "ren").classes
    every = [name for part in SPLITS for name in classes[part]]
    (root / "class_names.txt").write_text("".join(f"thing {name}\n" for name in every))
    (root / "synsets.txt").write_text("".join(f"{name}\n" for name in every))
    for part in SPLITS:
        count = len(classes[part])
        labels = {
            "label_specific": np.repeat(np.arange(count), EACH),
            "label_specific_str": [f"thing {name}" for name in classes[part]],
        }
        (root / f"{part}_labels.pkl").write_bytes(pickle.dumps(labels, 4))
        encoded = [np.frombuffer(PNGS[k % len(PNGS)], np.uint8)[:, None].copy() for k in range(count * EACH)]
        (root / f"{part}_images_png.pkl").write_bytes(pickle.dumps(encoded, 4))


def cifar100(root: Path) -> None:
    names = classes_of("cifarfs", "bertinetto")
    files = {"cifar-100-python/meta": pickle.dumps({"fine_label_names": names}, 2)}
    for part, each in (("train", EACH - 2), ("test", 2)):
        held = {"data": arrays(100 * each, 3072), "fine_labels": list(range(100)) * each}
        files[f"cifar-100-python/{part}"] = pickle.dumps(held, 2)
    write_tar(root / "cifar-100-python.tar.gz", files)


def cub(root: Path) -> None:
    names = classes_of("cub")
    files = {
        f"CUB_200_2011/images/{name}/{name[4:]}_{i}.jpg": jpeg(7 * k + i)
        for k, name in enumerate(names)
        for i in range(EACH)
    }
    write_tar(root / "CUB_200_2011.tgz", files)


def aircraft(root: Path) -> None:
    names, data = classes_of("aircraft"), "fgvc-aircraft-2013b/data"
    numbers = range(len(names) * EACH)
    lines = [f"{k:07d} {names[k % len(names)]}\n" for k in numbers]
    files = {f"{data}/images/{k:07d}.jpg": jpeg(k) for k in numbers}
    files |= {
        f"{data}/images_variant_trainval.txt": "".join(lines[:999]).encode(),
        f"{data}/images_variant_test.txt": "".join(lines[999:]).encode(),
        f"{data}/images_box.txt": "".join(f"{k:07d} 2 1 7 5\n" for k in numbers).encode(),
    }
    write_tar(root / "fgvc-aircraft-2013b.tar.gz", files)


def flowers(root: Path) -> None:
    labels = np.arange(102 * EACH) % 102 + 1
    content = io.BytesIO()
    savemat(content, {"labels": labels.astype(np.uint8)[None]})
    (root / "imagelabels.mat").write_bytes(content.getvalue())
    write_tar(root / "102flowers.tgz", {f"jpg/image_{k:05d}.jpg": jpeg(k) for k in range(1, len(labels) + 1)})


def dtd(root: Path) -> None:
    names = classes_of("dtd")
    files = {f"dtd/images/{name}/{name}_{i}.jpg": jpeg(7 * k + i) for k, name in enumerate(names) for i in range(EACH)}
    write_tar(root / "dtd-r1.0.1.tar.gz", files)


def fungi(root: Path) -> None:
    """With more images of every tenth species: the others are left out, as most would be with one image of each."""
    labels = [k for k in range(len(classes_of("fungi"))) for _ in range(20 if k % 10 == 0 else 1)]
    paths = [f"images/species {k}/{i}.JPG" for i, k in enumerate(labels)]
    annotated = {
        "images": [{"id": i, "file_name": path} for i, path in enumerate(paths)],
        "annotations": [{"image_id": i, "category_id": k} for i, k in enumerate(labels)],
    }
    write_tar(root / "fungi_train_val.tgz", {path: jpeg(i) for i, path in enumerate(paths)})
    texts = {"train.json": json.dumps(annotated).encode(), "val.json": b'{"images": [], "annotations": []}'}
    write_tar(root / "train_val_annotations.tgz", texts)


def idx_pair(root: Path, images: str, labels: str, of_label: list[int]) -> None:
    count = len(of_label)
    (root / images).parent.mkdir(parents=True, exist_ok=True)
    (root / images).write_bytes(gzip.compress(idx(arrays(count, 28, 28)), 1))
    (root / labels).write_bytes(gzip.compress(idx(np.array(of_label, np.uint8)), 1))


def fashionmnist(root: Path) -> None:
    for part, each in (("train", EACH - 2), ("t10k", 2)):
        idx_pair(root, f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz", list(range(10)) * each)


def emnist(root: Path) -> None:
    for part, each in (("train", EACH - 2), ("test", 2)):
        name = f"gzip/emnist-balanced-{part}"
        idx_pair(root, f"{name}-images-idx3-ubyte.gz", f"{name}-labels-idx1-ubyte.gz", list(range(47)) * each)


def eurosat(root: Path) -> None:
    names = (
        *("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"),
        *("Pasture", "PermanentCrop", "Residential", "River", "SeaLake"),
    )
    files = {f"2750/{name}/{name}_{i}.jpg": jpeg(7 * k + i) for k, name in enumerate(names) for i in range(EACH)}
    write_zip(root / "EuroSAT.zip", files)


def quickdraw(root: Path) -> None:
    for name in classes_of("quickdraw"):
        np.save(root / f"{name}.npy", arrays(EACH, 784))


def metaalbum(root: Path) -> None:
    rows = [(f"{k}_{i}.jpg", f"bird {k}") for k in range(20) for i in range(EACH)]
    files = {f"BRD_Mini/images/{file}": jpeg(i) for i, (file, _) in enumerate(rows)}
    table = "FILE_NAME,CATEGORY,SUPER_CATEGORY\n" + "".join(f"{file},{name},birds\n" for file, name in rows)
    texts = {"BRD_Mini/labels.csv": table.encode(), "BRD_Mini/info.json": b"{}"}
    write_zip(root / "BRD_Mini.zip", files | texts)


def icons(root: Path) -> None:
    """Every fifth concept in twenty families, as many as the configuration asks for, the others in one."""
    names = classes_of("icons", "concepts")
    prefixes = list({family: prefix for prefix, (family, _) in icon_families().items()}.values())[:20]
    sets = [
        icon_set(prefix, {name: bar(k + number) for k, name in enumerate(names) if number == 0 or k % 5 == 0})
        for number, prefix in enumerate(prefixes)
    ]
    pack(root, iconify_files(sets, {}))


def emoji(root: Path) -> None:
    names, prefixes = classes_of("emoji", "names240"), ("noto", "openmoji", "twemoji", "emojione", "fxemoji")
    sets = [
        icon_set(prefix, {name: bar(k + number) for k, name in enumerate(names)})
        for number, prefix in enumerate(prefixes)
    ]
    pack(root, iconify_files(sets, {}))


def fonts(root: Path) -> None:
    """Every fourth letter as a rectangle, beside which each of nine typefaces has a mark of its own."""
    letters = read_characters("latin")[::4]
    boxes = {letter: (0, 0, 100 + 90 * (k % 8), 100 + 90 * (k // 8)) for k, letter in enumerate(letters)}
    for number in range(9):
        write_typeface(root, f"Face{number}", boxes, mark=(850, 90 * number, 1000, 90 * number + 200))


def folder(root: Path) -> None:
    for number in range(40):
        (root / f"class{number}").mkdir()
        for image in range(EACH):
            (root / f"class{number}/{image}.jpg").write_bytes(jpeg(EACH * number + image))


def clinc150(root: Path) -> None:
    names = classes_of("clinc150", "intents")
    pairs = [[f"please do {name} for the {k}th time", name] for name in names for k in range(EACH)]
    parts = {"train": pairs[::2], "val": pairs[1::4], "test": pairs[3::4], "oos_val": [["what is it", "oos"]]}
    (root / "data_full.json").write_text(json.dumps(parts))


def text(root: Path) -> None:
    for number in range(40):
        (root / f"class{number}").mkdir()
        for k in range(EACH):
            (root / f"class{number}/{k}.txt").write_text(f"Text {k} of class {number}.\n")


SMALL_SETS: dict[str, Callable[[Path], None]] = {
    "miniimagenet": miniimagenet,
    "tieredimagenet": tieredimagenet,
    "cifarfs": cifar100,
    "fc100": cifar100,
    "cub": cub,
    "aircraft": aircraft,
    "flowers": flowers,
    "dtd": dtd,
    "fungi": fungi,
    "fashionmnist": fashionmnist,
    "emnist": emnist,
    "eurosat": eurosat,
    "quickdraw": quickdraw,
    "metaalbum": metaalbum,
    "icons": icons,
    "emoji": emoji,
    "fonts": fonts,
    "folder": folder,
    "clinc150": clinc150,
    "text": text,
}
