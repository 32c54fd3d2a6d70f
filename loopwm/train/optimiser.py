"""AdamW with decay on matrices only, its schedule, and the averaged weights used for evaluation."""

from __future__ import annotations

import copy

import torch
from torch import nn

from loopwm.model.core import LoopedCore
from loopwm.model.world_model import WorldModel
from loopwm.train.config import OptimConfig


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict]:
    """AdamW groups, each with its `pace`: the share of the learning rate it is given.

    Matrices and convolutions decay; norms, biases and gains do not; neither do B, a and Delta, and those learn slowly.
    """
    retained = [module for module in model.modules() if isinstance(module, LoopedCore)]
    slow = {id(p) for core in retained for p in (core.B.weight, *core.retention.parameters())}
    decayed, kept, slowed = [], [], []
    for name, parameter in model.named_parameters():
        if id(parameter) in slow:
            slowed.append(parameter)
        else:
            (decayed if parameter.ndim in (2, 4) and not name.endswith("position") else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "pace": 1.0},
        {"params": kept, "weight_decay": 0.0, "pace": 1.0},
        {"params": slowed, "weight_decay": 0.0, "pace": config.slow},
    ]
    return [group for group in groups if group["params"]]


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """The optimiser, its learning rate to be set by `set_rate` before every update."""
    return torch.optim.AdamW(parameter_groups(model, config), lr=config.lr, betas=config.betas, foreach=True)


def set_rate(optimiser: torch.optim.AdamW, rate: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["pace"]


def learning_rate(config: OptimConfig, update: int, updates: int) -> float:
    """Rate of update 0, 1, ..., updates - 1: linear warm-up, plateau, linear cooldown to zero."""
    warm = min(1.0, (update + 1) / max(config.warmup, 1))
    cool = min(1.0, (updates - update) / max(config.cooldown * updates, 1))
    return config.lr * min(warm, cool)


class Average:
    """Exponential moving average of the weights. Early on it follows faster, so that short runs have one too."""

    def __init__(self, model: WorldModel, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: WorldModel, updates_done: int) -> None:
        """Move towards `model`, whose weights have seen `updates_done` updates."""
        decay = min(self.decay, (1 + updates_done) / (10 + updates_done))
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)
