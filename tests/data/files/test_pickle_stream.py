"""Pickled lists of arrays, read one member after another."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest

from metalearn.data.files.pickle_stream import stream_list
from metalearn.errors import UserError

MEMBERS = [np.frombuffer(bytes([k % 251]) * (300 + k), np.uint8).reshape(-1, 1) for k in range(2500)]


def streamed(content: bytes) -> list[Any]:
    return list(stream_list(io.BytesIO(content), "made.pkl"))


def python_2(members: list[np.ndarray]) -> bytes:
    """As cPickle of Python 2 writes a list of arrays with protocol 2: names and the dtype once, then references; 1,000 members at a time."""
    first = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85q\x04U\x01bq\x05\x87q\x06Rq\x07"
        b"(K\x01%b\x86q\x08cnumpy\ndtype\nq\tU\x02u1q\nK\x00K\x01\x87q\x0bRq\x0c"
        b"(K\x03U\x01|q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89%bq\x0ftq\x10b"
    )
    content = [b"\x80\x02]q\x01"]
    memo = 17

    def put() -> bytes:
        nonlocal memo
        memo += 1
        return b"r" + struct.pack("<i", memo)

    for start in range(0, len(members), 1000):
        content.append(b"(")
        for number, member in enumerate(members[start : start + 1000], start):
            shape = b"M" + struct.pack("<H", len(member)) + b"K\x01"
            text = b"T" + struct.pack("<i", member.nbytes) + member.tobytes()
            if number == 0:
                content.append(first % (shape, text))
            else:
                content.append(b"h\x02h\x03h\x04h\x05\x87" + put() + b"R" + put())
                content.append(b"(K\x01" + shape + b"\x86" + put() + b"h\x0c\x89" + text + put() + b"t" + put() + b"b")
        content.append(b"e")
    return b"".join(content) + b"."


@pytest.mark.parametrize("protocol", ["python 2", 2, 3, 4, 5])
def test_arrays_come_in_their_order(protocol: Any) -> None:
    content = python_2(MEMBERS) if protocol == "python 2" else pickle.dumps(MEMBERS, protocol)
    assert all(np.array_equal(a, b) for a, b in zip(pickle.loads(content, encoding="latin1"), MEMBERS, strict=True))
    found = streamed(content)
    assert len(found) == 2500
    for member, expected in zip(found, MEMBERS, strict=True):
        assert member.dtype == np.uint8
        assert np.array_equal(member, expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_bytes_and_numbers_too(protocol: int) -> None:
    held: list[Any] = [b"\x89PNG" + bytes(range(256)), b"", 3, "text", (1, b"x"), None, True, 1 << 40]
    assert streamed(pickle.dumps(held, protocol)) == held
    assert streamed(pickle.dumps([7], protocol)) == [7]
    assert streamed(pickle.dumps([], protocol)) == []


def test_a_small_member_may_stand_there_twice_a_large_one_not() -> None:
    shape = (84, 84, 3)
    assert streamed(pickle.dumps([shape, shape], 4)) == [shape, shape]
    with pytest.raises(UserError, match=r"made\.pkl is refused: one of its large members stands there twice"):
        streamed(pickle.dumps([MEMBERS[0], MEMBERS[0]], 4))


@pytest.mark.thorough
def test_memory_holds_a_thousand_members_at_most(tmp_path: Any) -> None:
    large = [np.full(2000, k % 256, np.uint8) for k in range(10_000)]  # 20 MB
    file = tmp_path / "large.pkl"
    file.write_bytes(pickle.dumps(large, 2))
    del large
    with file.open("rb") as opened:
        tracemalloc.start()
        total = sum(int(member[0]) for member in stream_list(opened, "large.pkl"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert total == sum(k % 256 for k in range(10_000))
    assert peak < 8_000_000


class Runs:
    def __reduce__(self) -> Any:
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_code_is_refused_and_not_run(protocol: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"made\.pkl is refused: its pickle asks for '(posix|nt)\.mkdir'"):
        streamed(pickle.dumps([b"first", Runs()], protocol))
    assert not list(tmp_path.iterdir())


WRONG = {
    "a dict": pickle.dumps({"a": 1}, 4),
    "an array": pickle.dumps(np.zeros(3), 4),
    "a tuple": pickle.dumps(([1, 2],), 4),
    "text": pickle.dumps([1], 0),
    "an object": b"\x80\x02](cnumpy\nndarray\n)\x81e.",
    "extension": b"\x80\x02](\x82\x01e.",
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_what_is_no_list_of_arrays_is_refused(content: bytes) -> None:
    with pytest.raises(UserError, match=r"^made\.pkl is (refused|not an intact pickle)") as error:
        streamed(content)
    assert "\n" not in str(error.value)


def test_a_damaged_pickle_is_one_line() -> None:
    content = pickle.dumps(MEMBERS[:20], 4)
    for length in range(0, len(content) - 1, 97):
        with pytest.raises(UserError, match=r"^made\.pkl is ") as error:
            streamed(content[:length])
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"^made\.pkl is not an intact pickle"):
        streamed(b"<html>not found</html>")


def test_deep_tuples_do_not_take_forever() -> None:
    deep: Any = (1,)
    for _ in range(40):
        deep = (deep, deep)
    with pytest.raises(UserError, match="stands there twice"):
        streamed(pickle.dumps([deep], 4))
