"""Text files beside images, read from archives and checked line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalearn.data.files.annotations import numbers, table, texts
from metalearn.errors import UserError
from tests.data.small_files import write_tar


def test_text_files_are_read_from_an_archive_and_checked(tmp_path: Path) -> None:
    place = tmp_path / "some.tgz"
    write_tar(place, {"set/a.txt": b"1 x y\n\n2 z\n", "set/b.txt": b"", "set/not_a.txt": b"no"})
    found = texts(place, ("a.txt", "b.txt"))
    assert found == {"a.txt": "1 x y\n\n2 z\n", "b.txt": ""}
    assert list(table(found["a.txt"], "a.txt", 2)) == [["1", "x y"], ["2", "z"]]
    with pytest.raises(UserError, match=r"a\.txt, line 3: 3 values were expected, '2 z' is there"):
        list(table(found["a.txt"], "a.txt", 3))
    with pytest.raises(UserError, match=r"some\.tgz has no c\.txt"):
        texts(place, ("a.txt", "c.txt"))
    assert numbers(["1", "2.5"], "a.txt") == [1.0, 2.5]
    with pytest.raises(UserError, match=r"a\.txt: numbers were expected, '1 x' is there"):
        numbers(["1", "x"], "a.txt")
