"""A frozen sentence encoder, and a small head that is trained. Each text passes the encoder once: its embedding is kept (data/features.py)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn.backbones.base import Backbone, Stem
from metalearn.backbones.pretraining_data import UNKNOWN
from metalearn.backbones.sentence_encoder import SentenceEncoder
from metalearn.errors import UserError
from metalearn.nn.texts import texts_of


class Sentence(Backbone):
    """Sentence embeddings; or, brought to one length, through linear layers with ReLU between them.

    The encoder is no part of the state: a checkpoint holds the head and the encoder's fingerprint, and loads with no other encoder.

    Args:
        text_length: bytes of a text, of which nothing here depends; asked for as texts are needed.
        name, prompt, tokens: of the encoder, see SentenceEncoder.
        head: the width of each linear layer; None: the embeddings are the features, and nothing is trained.

    Raises:
        UserError: there is no such encoder.
    """

    uses_batch_statistics = False
    encoder_is: Tensor

    def __init__(self, text_length: int, name: str, prompt: str, tokens: int | str, head: Sequence[int] | None) -> None:
        super().__init__()
        self.encoder = SentenceEncoder(name, prompt, tokens)
        self.pretrained_on = UNKNOWN
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise([self.encoder.dim, *(head or ())]):
            layers += [*([nn.ReLU()] if layers else []), nn.Linear(before, after)]
        self.head = nn.Sequential(*layers)
        self.feature_dim = [self.encoder.dim, *(head or ())][-1]
        self.register_buffer("encoder_is", torch.tensor(list(self.encoder.fingerprint), dtype=torch.uint8))
        self.register_load_state_dict_post_hook(Sentence._check_encoder)  # type: ignore[no-untyped-call]

    def _check_encoder(self, _: object) -> None:
        if bytes(self.encoder_is.tolist()) != self.encoder.fingerprint:
            raise UserError(
                f"backbone.name={self.encoder.name}: the head was trained on the embeddings of another encoder than {self.encoder.folder} holds"
            )

    @property
    def frozen(self) -> bool:
        return not len(self.head)

    @property
    def stem(self) -> Stem:
        """The encoder: `forward` takes its embeddings in the place of texts."""
        return Stem(self._encoded, self.encoder.dim, self.encoder.fingerprint.hex)

    def forward(self, x: Tensor) -> Tensor:
        """Texts uint8 [n, length], or their embeddings [n, E] -> [n, D]."""
        if x.dtype == torch.uint8:
            x = _Encode.apply(x, self._encoded)
        if self.frozen:
            return x
        # Of mean square 1: what the initial weights of a layer are made for.
        x = F.normalize(x.to(next(self.head.parameters()).dtype), dim=-1) * self.encoder.dim**0.5
        features: Tensor = self.head(x)
        return features

    def _encoded(self, x: Tensor) -> Tensor:
        """uint8 [..., length] -> [..., E]"""
        return self.encoder(texts_of(x.flatten(0, -2)), x.device).view(*x.shape[:-1], -1)

    def extra_repr(self) -> str:
        return f"{self.encoder.name}, prompt={self.encoder.prompt!r}, tokens={self.encoder.tokens}"


class _Encode(torch.autograd.Function):
    """Python in the middle of a network: with a rule for vmap, and nothing to differentiate."""

    @staticmethod
    def forward(x: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        return encode(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, encode: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, int]:
        assert in_dims[0] is not None
        return _Encode.apply(x.movedim(in_dims[0], 0), encode), 0
