"""How messages are shortened."""

from __future__ import annotations

import pytest

from metalearn.errors import shortened


@pytest.mark.parametrize(
    ("text", "most", "shown"),
    [
        ("It is not here.", 15, "It is not here."),
        ("It is not here. Ask again in some other place.", 24, "It is not here."),
        ("Version 4.57.1 of it. The rest is never shown", 30, "Version 4.57.1 of it."),
        ("No. There is no connection to the hub of models", 40, "No. There is no connection to the ..."),
        ("no connection, the hub is away", 20, "no connection ..."),
        ("twelve words", 10, "twelve ..."),
        ("abcdefghijklmnop", 10, "abcdef ..."),
    ],
)
def test_a_shortened_message_ends_with_a_whole_sentence_or_a_whole_word(text: str, most: int, shown: str) -> None:
    assert shortened(text, most) == shown
    assert len(shown) <= most
