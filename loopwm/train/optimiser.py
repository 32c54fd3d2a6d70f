"""AdamW with decay on matrices only, its schedule, and the averaged weights used for evaluation."""

from __future__ import annotations

import copy

import torch
from torch import nn

from loopwm.model.core import LoopedCore
from loopwm.model.world_model import WorldModel
from loopwm.train.config import OptimConfig


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two AdamW groups: matrices that decay; everything else (a, Delta, B, norms, biases, gains) does not."""
    exempt = {id(module.B.weight) for module in model.modules() if isinstance(module, LoopedCore)}
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim == 2 and id(parameter) not in exempt and not name.endswith("position")
        (decayed if matrix else kept).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """The optimiser, its learning rate to be set by `learning_rate` before every update."""
    groups = decay_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, foreach=True)


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
