"""What happened inside the loop, so that nobody has to re-implement the core to look at it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class StepTrace:
    """One environment step.

    Attributes:
        loops: (B,) loops each row really ran.
        residual: (T, B) relative change |h^(t+1) - h^(t)| / |h^(t+1)| of each loop, NaN where the row had left.
        norm: (B,) root mean square of the carried latent h_k.
    """

    loops: Tensor
    residual: Tensor
    norm: Tensor


@dataclass
class Trace:
    """Pass one to `step`, `observe` or `imagine`; afterwards it holds one StepTrace per environment step.

    Attributes:
        residuals: whether to measure how far each loop moved, which takes a little time; if not, they are (0, B).
    """

    steps: list[StepTrace] = field(default_factory=list)
    residuals: bool = True

    @property
    def loops(self) -> Tensor:
        """(B, K) loops used."""
        return torch.stack([step.loops for step in self.steps], dim=1)

    @property
    def residual(self) -> Tensor:
        """(T, B, K) relative change per loop, NaN where a row had finished; T is the largest over the steps."""
        deepest = max(len(step.residual) for step in self.steps)
        rows = []
        for step in self.steps:
            missing = step.residual.new_full((deepest - len(step.residual), step.residual.shape[1]), torch.nan)
            rows.append(torch.cat([step.residual, missing]))
        return torch.stack(rows, dim=-1)

    @property
    def norm(self) -> Tensor:
        """(B, K) root mean square of the carried latent."""
        return torch.stack([step.norm for step in self.steps], dim=1)
