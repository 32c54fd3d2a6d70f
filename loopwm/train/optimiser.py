"""AdamW with decay on matrices only, or Muon beside it, the schedule, and the averaged weights used for evaluation."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from loopwm.model.core import LoopedCore
from loopwm.model.world_model import WorldModel
from loopwm.train.config import OptimConfig
from loopwm.train.hardware import has_bfloat16
from loopwm.train.muon import SinglePrecisionMuon


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict]:
    """Groups of parameters, each with its `pace`: the share of the learning rate it is given.

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


class Optimiser:
    """torch's optimisers for the parameters of a model, used as one.

    With `muon`, linear maps are Muon's, scaled so that its updates are as large as AdamW's and one learning rate fits
    both. Source: https://kellerjordan.github.io/posts/muon and arXiv 2502.16982.
    """

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        groups, self.parts = parameter_groups(model, config), list[torch.optim.Optimizer]()
        if config.kind == "muon":
            linear = {id(one.weight) for one in model.modules() if isinstance(one, nn.Linear) and len(one.weight) > 1}
            maps = [p for p in groups[0]["params"] if id(p) in linear]
            groups[0]["params"] = [p for p in groups[0]["params"] if id(p) not in linear]
            groups = [group for group in groups if group["params"]]
            # Muon has no group without parameters, and a model always has linear maps.
            theirs = {"params": maps, "weight_decay": config.weight_decay, "pace": 1.0}
            if has_bfloat16(maps[0].device):
                self.parts.append(torch.optim.Muon([theirs], lr=config.lr, adjust_lr_fn="match_rms_adamw"))
            else:
                self.parts.append(SinglePrecisionMuon([theirs], lr=config.lr))
        self.parts.append(torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, foreach=True))

    @property
    def param_groups(self) -> list[dict]:
        """Of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    def set_rate(self, rate: float) -> None:
        """Give every group its share of the learning rate; to be called before every update."""
        for group in self.param_groups:
            group["lr"] = rate * group["pace"]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """One update of all parameters."""
        for part in self.parts:
            part.step()

    def state(self) -> dict[int, dict[str, Tensor]]:
        """What is remembered of every parameter, by its place in `param_groups`."""
        found, first = {}, 0
        for part in self.parts:
            found |= {first + place: slot for place, slot in part.state_dict()["state"].items()}
            first += sum(len(group["params"]) for group in part.param_groups)
        return found

    def restore(self, state: dict[int, dict[str, Tensor]]) -> None:
        """Go on from what `state` gave."""
        first = 0
        for part in self.parts:
            count = sum(len(group["params"]) for group in part.param_groups)
            own = {place - first: slot for place, slot in state.items() if first <= place < first + count}
            part.load_state_dict({"state": own, "param_groups": part.state_dict()["param_groups"]})
            first += count


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
