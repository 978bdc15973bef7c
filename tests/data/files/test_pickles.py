"""Pickles of arrays: what data sets publish is read, and nothing else is reached."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
from collections import OrderedDict, defaultdict
from typing import Any

import numpy as np
import pytest

from metalearn.data.files.pickles import load_arrays
from metalearn.errors import UserError

HELD: dict[str, Any] = {
    "image_data": np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 3),
    "class_dict": OrderedDict({"n01532829": [0, 1], "n02": (2,)}),
    "label": np.float32(0.5),
    "names": np.array(["a", "bc"]),
    "raw": np.array([b"x", b"yz"]),
    "pieces": np.array([[1, 2], "text", None, np.arange(3)], dtype=object),
    "big_endian": np.arange(3, dtype=">i4"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 3), np.int64),
    "many": defaultdict(list, {1: [True, None, 2.5, 1 + 2j, 1 << 70]}),
    "sets": [{1, 2}, frozenset({"x"}), bytearray(b"ab"), b"cd", b""],
    "dtype": np.dtype("uint8"),
}


def loaded(content: bytes, **more: Any) -> Any:
    return load_arrays(io.BytesIO(content), "made.pkl", **more)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and a.dtype == object:
        return a.shape == b.shape and all(same(x, y) for x, y in zip(a.flat, b.flat, strict=True))
    if isinstance(a, np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("module", ["numpy._core", "numpy.core"])
def test_what_published_pickles_hold_is_read(protocol: int, module: str) -> None:
    content = pickle.dumps(HELD, protocol)
    if protocol < 4:  # later ones carry the length of a name
        content = content.replace(b"numpy._core", module.encode())
    assert same(HELD, loaded(content))


def binstring(text: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(text)) + text


def python_2(pixels: np.ndarray) -> bytes:
    """As cPickle of Python 2 writes {'data': pixels, 'labels': ['caf\\xe9', 7]} with protocol 2."""
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(" + b"".join(b"K" + bytes([side]) for side in pixels.shape) + b"t"
    state = b"(K\x01" + shape + dtype + b"\x89" + binstring(pixels.tobytes()) + b"tb"
    return b"\x80\x02}(U\x04data" + array + state + b"U\x06labels](U\x04caf\xe9K\x07eu."


def test_a_pickle_of_python_2_is_read_as_latin_1() -> None:
    pixels = np.arange(5 * 7 * 7 * 3, dtype=np.uint8).reshape(5, 7, 7, 3)
    found = loaded(python_2(pixels))
    assert found["labels"] == ["café", 7]
    assert np.array_equal(found["data"], pixels)
    assert loaded(python_2(pixels), encoding="bytes")[b"labels"] == [b"caf\xe9", 7]


def test_what_refers_to_itself_is_read() -> None:
    held: list[Any] = [1]
    held.append(held)
    found = loaded(pickle.dumps(held, 4))
    assert found[1] is found


class Runs:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("call", "named"),
    [
        ((os.mkdir, "made-by-a-pickle"), r"(posix|nt)\.mkdir"),
        ((eval, "1 + 1"), r"builtins\.eval"),
        ((getattr, "x", "upper"), r"builtins\.getattr"),
        ((np.load, "x.npy"), r"numpy\.load"),
    ],
)
def test_code_is_refused_in_one_line_and_not_run(
    protocol: int, call: Any, named: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"data": np.zeros(3), "more": Runs(*call)}, protocol)
    with pytest.raises(UserError, match=rf"made\.pkl is refused: its pickle asks for '{named}'") as raised:
        loaded(content)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_numbers_are_never_taken_for_addresses() -> None:
    """A dtype of objects whose state denies it: numpy itself would follow the numbers as pointers."""
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    content = b"\x80\x03" + array + b"(K\x01K\x01\x85" + dtype + b"\x89C\x08AAAAAAAAtb."
    with pytest.raises(UserError, match="not an intact pickle"):
        loaded(content)
    scalar = b"\x80\x03cnumpy.core.multiarray\nscalar\n" + dtype + b"C\x08AAAAAAAA\x86R."
    with pytest.raises(UserError, match="not an intact pickle"):
        loaded(scalar)


@pytest.mark.parametrize("code", ["V8", "i4,O", "M8[s]", "(2,)O"])
def test_other_types_are_named(code: str) -> None:
    content = pickle.dumps(Runs(np.dtype, code), 2)
    with pytest.raises(UserError, match="its arrays have the type"):
        loaded(content)


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x80\x04.", b"<html>no</html>", pickle.dumps(HELD, 4)[:-100]])
def test_a_damaged_pickle_is_one_line(content: bytes) -> None:
    with pytest.raises(UserError, match=r"made\.pkl is not an intact pickle of arrays") as raised:
        loaded(content)
    assert "\n" not in str(raised.value)


def test_a_length_that_nothing_stands_behind_takes_no_memory() -> None:
    length = struct.pack("<Q", 1 << 36)
    damaged = (
        b"\x80\x03cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        b"\x80\x04\x8e" + b"\xff" * 8 + b".",
        b"\x80\x04\x8e" + length + b".",
        b"\x80\x05\x96" + length + b".",
        b"\x80\x02Nr\xff\xff\xff\x7f0j\xfe\xff\xff\x7f.",  # a value filed under two thousand millions
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for content in damaged:
        with pytest.raises(UserError, match="not an intact pickle"):
            loaded(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18  # KiB


def test_an_array_is_not_copied() -> None:
    pixels = np.zeros((4, 50, 50, 3), np.uint8)
    for content in (python_2(pixels), pickle.dumps({"data": pixels}, 4)):
        assert loaded(content)["data"].base is not None
