"""Bags of hashed n-grams: the same as counting them one by one, whatever the padding, and under vmap."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest
import torch
from torch import Tensor

from metalearn.data.texts import as_bytes
from metalearn.nn.hashed_numbers import hash_32
from metalearn.nn.ngrams import hashed_ngrams

TEXTS = ["Where is my CARD?", "where   is my card", "", "a", "déjà vu", "x" * 60, "one two one two"]
BUCKETS = 97


def bag(texts: list[str], length: int = 64, characters: tuple[int, ...] = (2, 4), words: int = 2) -> Tensor:
    return hashed_ngrams(torch.from_numpy(as_bytes(texts, length)), characters, words, BUCKETS)


def one_by_one(text: str, characters: tuple[int, ...], words: int) -> list[int]:
    """The bag of one text, its n-grams cut out of it by Python."""
    content = re.sub(rb"[A-Z]", lambda letter: letter[0].lower(), text.encode())
    framed, found = b" " + content + b" ", []
    for size in characters:
        for start in range(len(framed) - size + 1):
            hashed = 0
            for byte in framed[start : start + size]:
                hashed = of(of(hashed) ^ byte)
            found.append(hashed)
    hashes = [word_hash(word) for word in re.findall(rb"[0-9a-z\x80-\xff]+", content)]
    found += hashes if words else []
    found += [of(second ^ of(first)) for first, second in itertools.pairwise(hashes)] if words == 2 else []
    counts: Counter[int] = Counter()
    for hashed in found:
        counts[hashed % BUCKETS] += 1 - 2 * (hashed >> 31)
    return [counts[place] for place in range(BUCKETS)]


def of(number: int) -> int:
    return int(hash_32(torch.tensor(number)))


def word_hash(word: bytes) -> int:
    return of(sum(of(byte + 257 * place) for place, byte in enumerate(word)) + 0x5EED & 2**32 - 1)


@pytest.mark.parametrize(("characters", "words"), [((2, 4), 2), ((1,), 0), ((), 1), ((3, 4, 5), 1)])
def test_a_bag_holds_each_n_gram_that_the_text_has(characters: tuple[int, ...], words: int) -> None:
    made = bag(TEXTS, characters=characters, words=words)
    assert made.tolist() == [one_by_one(text, characters, words) for text in TEXTS]


def test_padding_other_texts_and_capital_letters_do_not_count() -> None:
    assert torch.equal(bag(TEXTS, 64), bag(TEXTS, 200))
    assert torch.equal(bag(TEXTS)[:1], bag(TEXTS[:1]))
    assert torch.equal(bag(["Where Is It"]), bag(["where is it"]))


def test_words_have_an_order_in_pairs_alone() -> None:
    first, second = ["pay the bill"], ["bill the pay"]
    assert torch.equal(bag(first, characters=(), words=1), bag(second, characters=(), words=1))
    assert not torch.equal(bag(first, characters=(), words=2), bag(second, characters=(), words=2))


def test_vmap_gives_the_same() -> None:
    x = torch.from_numpy(as_bytes(TEXTS[:6], 64)).view(2, 3, 64)
    mapped = torch.func.vmap(lambda task: hashed_ngrams(task, (2, 4), 2, BUCKETS))(x)
    assert torch.equal(mapped.flatten(0, 1), bag(TEXTS[:6]))
