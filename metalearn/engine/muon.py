"""The outer optimizer Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): momentum whose matrices are made orthogonal.

torch.optim.Muon takes matrices alone. Here it is given every parameter with two dimensions or more, a convolution's kernels [o, c, k, k] as a
matrix [o, c*k*k], as the authors do; AdamW takes the others: scales, shifts and biases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

Make = Callable[..., Optimizer]  # parameters and settings -> an optimizer


class MuonWithAdamW(Optimizer):
    """Muon for matrices and kernels, AdamW for all else, with one learning rate and one decay.

    A step of Muon is as long as one of AdamW's usually is, 0.2 per weight for each unit of the rate (Liu et al. 2025,
    https://arxiv.org/abs/2502.16982, section 2.2), so one rate serves both.

    Args:
        parameters: at least one.
        lr: learning rate of both.
        weight_decay: in a step, weights shrink by lr times this.
        muon, adamw: what makes the two; torch's classes.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, muon: Make, adamw: Make
    ) -> None:
        every = list(parameters)
        self._matrices = [parameter for parameter in every if parameter.dim() >= 2]
        # They share the memory of the parameters; an optimizer of none is not to be had.
        self._flat = [nn.Parameter(one.detach().view(len(one), -1)) for one in self._matrices]
        others = [parameter for parameter in every if parameter.dim() < 2]
        self._muon = muon(
            self._flat or [nn.Parameter(torch.empty(0, 0))],
            lr=lr,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adamw = adamw(others or [nn.Parameter(torch.empty(0))], lr=lr, weight_decay=weight_decay)
        super().__init__(every, {"lr": lr, "weight_decay": weight_decay})
        self._share_groups()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # the loss is never computed here
        for flat, parameter in zip(self._flat, self._matrices, strict=True):
            flat.grad = None if parameter.grad is None else parameter.grad.reshape(flat.shape)
        self._muon.step()
        self._adamw.step()
        for flat in self._flat:
            flat.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])
        self._share_groups()

    def _share_groups(self) -> None:
        """What a schedule sets in this optimizer's groups, it sets in those of both."""
        self.param_groups: list[dict[str, Any]] = [*self._muon.param_groups, *self._adamw.param_groups]
