"""A linear head that was trained for one number of ways and serves another."""

from __future__ import annotations

import torch
from torch import Tensor


def resized_head(parameter: Tensor, ways: int) -> Tensor:
    """Lets a head trained for another number of ways start on `ways` classes, each from the mean of the trained rows: [T, N, ...] -> [T, ways, ...].

    Labels are permuted in every training task, so the rows' differences carry no meaning (Ye and Chao 2022, "How to Train Your MAML to
    Excel in Few-Shot Classification", section 5).
    """
    return parameter.mean(1, keepdim=True).expand(-1, ways, *parameter.shape[2:])


def rows_of_head(parameter: Tensor, ways: int) -> Tensor:
    """Lets a head that no inner step changes serve another number of ways, by a row of its own for each class: [T, N, ...] -> [T, ways, ...].

    Fewer classes take the first rows. Further ones take rows that are as long and as different from each other as the trained ones: how a trained
    row differs from the mean row, with its features turned on by one place.
    """
    trained, mean = parameter.shape[1], parameter.mean(1, keepdim=True)
    rows = [parameter]
    for turn in range(1, (ways - 1) // trained + 1):
        rows.append(mean + (parameter - mean).roll(turn, dims=-1) if parameter.dim() > 2 else parameter)
    return torch.cat(rows, dim=1)[:, :ways]
