"""How well probabilities are calibrated: whether of the answers given with 80 %, 80 % are right.

Of all queries of all tasks together: the expected calibration error (ECE, Guo et al. 2017, https://arxiv.org/abs/1706.04599), the mean log loss
(NLL) and the Brier score, the squared distance of the probabilities from 1 for the label and 0 for the others, summed over labels (0 to 2).
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn.tasks import Examples

BINS = 15  # of equal width, as in Guo et al.


@dataclass(frozen=True)
class Reliability:
    """Sums over queries, so that those of several batches add up.

    Attributes:
        counts: [BINS], queries whose largest probability lies in the bin.
        confidence: [BINS], sum of these probabilities.
        right: [BINS], how many of these labels were right.
        nll: sum of the log losses.
        brier: sum of the Brier scores.
    """

    counts: Tensor
    confidence: Tensor
    right: Tensor
    nll: Tensor
    brier: Tensor

    @classmethod
    def of_outputs(cls, outputs: Tensor, query: Examples) -> Reliability:
        """Of logits [T, n, N] for the queries of T tasks, each at its own size."""
        parts: list[Reliability] = []

        def measured(logits: Tensor, y: Tensor) -> Tensor:
            parts.append(cls.of(logits.float().softmax(-1), y))
            return y.new_zeros(y.shape[0])

        query.by_task(measured, outputs)
        return functools.reduce(operator.add, parts)

    @classmethod
    def of(cls, p: Tensor, y: Tensor) -> Reliability:
        """Of probabilities [..., N] and labels [...]; on their device, without waiting for it."""
        p, y = p.flatten(0, -2), y.flatten()
        confidence, guess = p.max(-1)
        # A product with the members of each bin: sums of which the order is always the same, on a GPU too.
        place = (confidence * BINS).long().clamp(0, BINS - 1)
        members = (place == torch.arange(BINS, device=p.device)[:, None]).to(p.dtype)  # [BINS, queries]
        of_label = p.gather(-1, y[:, None])[:, 0]

        brier = p.square().sum(-1) - 2 * of_label + 1
        return cls(
            members.sum(1),
            members @ confidence,
            members @ (guess == y).to(p.dtype),
            -of_label.clamp(min=torch.finfo(p.dtype).tiny).log().sum(),
            brier.sum(),
        )

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(
            self.counts + other.counts,
            self.confidence + other.confidence,
            self.right + other.right,
            self.nll + other.nll,
            self.brier + other.brier,
        )

    @property
    def bins(self) -> list[list[float]]:
        """Of each bin that holds queries, the least confident first: how many, their mean largest probability, the share of right ones."""
        rows = zip(self.counts.tolist(), self.confidence.tolist(), self.right.tolist(), strict=True)
        return [[int(count), confidence / count, right / count] for count, confidence, right in rows if count]

    def record(self) -> dict[str, float]:
        """ece, nll and brier."""
        count = float(self.counts.sum())
        return {
            "ece": float((self.confidence - self.right).abs().sum()) / count,
            "nll": float(self.nll) / count,
            "brier": float(self.brier) / count,
        }
