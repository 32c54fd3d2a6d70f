"""A core whose loop contracts by construction of its update and by the size of two matrices per layer.

    h^(t+1) = Abar h^(t) + (1 - Abar) G(h^(t), e),    G(h, e) = B e + L c(h, e),    c 1-Lipschitz in h, L < 1

The theorem and its proof are in docs/certificate.md. Nothing constrains what G reads of e alone.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopwm.model.accounting import linear_flops
from loopwm.model.block import QK_GAIN
from loopwm.model.config import CERTIFIED_ABAR, ModelConfig
from loopwm.model.contraction import Contraction
from loopwm.model.core import Held, LoopedCore, Phases
from loopwm.model.retention import Retention

RADIUS = 4.0
"""R of the norm in front. Its slope at a state of unit root mean square is 0.97; an RMSNorm with eps = 1 has 0.71."""


class Routing(nn.Module):
    """All that a contractive layer reads of e: who attends to whom, what is added, what is let through.

    No loop changes it, so it is computed once per environment step, and nothing about it is constrained.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.qk = nn.Linear(width, 2 * width, bias=False)
        self.gain = nn.Parameter(torch.full((heads, 1, 1), QK_GAIN))
        self.shift = nn.Linear(width, hidden)
        self.gate = nn.Linear(width, hidden)
        # Mostly open at the start: a closed gate passes neither state nor gradient.
        nn.init.ones_(self.gate.bias)

    def forward(self, e: Tensor) -> Held:
        """e (B, N, D) -> P (B, H, N, N) with |P|_2 <= 1, shift (B, N, Q) and gate in (0, 1) (B, N, Q)."""
        batch, tokens, width = e.shape
        # (B, N, 2D) -> 2 x (B, H, N, D/H)
        q, k = self.qk(e).view(batch, tokens, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k = functional.normalize(q, dim=-1) * self.gain, functional.normalize(k, dim=-1)
        p = (q @ k.transpose(-1, -2)).softmax(-1)
        return bounded_rows(p).to(e.dtype), self.shift(e).to(e.dtype), self.gate(e).sigmoid().to(e.dtype)


def bounded_rows(p: Tensor) -> Tensor:
    """Row-stochastic p (..., N, N) divided so that its 2-norm is at most 1.

    |p|_2^2 <= (largest row sum) (largest column sum), and the rows sum to 1.
    """
    return p / p.sum(-2).amax(-1).clamp(min=1).sqrt()[..., None, None]


class ContractiveLayer(nn.Module):
    """x -> Wo [P Wv x; gate * maxmin(W1 x + shift)], 1-Lipschitz in x while |Wo| <= 1 and |[Wv; W1]| <= 1.

    Attention and MLP stand side by side between two matrices, so that the budget is spent once and shared by learning.
    The matrices start orthogonal: a matrix with a single singular value of 1 would pass on little of what it may.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.hidden = heads, hidden
        self.into = nn.Linear(width, width + hidden, bias=False)
        self.out = nn.Linear(width + hidden, width, bias=False)
        for linear in (self.into, self.out):
            nn.init.orthogonal_(linear.weight)

    def forward(self, x: Tensor, p: Tensor, shift: Tensor, gate: Tensor) -> Tensor:
        """x (B, N, D), p (B, H, N, N), shift and gate (B, N, Q) -> (B, N, D)."""
        batch, tokens, width = x.shape
        value, inner = self.into(x).split([width, self.hidden], dim=-1)
        # (B, N, D) -> (B, H, N, D/H)
        value = value.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)
        mixed = (p.to(value.dtype) @ value).transpose(1, 2).reshape(batch, tokens, width)
        return self.out(torch.cat([mixed, (gate * maxmin(inner + shift)).to(mixed.dtype)], dim=-1))

    def lipschitz(self) -> float:
        """|Wo| |[Wv; W1]| in float64, a Lipschitz constant of this layer."""
        # The largest eigenvalue of W W^T is well-conditioned and an order of magnitude cheaper than an SVD.
        factor = 1.0
        for weight in (self.into.weight.mT, self.out.weight):
            exact = weight.detach().cpu().double()
            factor *= float(torch.linalg.eigvalsh(exact @ exact.mT)[-1].sqrt())
        return factor

    @torch.no_grad()
    def project(self) -> None:
        """Put both matrices back to |W| <= 1, at the nearest such matrix: every singular value above 1 becomes 1."""
        for weight in (self.into.weight, self.out.weight):
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            weight.copy_((u * s.clamp(max=1)) @ v)


def maxmin(z: Tensor) -> Tensor:
    """Sort the pairs (z_i, z_{i + Q/2}) of z (..., Q): 1-Lipschitz, and it loses nothing of a gradient."""
    a, b = z.chunk(2, dim=-1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=-1)


def soft_ball(x: Tensor, radius: float) -> Tensor:
    """x / sqrt(1 + mean(x^2) / radius^2) over the last axis: 1-Lipschitz, of root mean square below `radius`.

    It is `radius` times an RMSNorm with eps = 1 of x / radius.
    """
    return x / (1 + x.square().mean(-1, keepdim=True) / radius**2).sqrt()


class CertifiedCore(LoopedCore):
    """The looped core with an update that contracts, whatever e is; all else is `LoopedCore`.

    A layer has as many parameters as an ordinary one: Q is half the hidden width of its MLP, because each hidden unit
    also gets a shift and a gate.
    """

    def build_update(self, config: ModelConfig) -> None:
        """As `LoopedCore.build_update`."""
        self.radius = RADIUS
        size = (config.width, config.heads, config.contractive_hidden)
        self.routings = nn.ModuleList(Routing(*size) for _ in range(config.shared))
        self.layers = nn.ModuleList(ContractiveLayer(*size) for _ in range(config.shared))
        self.phases = Phases(config)
        self.retention = Retention(config.width, config.loop.abar, CERTIFIED_ABAR)

    def held_input(self, e: Tensor) -> Held:
        """B e (B, N, D), then P, shift and gate of every layer."""
        return (self.B(e).to(e.dtype), *(part for routing in self.routings for part in routing(e)))

    def update(self, h: Tensor, e: Tensor, held: Held, phase: Tensor | None = None) -> Tensor:
        """h, e (B, N, D) -> (B, N, D); every loop does the same, so there is no phase."""
        abar, _ = self.retention.discretise()
        x = soft_ball(h, self.radius)
        for index, layer in enumerate(self.layers):
            x = layer(x, *held[1 + 3 * index : 4 + 3 * index])
        return abar * h + (1 - abar) * (held[0] + self.loop.lipschitz * x)

    @property
    def stages(self) -> list[tuple[Routing, ContractiveLayer]]:
        """The layers in order, each with what reads e for it."""
        return cast(list[tuple[Routing, ContractiveLayer]], list(zip(self.routings, self.layers, strict=True)))

    def contraction(self) -> Contraction:
        """The constants of the theorem, recomputed from the weights as they are."""
        factor = self.loop.lipschitz
        for _, layer in self.stages:
            factor *= layer.lipschitz()
        with torch.no_grad():
            abar, _ = copy.deepcopy(self.retention).cpu().double().discretise()
        return Contraction(factor, 1 - abar)

    def project(self) -> None:
        """Put the weights back where L is at most `model.loop.lipschitz`."""
        for _, layer in self.stages:
            layer.project()

    def sections(self) -> dict[str, list[nn.Module]]:
        """As `LoopedCore.sections`."""
        return {
            "held": [self.B, self.routings],
            "retention": [self.retention],
            "block": [self.layers],
            "coda": [self.coda, self.norm_out],
        }

    def held_flops(self, tokens: int) -> int:
        """As `LoopedCore.held_flops`, with the N x N products of queries and keys."""
        width = self.B.in_features
        maps = linear_flops(self.B, tokens) + linear_flops(self.routings, tokens)
        return maps + len(self.routings) * 2 * tokens * tokens * width

    def loop_flops(self, tokens: int) -> int:
        """As `LoopedCore.loop_flops`: the maps and the N x N products with the values."""
        width = self.B.in_features
        return linear_flops(self.layers, tokens) + len(self.layers) * 2 * tokens * tokens * width
