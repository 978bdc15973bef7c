"""The outer optimizer and its learning rate."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from metalearn.engine.settings import TrainSettings
from metalearn.errors import UserError


def make_optimizer(algorithm: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """`train.optimizer`, the outer one."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(algorithm.parameters(), lr=settings.lr)
    return torch.optim.Adam(algorithm.parameters(), lr=settings.lr)


def check_schedule(settings: TrainSettings) -> None:
    """Raises UserError where `train.schedule` would raise the rate."""
    if settings.schedule in ("cosine", "linear") and settings.lr_final > settings.lr:
        raise UserError(
            f"train.lr_final={settings.lr_final} is more than train.lr={settings.lr}: "
            f"train.schedule={settings.schedule} goes from train.lr down to train.lr_final"
        )


def make_schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings) -> LRScheduler:
    """`train.schedule`, stepped once per outer step."""
    schedulers = torch.optim.lr_scheduler
    if settings.schedule == "cosine":
        return schedulers.CosineAnnealingLR(optimizer, T_max=settings.steps, eta_min=settings.lr_final)
    if settings.schedule == "linear":
        end_factor = settings.lr_final / settings.lr
        return schedulers.LinearLR(optimizer, start_factor=1.0, end_factor=end_factor, total_iters=settings.steps)
    if settings.schedule == "step":
        return schedulers.StepLR(optimizer, settings.schedule_every, settings.schedule_gamma)
    return schedulers.ConstantLR(optimizer, factor=1.0)
