"""Texts travel as bytes and come back as they were."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from metalearn.data.texts import as_bytes, longest
from metalearn.nn.texts import texts_of

TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))


@given(st.lists(TEXTS, max_size=5))
def test_texts_come_back_as_they_were(texts: list[str]) -> None:
    made = as_bytes(texts, longest(texts))
    assert made.dtype == np.uint8
    assert made.shape == (len(texts), longest(texts))
    assert texts_of(torch.from_numpy(made)) == texts


@given(TEXTS, st.integers(0, 40))
def test_a_text_that_is_too_long_loses_whole_characters_of_its_end(text: str, length: int) -> None:
    (kept,) = texts_of(torch.from_numpy(as_bytes([text], length)))
    assert text.startswith(kept)
    assert len(kept.encode()) <= length
    following = text[len(kept) : len(kept) + 1]
    assert not following or len((kept + following).encode()) > length, "no more than needed is lost"


def test_what_bytes_cannot_hold_is_replaced() -> None:
    x = torch.from_numpy(as_bytes(["a\0b", "\ud800!"], 8))
    assert texts_of(x) == ["a b", "?!"]


def test_an_empty_text_is_all_zeros() -> None:
    made = as_bytes(["", "a"], 2)
    assert made.tolist() == [[0, 0], [97, 0]]
    assert longest([]) == 0
