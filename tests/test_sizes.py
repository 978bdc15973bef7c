"""How numbers of bytes and of other things are written."""

from __future__ import annotations

from metalearn.sizes import bytes_text, count_text


def test_sizes_read_well() -> None:
    shown = [bytes_text(size) for size in (0, 502, 14_989, 94_280_567, 999_960_000, 12_900_000_000)]
    assert shown == ["0 bytes", "502 bytes", "15.0 kB", "94.3 MB", "1.0 GB", "12.9 GB"]


def test_one_thing_is_in_the_singular() -> None:
    assert [count_text(count, "text") for count in (0, 1, 2)] == ["0 texts", "1 text", "2 texts"]
    assert [count_text(count, "class", "classes") for count in (0, 1, 2)] == ["0 classes", "1 class", "2 classes"]
