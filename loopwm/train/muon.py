"""Muon without bfloat16: torch's own rounds to it, whatever the hardware, and emulated that takes longer than all else
in an update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class SinglePrecisionMuon(torch.optim.Muon):
    """torch's Muon, with matrices made orthogonal in float32, and its updates as large as AdamW's.

    Source: https://kellerjordan.github.io/posts/muon and arXiv 2502.16982.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, lr=lr, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            parameters, gradients, momenta = list[Tensor](), list[Tensor](), list[Tensor]()
            self._init_group(group, parameters, gradients, momenta)
            how = group["ns_coefficients"], group["ns_steps"], group["eps"]
            for parameter, gradient, momentum in zip(parameters, gradients, momenta, strict=True):
                momentum.lerp_(gradient, 1 - group["momentum"])
                update = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * 0.2 * max(parameter.shape) ** 0.5
                parameter.add_(orthogonal(update, *how), alpha=-rate)


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The matrix (D, E) with all of its singular values near one, by Newton and Schulz's iteration of degree five."""
    a, b, c = coefficients
    wide = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if wide is not matrix else x
