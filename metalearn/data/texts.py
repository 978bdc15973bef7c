"""A text as an example: its bytes in UTF-8, with zeros behind them up to a length that all texts of a data set share.

So a data set knows no tokeniser, a text of any language is a row of numbers that can be gathered, kept and copied like an image. What a
backbone makes of it is the backbone's own business (`metalearn/nn/texts.py` gives the text back). Zero is no part of any text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

_PADDING = "\0"


def as_bytes(texts: Sequence[str], length: int) -> NDArray[np.uint8]:
    """n texts -> uint8 [n, length].

    A text that is longer loses its end, at the border of a character. A character of number 0, which would end the text, becomes a space; half of a
    surrogate pair, which UTF-8 cannot hold, a question mark.
    """
    made = np.zeros((len(texts), length), dtype=np.uint8)
    for row, text in zip(made, texts, strict=True):
        content = _shortened(_content(text), length)
        row[: len(content)] = np.frombuffer(content, np.uint8)
    return made


def longest(texts: Iterable[str]) -> int:
    """How many bytes the longest of the texts has; 0 of none."""
    return max((len(_content(text)) for text in texts), default=0)


def _content(text: str) -> bytes:
    return text.replace(_PADDING, " ").encode("utf-8", errors="replace")


def _shortened(content: bytes, length: int) -> bytes:
    if len(content) <= length:
        return content
    return content[:length].decode("utf-8", errors="ignore").encode()
