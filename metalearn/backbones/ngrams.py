"""A light network for texts that is trained from scratch: a bag of hashed n-grams, then fully connected blocks.

The first layer's row of weights for a place of the bag is the embedding of the n-grams there, and its output their sum, as in fastText (Joulin et al.
2017, https://arxiv.org/abs/1607.01759, with the n-grams of Bojanowski et al. 2017, https://arxiv.org/abs/1607.04606).

Departures from fastText: a bag is divided by its length as a vector, not by the number of its n-grams; places have signs (metalearn/nn/ngrams.py);
n-grams are of bytes, not of characters, which is the same in ASCII.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.backbones.base import Backbone
from metalearn.backbones.mlp import blocks
from metalearn.errors import UserError
from metalearn.nn.ngrams import hashed_ngrams


class Ngrams(Backbone):
    """Fully connected blocks on a bag of hashed n-grams.

    Args:
        text_length: bytes of a text, of which nothing here depends; asked for as texts are needed.
        characters: sizes of n-grams of bytes; None: none.
        words: 0, 1 or 2: n-grams of up to so many words.
        buckets: places in the bag.
        hidden: the width of each block.
        norm: "batch" or "none".
        running_stats: for norm="batch": keep running statistics for evaluation.

    Raises:
        UserError: there are no n-grams.
    """

    def __init__(
        self,
        text_length: int,
        characters: Sequence[int] | None,
        words: int,
        buckets: int,
        hidden: Sequence[int],
        norm: str,
        running_stats: bool,
    ) -> None:
        super().__init__()
        if not characters and not words:
            raise UserError("backbone.characters=null and backbone.words=0 leave no n-grams")
        self.characters, self.words, self.buckets = tuple(sorted(set(characters or ()))), words, buckets
        self.blocks = blocks([buckets, *hidden], norm, running_stats)
        self.feature_dim = [buckets, *hidden][-1]
        self.uses_batch_statistics = norm == "batch" and not running_stats

    def forward(self, x: Tensor) -> Tensor:
        """Texts uint8 [n, length] -> [n, D]."""
        features: Tensor = self.blocks(self.bags(x))
        return features

    def bags(self, x: Tensor) -> Tensor:
        """[n, buckets], of mean square 1: what the initial weights of a layer are made for. An empty text has two spaces, and so few n-grams."""
        bags = hashed_ngrams(x, self.characters, self.words, self.buckets)
        first = next((layer for layer in self.blocks if isinstance(layer, nn.Linear)), None)
        made = bags.float() if first is None else bags.to(first.weight.dtype)
        scaled: Tensor = F.normalize(made, dim=-1) * self.buckets**0.5
        return scaled

    def extra_repr(self) -> str:
        return f"characters={self.characters}, words={self.words}, buckets={self.buckets}"
