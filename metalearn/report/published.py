"""How one number of a reproduction is written: accuracies in percent, errors as they are. A row is one of reproduction.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


def unit(row: Row) -> str:
    """` %`, or nothing. Records of earlier versions that do not say their unit are of accuracies."""
    return " %" if row.get("unit", "percent") == "percent" else ""


def number(row: Row, value: float, sign: bool = False) -> str:
    """`98.20`, or `0.690`: what was measured, without its unit."""
    return f"{value:{'+' if sign else ''}.{2 if unit(row) else 3}f}"


def paper_text(row: Row) -> str:
    """`98.7 ± 0.4 %`; "none" where nothing is reported."""
    if row["reported"] is None:
        return "none"
    interval = "" if row["interval"] is None else f" ± {row['interval']:g}"
    return f"{row['reported']:g}{interval}{unit(row)}"


def band_text(row: Row) -> str:
    """`>= 98 %`, or `<= 0.75`; "none" where there is none."""
    if row["band"] is None:
        return "none"
    return f"{'>=' if row.get('higher_is_better', True) else '<='} {row['band']:g}{unit(row)}"
