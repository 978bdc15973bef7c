"""How a number of bytes is written."""

from __future__ import annotations

from metalearn.sizes import bytes_text


def test_sizes_read_well() -> None:
    shown = [bytes_text(size) for size in (0, 502, 14_989, 94_280_567, 999_960_000, 12_900_000_000)]
    assert shown == ["0 bytes", "502 bytes", "15.0 kB", "94.3 MB", "1.0 GB", "12.9 GB"]
