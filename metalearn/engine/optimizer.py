"""The outer optimizer and its learning rate."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from metalearn.engine.muon import MuonWithAdamW
from metalearn.engine.settings import TrainSettings
from metalearn.errors import UserError


def make_optimizer(algorithm: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """`train.optimizer`, the outer one."""
    # Without outer steps there may be no parameters, of which no optimizer can be made: one without numbers stands in for them.
    parameters = list(algorithm.parameters()) or [nn.Parameter(torch.empty(0))]
    rate, decay = settings.lr, settings.weight_decay
    if settings.optimizer == "sgd":
        return _uncompiled(torch.optim.SGD)(parameters, lr=rate, momentum=settings.momentum, weight_decay=decay)
    if settings.optimizer == "adamw":
        return _uncompiled(torch.optim.AdamW)(parameters, lr=rate, weight_decay=decay)
    if settings.optimizer == "muon":
        muon, adamw = _uncompiled(torch.optim.Muon), _uncompiled(torch.optim.AdamW)
        return MuonWithAdamW(parameters, rate, decay, muon, adamw)
    return _uncompiled(torch.optim.Adam)(parameters, lr=rate, weight_decay=decay)


def _uncompiled(optimizer: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """A class of torch's optimizers without what keeps torch.compile out of their methods.

    These wrappers import torch's compiler, which takes a second of every start, and no optimizer is compiled here. The wrapper of `step` also
    switches gradients off, as `no_grad` does.
    """
    wrapped = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    plain = {name: inspect.unwrap(getattr(optimizer, name)) for name in wrapped}
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), {**plain, "step": step})


def check_schedule(settings: TrainSettings) -> None:
    """Raises UserError where `train.schedule` would raise the rate, a setting would have no effect, or torch lacks the optimizer."""
    if settings.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        raise UserError(f"train.optimizer=muon needs torch 2.9 or later, not {torch.__version__}")
    if settings.momentum and settings.optimizer != "sgd":
        raise UserError(f"train.momentum={settings.momentum} goes with train.optimizer=sgd, not {settings.optimizer}")
    if settings.warmup and settings.warmup >= settings.steps:
        raise UserError(f"train.warmup={settings.warmup} must be less than train.steps={settings.steps}")
    if settings.schedule in ("cosine", "linear") and settings.lr_final > settings.lr:
        raise UserError(
            f"train.lr_final={settings.lr_final} is more than train.lr={settings.lr}: "
            f"train.schedule={settings.schedule} goes from train.lr down to train.lr_final"
        )


def make_schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings) -> LRScheduler:
    """`train.schedule` after `train.warmup`, stepped once per outer step.

    The rate of outer step s, counted from 0, is the schedule's times min(1, (s + 1) / warmup).
    """
    if settings.warmup:
        return _WarmedUp(optimizer, _schedule(optimizer, settings), settings.warmup)
    return _schedule(optimizer, settings)


def _schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings) -> LRScheduler:
    schedulers = torch.optim.lr_scheduler
    if settings.schedule == "cosine":
        return schedulers.CosineAnnealingLR(optimizer, T_max=settings.steps, eta_min=settings.lr_final)
    if settings.schedule == "linear":
        end_factor = settings.lr_final / settings.lr
        return schedulers.LinearLR(optimizer, start_factor=1.0, end_factor=end_factor, total_iters=settings.steps)
    if settings.schedule == "step":
        return schedulers.StepLR(optimizer, settings.schedule_every, settings.schedule_gamma)
    return schedulers.ConstantLR(optimizer, factor=1.0)


class _WarmedUp(LRScheduler):
    """A schedule whose first rates are smaller. The schedule itself works on a rate of its own, which it computes from the one before."""

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: LRScheduler, warmup: int) -> None:
        self._schedule, self._warmup, self._done = schedule, warmup, 0
        self.optimizer = optimizer
        self._apply()

    def step(self, epoch: int | None = None) -> None:
        for group, rate in zip(self.optimizer.param_groups, self._schedule.get_last_lr(), strict=True):
            group["lr"] = rate
        self._schedule.step()
        self._done += 1
        self._apply()

    def get_last_lr(self) -> list[float | Tensor]:
        """The rate of the next outer step."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {"schedule": self._schedule.state_dict(), "done": self._done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._schedule.load_state_dict(state_dict["schedule"])
        self._done = state_dict["done"]
        self._apply()

    def _apply(self) -> None:
        part = min(1.0, (self._done + 1) / self._warmup)
        for group, rate in zip(self.optimizer.param_groups, self._schedule.get_last_lr(), strict=True):
            group["lr"] = rate * part
