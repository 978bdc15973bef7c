"""Texts as bags of hashed n-grams: of their bytes, and of their words. Nothing is learned, no vocabulary is kept, every language is taken.

An n-gram's place is its hash, as in the hashing trick of Weinberger et al. 2009 (https://arxiv.org/abs/0902.2206); so is its sign, as there: what
two n-grams of one place add cancels on average. All of it is arithmetic on tensors, for all texts at once, so that `torch.func.vmap` takes it too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from metalearn.nn.hashed_numbers import hash_32

_32_BITS = 2**32 - 1
_SPACE, _PRIME = 32, 257
_WORDS = 0x5EED  # so that a word and the bytes that it has are n-grams of their own


def hashed_ngrams(x: Tensor, characters: Sequence[int], words: int, buckets: int) -> Tensor:
    """How often each place of a bag is hit, with signs: uint8 [n, length] -> int64 [n, buckets].

    Capital letters of ASCII count as small ones. A text is read as if a space stood before and behind it.

    Args:
        x: texts as bytes, zeros behind them.
        characters: sizes of n-grams of bytes.
        words: 0: none; 1: words; 2: pairs of words that follow each other too. A word is a run of ASCII letters and digits and of other bytes
            from 128 on.
        buckets: places in the bag.
    """
    y = _framed(x.long(), max([*characters, 1]))  # [n, L]
    hashes, there = _of_bytes(y, characters)
    if words:
        of_words, are_words = _of_words(y, words)
        hashes, there = hashes + of_words, there + are_words
    found, real = torch.cat(hashes, 1), torch.cat(there, 1)  # [n, grams]
    signs = (1 - 2 * (found >> 31)) * real
    return torch.zeros_like(y[:, :1]).expand(-1, buckets).scatter_add(1, found % buckets, signs)


def _framed(x: Tensor, behind: int) -> Tensor:
    """In small letters, a space before and behind each text, then `behind` zeros or more."""
    x = x + 32 * ((x >= 65) & (x <= 90))
    y = F.pad(x, (1, behind + 1))
    place = torch.arange(y.shape[1], device=y.device)
    lengths = (x > 0).sum(1, keepdim=True)
    return torch.where((place == 0) | (place == lengths + 1), _SPACE, y)


def _of_bytes(y: Tensor, sizes: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """The hash of the n-gram that begins at each byte, and whether it lies within the text, for each size."""
    hashes, there, most = [], [], max([*sizes, 0])
    places = y.shape[1] - most
    hashed = torch.zeros_like(y[:, :places])
    for size in range(1, most + 1):
        last = y[:, size - 1 : size - 1 + places]
        hashed = hash_32(hash_32(hashed) ^ last)
        if size in sizes:
            hashes.append(hashed)
            there.append(last > 0)
    return hashes, there


def _of_words(y: Tensor, most: int) -> tuple[list[Tensor], list[Tensor]]:
    """The hash of the word that ends at each byte, and whether one does; then the same of pairs."""
    inside = ((y >= 48) & (y <= 57)) | ((y >= 97) & (y <= 122)) | (y >= 128)
    place = torch.arange(y.shape[1], device=y.device).expand_as(y)
    before = F.pad(inside[:, :-1].long(), (1, 0)) > 0
    # Where the word at hand starts; 0 is the space before the text.
    start = torch.where(inside & ~before, place, 0).cummax(1).values
    each = hash_32((y + _PRIME * (place - start)) & _32_BITS) * inside
    sums = each.cumsum(1)
    end = inside & (F.pad(inside[:, 1:].long(), (0, 1)) == 0)
    word = hash_32((sums - sums.gather(1, (start - 1).clamp_min(0)) + _WORDS) & _32_BITS)
    if most < 2:
        return [word], [end]
    last_end = torch.where(end, place, 0).cummax(1).values
    former = last_end.gather(1, (start - 1).clamp_min(0))  # where the word before ends; 0 where there is none
    pair = hash_32(word ^ hash_32(word.gather(1, former)))
    return [word, pair], [end, end & (former > 0)]
