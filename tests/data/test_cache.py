"""The cache is made once, checked at every load, and mends itself."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalearn.data import cache
from metalearn.data.cache import Classes, Stored, load_or_make
from metalearn.errors import UserError
from metalearn.places import cache_dir, data_dir


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


IMAGES = np.arange(5 * 16, dtype=np.uint8).reshape(5, 1, 4, 4)


class Maker:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Classes:
        self.calls += 1
        yield "a", IMAGES[:3]
        yield "b", IMAGES[3:]


def test_made_once_and_read_back(empty_cache: Path) -> None:
    make = Maker()
    first, second = load_or_make("set", "v1", make), load_or_make("set", "v1", make)
    assert make.calls == 1
    assert np.array_equal(first.images.images, IMAGES)
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
    assert np.array_equal(again.images.images, IMAGES)


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


def test_an_entry_is_the_file_that_numpy_writes_and_its_checksum_that_of_earlier_versions(empty_cache: Path) -> None:
    load_or_make("set", "v1", Maker())
    folder = empty_cache / f"set-v1-f{cache.FORMAT}"
    assert np.array_equal(np.load(folder / "images.npy"), IMAGES)
    described = json.dumps([[5, 1, 4, 4], "|u1", ["a", "b"], [3, 2]])
    index = json.loads((folder / "index.json").read_text())
    assert index == {
        "classes": ["a", "b"],
        "counts": [3, 2],
        "crc32": zlib.crc32(IMAGES.tobytes(), zlib.crc32(described.encode())),
    }


def test_an_entry_that_an_earlier_version_wrote_is_read(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = empty_cache / f"set-v1-f{cache.FORMAT}"
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", IMAGES)
    described = json.dumps([IMAGES.shape, IMAGES.dtype.str, ["a", "b"], [3, 2]])
    crc = zlib.crc32(IMAGES.tobytes(), zlib.crc32(described.encode()))
    (folder / "index.json").write_text(json.dumps({"classes": ["a", "b"], "counts": [3, 2], "crc32": crc}))
    make = Maker()
    for largest in (cache.WHOLE_BYTES, 10):  # a large one has no sampled checksum
        monkeypatch.setattr(cache, "WHOLE_BYTES", largest)
        assert np.array_equal(load_or_make("set", "v1", make).images.images, IMAGES)
    assert make.calls == 0


@given(first=st.binary(max_size=40), second=st.binary(max_size=300))
def test_checksums_of_two_texts_make_that_of_both(first: bytes, second: bytes) -> None:
    assert cache._after(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def random_class(name: str) -> Classes:
    yield name, np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)


@pytest.fixture
def large(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An entry of 3,840 bytes that counts as large: 4 blocks of 256 bytes are checked at a load."""
    for name, value in {"WHOLE_BYTES": 1000, "_BLOCK": 256, "_BLOCKS": 4}.items():
        monkeypatch.setattr(cache, name, value)
    load_or_make("large", "v1", lambda: random_class("a"))
    return empty_cache / f"large-v1-f{cache.FORMAT}"


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 0x55
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("byte", [128, 300, 128 + 3839])  # of the file: two in the first block, the last one
def test_a_large_entry_is_checked_in_blocks_at_a_load(large: Path, byte: int) -> None:
    flip(large / "images.npy", byte)
    assert cache.damage(large) == "its content does not match its checksum"
    load_or_make("large", "v1", lambda: random_class("a"))
    assert cache.damage(large) is None, "it was made again"


@pytest.mark.parametrize(("damaged", "how"), [("images.npy", "cut"), ("images.npy", "longer"), ("index.json", "flip")])
def test_a_large_entry_of_another_size_or_index_is_made_again(large: Path, damaged: str, how: str) -> None:
    content = (large / damaged).read_bytes()
    if how == "flip":
        flip(large / damaged, content.index(b'"a"') + 1)
    else:
        (large / damaged).write_bytes(content[:-1] if how == "cut" else content + b"x")
    assert cache._found(large) is None
    assert not large.exists()


def test_damage_between_the_blocks_of_a_large_entry_is_found_by_the_check_of_all_of_it(large: Path) -> None:
    flip(large / "images.npy", 128 + 700)
    calls: list[int] = []
    load_or_make("large", "v1", lambda: calls.append(1) or random_class("a"))  # type: ignore[func-returns-value]
    assert not calls, "a load does not see it"
    assert cache.damage(large) == "its content does not match its checksum"
    assert cache.entries("large") == [large]
    assert cache.entries("lar") == []


def test_what_ends_the_making_leaves_nothing_behind(empty_cache: Path) -> None:
    def broken() -> Classes:
        yield "a", IMAGES[:3]
        raise FileNotFoundError("the source is gone")

    with pytest.raises(FileNotFoundError, match="the source is gone"):  # no fault of the cache
        load_or_make("set", "v1", broken)
    assert list(empty_cache.iterdir()) == []


def test_a_full_disk_is_one_clear_line_and_leaves_nothing_behind(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, room = cache._put, 200

    def full(file: IO[bytes], content: bytes | memoryview) -> None:
        nonlocal room
        room -= len(content)
        if room < 0:
            raise OSError(28, "No space left on device")
        put(file, content)

    monkeypatch.setattr(cache, "_put", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device.*METALEARN_CACHE .* enough space"):
        load_or_make("set", "v1", Maker())
    assert list(empty_cache.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_file_limit_of_the_system_is_one_clear_line(empty_cache: Path) -> None:
    code = """
import resource, signal, sys
import numpy as np
from metalearn.data.cache import load_or_make
from metalearn.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    load_or_make("set", "v1", lambda: ((f"c{i}", np.zeros((3, 3, 32, 32), np.uint8)) for i in range(9)))
except UserError as error:
    sys.exit(f"refused: {error}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "refused: cannot write the dataset cache" in done.stderr, done.stderr
    assert "File too large" in done.stderr
    assert list(empty_cache.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit of the address space")
def test_an_entry_that_cannot_be_mapped_is_kept_and_named(empty_cache: Path) -> None:
    many = np.zeros((4000, 3, 64, 64), np.uint8)  # 47 MiB
    load_or_make("set", "v1", lambda: [("a", many)])
    code = """
import resource, sys
from metalearn.data.cache import load_or_make
from metalearn.errors import UserError
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize:"))
resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + 2**24,) * 2)
try:
    load_or_make("set", "v1", lambda: sys.exit("made again"))
except UserError as error:
    sys.exit(f"refused: {error}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "cannot be mapped: Cannot allocate memory (ulimit -v, if set" in done.stderr, done.stderr
    assert np.array_equal(load_or_make("set", "v1", list).images.images, many), "it is still there"


def test_two_processes_make_an_entry_once(empty_cache: Path, tmp_path: Path) -> None:
    code = f"""
import time
import numpy as np
from pathlib import Path
from metalearn.data.cache import load_or_make
def make():
    with Path({str(tmp_path / "calls")!r}).open("a") as file:
        file.write("x")
    time.sleep(0.5)
    yield "a", np.ones((2, 1, 4, 4), np.uint8)
assert load_or_make("set", "v1", make).images.images.sum() == 32
"""
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert (tmp_path / "calls").read_text() == "x"
    assert [entry.name for entry in empty_cache.iterdir()] == [f"set-v1-f{cache.FORMAT}"]
