"""How many loops each sequence gets in training: T = clamp(Poisson(mu), 1, 4 mu), per sequence or per few of them."""

from __future__ import annotations

import torch
from torch import Tensor

from loopwm.model.config import LoopConfig


def sample_loops(config: LoopConfig, batch: int, generator: torch.Generator) -> Tensor:
    """Draw the number of loops of each sequence, largest first.

    The rows of a training batch are exchangeable, so handing the largest depths to the leading rows changes nothing in
    law and lets finished rows leave the computation by slicing instead of gathering.

    Every call of the block has a fixed price, and the largest draw decides how many calls a step takes: about 2 mu
    where 128 sequences draw alone. With `depths` set, only so many draws are made, and each is shared by an equal part
    of the batch: every sequence keeps its law, and a step takes fewer calls.

    Returns:
        (B,) int64 on the CPU, in [1, 4 mu], descending.

    Source: arXiv 2606.18208, section on training; T = 0 is never drawn.
    """
    if config.depth_law == "fixed":
        return torch.full((batch,), config.mu)
    draws = min(config.depths, batch) or batch
    rate = torch.full((draws,), float(config.mu))
    if config.depth_law == "lognormal-poisson":
        spread = config.depth_spread
        # Subtracting spread^2 / 2 keeps the mean of the log-normal factor at 1.
        noise = torch.randn(draws, generator=generator) * spread - spread**2 / 2
        rate = rate * noise.exp()
    loops = torch.poisson(rate, generator=generator).long().clamp(1, config.max_loops)
    return loops.sort(descending=True).values[torch.arange(batch) * draws // batch]
