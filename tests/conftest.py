"""What tests share: where the real data is, and small datasets that need none."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from metalearn.data.base import TaskSource
from metalearn.data.classes import ClassSplit
from metalearn.data.container import FlatImages
from metalearn.data.images import ImageClasses

# Tiny tensors gain nothing from more, and on a busy machine threads that wait for each other lose a lot.
torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Has Python look for garbage no more among what stays: torch, the tests, their parameters. That took a tenth of the suite's time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps tests out of the user's cache; a METALEARN_CACHE set from outside is shared between runs of the suite."""
    os.environ.setdefault("METALEARN_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A suite that a script started in the background, or nohup, would have these signals ignored, and what it starts as well."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):  # Windows has none
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def audible() -> None:
    """A test may run with hydra/job_logging=disabled, which switches loggers off for as long as the process lives."""
    logging.getLogger("metalearn").disabled = False


@pytest.fixture(scope="session")
def omniglot_root() -> Path:
    """The real Omniglot images, where this machine has them."""
    root = Path(os.environ.get("METALEARN_DATA", "no-such-folder")) / "omniglot"
    if not (root / "images_background.zip").is_file():
        pytest.skip("needs Omniglot's two zips in $METALEARN_DATA/omniglot")
    return root.resolve()


@pytest.fixture(scope="session")
def mobilenet_weights() -> Path:
    """torchvision's file of MobileNetV2's weights, where this machine has it."""
    file = Path(os.environ.get("METALEARN_DATA", "no-such-folder")) / "weights" / "mobilenet_v2-b0353104.pth"
    if not file.is_file():
        pytest.skip("needs mobilenet_v2-b0353104.pth in $METALEARN_DATA/weights")
    return file.resolve()


def easy_classes(
    classes: int = 30, images: int = 20, size: int = 16, noise: float = 0.3, seed: int = 0
) -> ImageClasses:
    """Classes that are random patterns, images that are the pattern with noise: any learner beats chance on them soon."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((classes, 1, 1, 4, 4))
    patterns = coarse.repeat(size // 4, axis=-2).repeat(size // 4, axis=-1)
    drawn = patterns * (1 - noise) + noise * rng.random((classes, images, 1, size, size))
    names = tuple(f"class{i:03d}" for i in range(classes))
    half, quarter = classes // 2, classes // 4
    parts = {"train": names[:half], "val": names[half : half + quarter], "test": names[half + quarter :]}
    return ImageClasses(
        name="easy",
        images=FlatImages.of_classes((drawn * 255).astype(np.uint8)),
        class_names=names,
        split=ClassSplit("fixed", parts),
        rotations={"train": 1, "val": 1, "test": 1},
    )


def write_texts(file: Path, classes: int = 20, texts: int = 10, seed: int = 0) -> None:
    """A CSV file of made-up sentences: those of a class have three words of four that it favours, and two of any."""
    rng = random.Random(seed)
    syllables = [f"{first}{second}" for first in "bdfgklmnprst" for second in "aeiou"]
    words = ["".join(rng.sample(syllables, 2)) for _ in range(80)]
    rows = []
    for number in range(classes):
        own = rng.sample(words, 4)
        for k in range(texts):
            rows.append(f"{' '.join(rng.choices(own, k=3) + rng.choices(words, k=2))} {k},class {number:02d}")
    file.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def texts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty classes of ten made-up sentences."""
    file = tmp_path_factory.mktemp("texts") / "sentences.csv"
    write_texts(file)
    return file


@pytest.fixture(scope="session")
def easy() -> ImageClasses:
    return easy_classes()


@pytest.fixture(scope="session")
def source(easy: ImageClasses) -> Callable[..., TaskSource]:
    def make(split: str = "train", seed: int = 0) -> TaskSource:
        return easy.source(split, seed, torch.device("cpu"))

    return make
