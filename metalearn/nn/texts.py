"""Texts out of the bytes that they travel as: UTF-8, with zeros behind them (`metalearn/data/texts.py`)."""

from __future__ import annotations

from torch import Tensor


def texts_of(x: Tensor) -> list[str]:
    """uint8 [n, length] -> n texts, each up to its first zero. Bytes that are no UTF-8 become U+FFFD."""
    return [
        row.tobytes().partition(b"\0")[0].decode("utf-8", errors="replace")
        for row in x.detach().cpu().contiguous().numpy()
    ]
