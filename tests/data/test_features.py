"""Features in the place of images: made once, when they are asked for, and found again on the disk."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from metalearn.data.base import Embedding
from metalearn.data.features import FeatureFile, FeatureMemory, Features, digest
from metalearn.data.store import Resident
from metalearn.tasks import TaskShape
from tests.conftest import easy_classes

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (700, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Network:
    """Counts what passes it."""

    def __init__(self) -> None:
        self.passed: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.passed.append(len(x))
        return x.flatten(1).float().sqrt() @ torch.ones(4, 3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def features(network: Network, kept: Callable[[], FeatureFile | None] = lambda: None) -> Features:
    store = Resident(IMAGES)
    return Features(store, store.bring, network, 3, CPU, kept)


def kept() -> FeatureFile:
    return FeatureFile("key", len(IMAGES), 3)


def bring(of: Features, *rows: int) -> Tensor:
    return of.bring(of.find(np.array(rows)))


def test_each_image_passes_once_and_only_when_it_is_asked_for() -> None:
    network = Network()
    made = features(network)
    assert len(made) == 700
    assert network.passed == []
    first = bring(made, 5, 3, 5)
    assert network.passed == [2]
    torch.testing.assert_close(first, Network()(IMAGES[[5, 3, 5]]))
    again = bring(made, 3, 4)
    assert network.passed == [2, 1]
    assert torch.equal(again[0], first[1])
    bring(made, *range(700))
    assert sum(network.passed) == 700
    assert max(network.passed) <= 256


def test_another_process_finds_them_on_the_disk(cache: Path) -> None:
    made = bring(features(Network(), kept), *range(0, 700, 2))
    network = Network()
    found = bring(features(network, kept), *range(0, 700, 2))
    assert network.passed == []
    assert torch.equal(found, made)
    bring(features(network, kept), 0, 1, 2, 3)
    assert network.passed == [2]
    assert {file.name for file in (cache / "features" / "key").iterdir()} == {"features.f32", "there.u8"}


def test_a_row_that_was_not_written_whole_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            bring(features(Network(), kept), 1, 2)
    network = Network()
    bring(features(network, kept), 1, 2)
    assert network.passed == [2]


def test_a_file_of_another_length_is_left_alone(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    bring(features(Network(), kept), 1, 2)
    file = cache / "features" / "key" / "features.f32"
    file.write_bytes(b"cut")
    network = Network()
    with caplog.at_level("WARNING", logger="metalearn"):
        torch.testing.assert_close(bring(features(network, kept), 1), Network()(IMAGES[[1]]))
    assert network.passed == [1]
    assert "its features are made anew" in caplog.text
    assert file.read_bytes() == b"cut"


def test_a_full_disk_costs_nothing_but_the_file(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    network = Network()
    made = features(network, kept)
    with caplog.at_level("WARNING", logger="metalearn"):
        bring(made, 1, 2)
        torch.testing.assert_close(bring(made, *range(300)), Network()(IMAGES[:300]))
    assert caplog.text.count("features are not kept") == 1
    assert "No space left" in caplog.text
    assert sum(network.passed) == 300


def test_features_in_memory_are_those_of_the_last_network_and_images() -> None:
    """A second source of equal images takes them over; other weights start anew."""
    passed: list[int] = []

    def embed(x: Tensor) -> Tensor:
        passed.append(len(x))
        return x.flatten(1)

    memory, shape = FeatureMemory(), TaskShape(5, 2, 3)
    for weights, expected in (("one", True), ("one", False), ("other", True), ("one", True)):
        passed.clear()
        of_network = Embedding(embed, 256, functools.partial(str, weights), memory)
        source = easy_classes().source("test", 0, CPU)
        found = source.embedded(of_network).tasks(0, 4, shape)
        assert bool(passed) is expected
        assert torch.equal(found.support.x, source.tasks(0, 4, shape).support.x.flatten(2))


def test_the_digest_tells_images_their_order_and_their_form_apart() -> None:
    swapped = IMAGES.clone()
    swapped[[0, 1]] = IMAGES[[1, 0]]
    found = [digest(Resident(IMAGES), None), digest(Resident(swapped), None), digest(Resident(IMAGES), (3, 4, 4))]
    assert len(set(found)) == 3
    assert digest(Resident(IMAGES.clone()), None) == found[0]


def test_the_fingerprint_is_asked_for_when_the_first_row_is_missing(cache: Path) -> None:
    """Weights may be loaded between the making of a source and its first task."""
    asked: list[str] = []

    def fingerprint() -> str:
        asked.append("now")
        return "weights"

    made = easy_classes().source("test", 0, CPU).embedded(Embedding(lambda x: x.flatten(1), 256, fingerprint))
    assert asked == []
    for first in (0, 2):
        made.tasks(first, 2, TaskShape(5, 1, 1))
    assert asked == ["now"]
    (folder,) = (cache / "features").iterdir()
    assert folder.name.startswith("weights-")
