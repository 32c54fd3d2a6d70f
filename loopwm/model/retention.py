"""Eq. 6-7: how much of the latent survives one loop, by zero-order hold of h' = A h + B e + R."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Retention(nn.Module):
    """A = diag(-exp(a)), Abar = exp(Delta A), per channel.

    a starts at 0 and Delta at -log(abar), so that every channel of Abar starts at `abar`. Delta is kept positive by a
    softplus. Both stay in float32 and are excluded from weight decay (a one-dimensional parameter never decays here).

    exp(-1e6) is 0 in floating point, so "in (0, 1) by construction" needs help after a huge gradient step: the exponent
    Delta exp(a) is limited so that Abar stays inside `limits`.

    Source: arXiv 2606.18208, Eq. 6-7.
    """

    a_max = 4.0

    def __init__(self, width: int, abar: float, limits: tuple[float, float] = (0.001, 0.999)) -> None:
        super().__init__()
        self.abar_min, self.abar_max = limits
        delta = -math.log(abar)
        self.a = nn.Parameter(torch.zeros(width))
        self.raw_delta = nn.Parameter(torch.full((width,), math.log(math.expm1(delta))))

    @property
    def delta(self) -> Tensor:
        """Delta > 0, (D,)."""
        return functional.softplus(self.raw_delta)

    def discretise(self) -> tuple[Tensor, Tensor]:
        """Abar (D,) in (0, 1), and exp(-a) (D,), the gain of the held input."""
        a = self.a.clamp(-self.a_max, self.a_max)
        exponent = (self.delta * a.exp()).clamp(-math.log(self.abar_max), -math.log(self.abar_min))
        return (-exponent).exp(), (-a).exp()
