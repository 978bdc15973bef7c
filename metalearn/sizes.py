"""How a number of bytes, and of anything else, is written in every message and table."""

from __future__ import annotations


def bytes_text(size: int) -> str:
    """`502 bytes`, `15.0 kB`, `94.3 MB`, `2.8 GB`: decimal units, as browsers and servers show them."""
    if size < 1000:
        return f"{size} bytes"
    for unit, power in (("kB", 1), ("MB", 2), ("GB", 3)):
        if size < 999.95 * 1000**power or unit == "GB":
            return f"{size / 1000**power:.1f} {unit}"
    raise AssertionError(size)


def count_text(count: int, one: str, many: str | None = None) -> str:
    """`1 text`, `2 texts`, `1,000 texts`; `many` is the plural where `one` with an s is not: `3 classes`."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
