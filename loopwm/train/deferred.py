"""Eq. 16-22, deferred decoding: a window is imagined from o_0 alone, and only its end is decoded.

The report counts latents from the embedded o_0 on: h_k has seen k actions and stands for o_k. Here h_k has seen
a_0 .. a_k and stands for o_{k+1} (docs/time.md). So a window of K actions has K - 1 latents on the way, h_0 .. h_{K-2},
whose targets are E(o_1) .. E(o_{K-1}), and the end h_{K-1}, which is decoded to o_K, r_{K-1} and c_{K-1}. Between the K
latents there are K - 1 moves; the one from nothing to h_0 encodes o_0 and is not counted.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from loopwm.data.windows import Windows
from loopwm.model.world_model import WorldModel
from loopwm.train.config import LossConfig
from loopwm.train.losses import LossTerms, window_loss


class DeferredDecoding:
    """Terminal loss + alpha consistency + beta budget, Eq. 19-21."""

    def __init__(self, config: LossConfig, reward_std: float) -> None:
        self.config, self.reward_std = config, reward_std

    def unroll(
        self, model: WorldModel, windows: Windows, num_loops: Tensor | int | None, draws: torch.Generator
    ) -> Tensor:
        """Eq. 16-17: only o_0 is encoded; nothing is drawn."""
        return model.imagine(windows.actions, observation=windows.observations[:, 0], num_loops=num_loops)

    def terms(self, model: WorldModel, windows: Windows, latents: Tensor) -> LossTerms:
        """Eq. 19, with the terms of Eq. 20-21 under `further`; both are 0 where K = 1 leaves nothing on the way."""
        deferred = self.config.deferred
        terminal = window_loss(model, windows.last(), latents[:, -1:], self.config, self.reward_std)
        moves = drift(latents)
        further = {
            "budget": budget(moves, deferred.cmax),
            "drift": moves.detach().mean() if moves.numel() else moves.new_zeros(()),
        }
        total = terminal.total + deferred.beta * further["budget"]
        if deferred.alpha:
            target = embeddings(model, windows.observations[:, 1:])
            further["consistency"] = consistency(model.summary(latents[:, :-1]), target[:, :-1])
            further["embedding_spread"] = target.std(0).square().mean().sqrt()
            total = total + deferred.alpha * further["consistency"]
        return replace(terminal, total=total, further=further)


@torch.no_grad()
def embeddings(model: WorldModel, observations: Tensor) -> Tensor:
    """sg(E(o)): (B, K, *S) -> (B, K, N, D), the frozen encoder of Eq. 20.

    The terminal loss goes on training E, so the target moves; but no gradient reaches E through it, so that nothing is
    gained by embedding all observations alike.
    """
    return model.encode(observations)


def consistency(summary: Tensor, target: Tensor) -> Tensor:
    """Eq. 20: mean over windows, steps, tokens and channels of |g_w(h_k) - sg(E(o_{k+1}))|^2, both (B, K - 1, N, D)."""
    return (summary - target).square().mean() if target.numel() else summary.sum()


def drift(latents: Tensor) -> Tensor:
    """|h_{k+1} - h_k| / sqrt(N D), (B, K, N, D) -> (B, K - 1): 1 moves every number by 1 in the mean square."""
    size = math.sqrt(latents.shape[-1] * latents.shape[-2])
    return torch.linalg.vector_norm(latents[:, 1:] - latents[:, :-1], dim=(-2, -1)) / size


def budget(moves: Tensor, cmax: float, counts: Tensor | None = None) -> Tensor:
    """Eq. 21: mean over windows of max(0, sum of the moves (B, K - 1) - (K - 1) Cmax).

    Args:
        counts: (B,), the moves that there are, where those of some windows are 0 because there are none.
    """
    allowed = moves.shape[1] if counts is None else counts
    return (moves.sum(1) - allowed * cmax).clamp(min=0).mean()
