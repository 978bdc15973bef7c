"""The cache is made once, checked at every load, and mends itself."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from metalearn.data import cache
from metalearn.data.cache import Stored, load_or_make
from metalearn.data.container import FlatImages
from metalearn.data.places import cache_dir, data_dir
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
        images = np.arange(5 * 16, dtype=np.uint8).reshape(5, 1, 4, 4)
        return Stored(FlatImages(images, np.array([3, 2])), ("a", "b"))


def test_made_once_and_read_back(empty_cache: Path) -> None:
    make = Maker()
    first, second = load_or_make("set", "v1", make), load_or_make("set", "v1", make)
    assert make.calls == 1
    assert np.array_equal(first.images.images, make().images.images)
    assert np.array_equal(second.images.images, first.images.images)
    assert second.class_names == ("a", "b")
    assert second.images.counts.tolist() == [3, 2]
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
    assert np.array_equal(again.images.images, make().images.images)


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


def test_without_a_home_directory_one_line_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nowhere)
    for variable in ("METALEARN_CACHE", "METALEARN_DATA"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match="no home directory: set METALEARN_CACHE"):
        cache_dir()
    with pytest.raises(UserError, match="no home directory: set METALEARN_DATA"):
        data_dir("set")


def test_an_entry_can_be_read_by_whom_the_umask_lets(empty_cache: Path) -> None:
    before = os.umask(0o022)
    try:
        load_or_make("set", "v1", Maker())
    finally:
        os.umask(before)
    assert stat.S_IMODE((empty_cache / f"set-v1-f{cache.FORMAT}").stat().st_mode) == 0o755


def test_another_users_unreadable_entry_is_one_clear_line(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_or_make("set", "v1", Maker())

    def refused(folder: Path) -> Stored:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache, "_read", refused)
    with pytest.raises(UserError, match=r"cannot be read: Permission denied .*METALEARN_CACHE"):
        load_or_make("set", "v1", Maker())
    assert (empty_cache / f"set-v1-f{cache.FORMAT}" / "images.npy").exists()


def test_another_users_damaged_entry_is_one_clear_line(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_or_make("set", "v1", Maker())
    (empty_cache / f"set-v1-f{cache.FORMAT}" / "index.json").write_text("{}")
    monkeypatch.setattr(cache.shutil, "rmtree", lambda *_, **__: None)  # as where another user owns it
    with pytest.raises(UserError, match=r"is damaged .*METALEARN_CACHE"):
        load_or_make("set", "v1", Maker())
