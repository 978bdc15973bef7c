"""CIFAR-FS and FC100, from a small CIFAR-100 of exactly the published layout, with all 100 classes."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metalearn.cli.main import main
from metalearn.data.cache import entries
from metalearn.data.classes import SPLITS
from metalearn.data.sets import cifar100
from metalearn.errors import UserError
from tests.data.small_files import classes_of, image, pixels, python_2_pickle, settings, unpacked, write_tar, write_zip

NAMES = classes_of("cifarfs", "bertinetto")  # in alphabetical order, which is that of the published labels
RNG = np.random.default_rng(0)
# The published files have 500 and 100 images of each class, in no order.
LABELS = {"train": RNG.permutation(np.repeat(np.arange(100), 2)), "test": RNG.permutation(100)}
DATA = {part: RNG.integers(0, 256, (len(labels), 3072), dtype=np.uint8) for part, labels in LABELS.items()}


def pickles(write: Any = python_2_pickle, **changes: Any) -> dict[str, bytes]:
    files = {
        f"cifar-100-python/{part}": write(
            {
                "filenames": [f"image_{k}.png" for k in range(len(labels))],
                "batch_label": "training batch 1 of 1",
                "fine_labels": labels.tolist(),
                "coarse_labels": (labels // 5).tolist(),
                "data": DATA[part],
            }
        )
        for part, labels in LABELS.items()
    }
    files["cifar-100-python/meta"] = write({"fine_label_names": NAMES, "coarse_label_names": ["fish"]})
    return files | {f"cifar-100-python/{part}": write(held) for part, held in changes.items()}


def expected(name: str) -> np.ndarray:
    """The images of a class, training before test: [3, 3, 32, 32]."""
    label = NAMES.index(name)
    rows = np.concatenate([DATA[part][LABELS[part] == label] for part in ("train", "test")])
    return np.stack([[row[:1024], row[1024:2048], row[2048:]] for row in rows]).reshape(-1, 3, 32, 32)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("write", [python_2_pickle, lambda held: pickle.dumps(held, 4)], ids=["python 2", "python 3"])
def test_the_published_pickles(tmp_path: Path, packed: bool, write: Any) -> None:
    if packed:
        write_tar(tmp_path / "cifar-100-python.tar.gz", pickles(write))
    else:
        unpacked(tmp_path, pickles(write))
    dataset = cifar100.cifarfs(**settings(tmp_path, split="bertinetto", size=32))
    assert list(dataset.class_names) == NAMES
    assert dataset.images.counts.tolist() == [3] * 100
    for name in ("apple", "aquarium_fish", "worm"):
        assert np.array_equal(dataset.images.of_class(NAMES.index(name)), expected(name))


def test_the_two_divide_the_same_classes(tmp_path: Path) -> None:
    write_tar(tmp_path / "cifar-100-python.tar.gz", pickles())
    cifarfs = cifar100.cifarfs(**settings(tmp_path, split="bertinetto", size=32))
    fc100 = cifar100.fc100(**settings(tmp_path, split="oreshkin", size=32))
    assert [len(cifarfs.split.classes[part]) for part in SPLITS] == [64, 16, 20]
    assert [len(fc100.split.classes[part]) for part in SPLITS] == [60, 20, 20]
    assert (cifarfs.name, fc100.name) == ("cifarfs", "fc100")
    # Trained on the one, tested on the other: what was seen is known by its origin.
    seen = set(cifarfs.classes("train")) & set(fc100.classes("test"))
    assert len(seen) == 11
    assert {class_.origin for class_ in seen} == {"cifar100"}
    drawn = cifar100.fc100(**settings(tmp_path, split="random", size=32))
    assert [len(drawn.split.classes[part]) for part in SPLITS] == [60, 20, 20]


def test_another_size_is_resized_as_pillow_does_it(tmp_path: Path) -> None:
    write_tar(tmp_path / "cifar-100-python.tar.gz", pickles())
    dataset = cifar100.cifarfs(**settings(tmp_path, split="bertinetto", size=20))
    content = io.BytesIO()
    Image.fromarray(expected("bee")[0].transpose(1, 2, 0)).save(content, "PNG")
    assert np.array_equal(image(dataset, "bee", 0), pixels(content.getvalue(), 20))


def test_the_packed_pngs_are_read_where_the_published_file_is_not(tmp_path: Path) -> None:
    files = {"cifar100/splits/bertinetto/train.txt": b"apple\n"}
    for name in NAMES:
        for number, pixels_ in enumerate(expected(name)[:2]):
            content = io.BytesIO()
            Image.fromarray(pixels_.transpose(1, 2, 0)).save(content, "PNG")
            files[f"cifar100/data/{name}/{number:03d}.png"] = content.getvalue()
    write_zip(tmp_path / "cifar100.zip", files)
    for root in (tmp_path, unpacked(tmp_path / "folder", files)):
        dataset = cifar100.cifarfs(**settings(root, split="bertinetto", size=32))
        assert dataset.images.counts.tolist() == [2] * 100
        assert np.array_equal(image(dataset, "worm", 1), expected("worm")[1])
    write_zip(tmp_path / "cifar100.zip", {"readme": b""})
    with pytest.raises(UserError, match=r"cifar100\.zip holds no data/CLASS/\*\.png of CIFAR-100"):
        cifar100.cifarfs(**settings(tmp_path, split="bertinetto"))


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        cifar100.fc100(**settings(tmp_path, split="oreshkin"))
    for part in ("dataset=fc100", "cifar-100-python.tar.gz", "169.0 MB", "sha256 85cd44", "metalearn data fetch fc100"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta": {"label_names": ["airplane"]}}, "meta has no fine_label_names: it is not CIFAR-100's"),
        ({"train": [1, 2]}, "train has no data and fine_labels"),
        ({"train": {"data": DATA["train"], "fine_labels": [0, 1]}}, "train is not CIFAR-100's"),
        ({"test": {"data": DATA["test"][:, :10], "fine_labels": LABELS["test"].tolist()}}, "test is not CIFAR-100's"),
        ({"test": {"data": DATA["test"], "fine_labels": [100] * 100}}, "a label from 0 to 99 for each"),
        ({"meta": {"fine_label_names": [*NAMES, "extra"]}}, "there is no image of the class 'extra'"),
        ({"meta": {"fine_label_names": ["apple", *NAMES[:-1]]}}, "the class 'apple' is there twice"),
    ],
)
def test_other_contents_are_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_tar(tmp_path / "cifar-100-python.tar.gz", pickles(**changes))
    with pytest.raises(UserError, match=message) as error:
        cifar100.cifarfs(**settings(tmp_path, split="bertinetto"))
    assert "\n" not in str(error.value)


def test_damaged_and_hostile_files_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "cifar-100-python.tar.gz"
    write_tar(file, pickles())
    whole = file.read_bytes()
    for content in (
        whole[: len(whole) // 2],
        b"<html>not found</html>",
        whole[:5000] + b"\0\1\2\3" * 10 + whole[5040:],
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"cifar-100-python\.tar\.gz") as error:
            cifar100.cifarfs(**settings(tmp_path, split="bertinetto"))
        assert "\n" not in str(error.value)
    write_tar(file, pickles() | {"cifar-100-python/train": b"cos\nsystem\n(S'true'\ntR."})
    with pytest.raises(UserError, match=r"train is refused: its pickle asks for 'os\.system'"):
        cifar100.cifarfs(**settings(tmp_path, split="bertinetto"))


def test_both_are_listed_with_the_cache_entry_that_they_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path))
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cifar100").mkdir()
    write_tar(tmp_path / "cifar100" / "cifar-100-python.tar.gz", pickles())
    for load, split in ((cifar100.cifarfs, "bertinetto"), (cifar100.fc100, "oreshkin")):
        load(**settings(None, split=split))
    assert len(entries("cifar100")) == 1
    main(["data", "list"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("cifarfs", "fc100"))]
    assert [row[0] for row in rows] == ["cifarfs", "fc100"]
    assert all({"100", "300", "here"} <= set(row) for row in rows)
