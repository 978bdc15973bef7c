"""The cache is made once, checked at every load, and mends itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metalearn.data import cache
from metalearn.data.cache import Stored, cache_dir, load_or_make
from metalearn.errors import UserError


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Stored:
        self.calls += 1
        images = np.arange(2 * 3 * 16, dtype=np.uint8).reshape(2, 3, 1, 4, 4)
        return Stored(images, np.array([3, 2]), ("a", "b"))


def test_made_once_and_read_back(empty_cache: Path) -> None:
    make = Maker()
    first, second = load_or_make("set", "v1", make), load_or_make("set", "v1", make)
    assert make.calls == 1
    assert np.array_equal(first.images, make().images)
    assert np.array_equal(second.images, first.images)
    assert second.class_names == ("a", "b")
    assert second.counts.tolist() == [3, 2]
    assert [entry.name for entry in empty_cache.iterdir()] == [f"set-v1-f{cache.FORMAT}"]


def test_another_key_is_another_entry() -> None:
    make = Maker()
    load_or_make("set", "v1", make)
    load_or_make("set", "v2", make)
    assert make.calls == 2


@pytest.mark.parametrize("file", ["images.npy", "index.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_entry_is_made_again(empty_cache: Path, file: str, damage: str) -> None:
    make = Maker()
    load_or_make("set", "v1", make)
    path = empty_cache / f"set-v1-f{cache.FORMAT}" / file
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-5] ^= 0x55
        path.write_bytes(bytes(content))
    elif damage == "truncate":
        path.write_bytes(bytes(content[: len(content) // 2]))
    else:
        path.unlink()
    again = load_or_make("set", "v1", make)
    assert make.calls == 2
    assert np.array_equal(again.images, make().images)


def test_an_unwritable_cache_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="METALEARN_CACHE"):
        load_or_make("set", "v1", Maker())


def test_the_cache_follows_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEARN_CACHE", "/a")
    assert cache_dir() == Path("/a")
    monkeypatch.delenv("METALEARN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_dir() == Path("/b/metalearn")
