"""Training without a decoder: every latent tells the embedding of what comes next, and embeddings are kept Gaussian.

    |g_w(h_k) - E(o_{k+1})|^2 + lambda SIGReg(E(o_0) .. E(o_K)) + the reward and continue terms of Eq. 10

What a decoder has to draw, a latent need not hold if it tells nothing about what comes next: texture, or a background.
Alone, the alignment is best where all observations are embedded alike; SIGReg rules that out, because embeddings that
are distributed as N(0, I) cannot all be one. Nothing else is needed: no stopped gradient, no second encoder.

It is the natural partner of deferred decoding, where the report holds latents to a summary of what follows
(docs/equations.md, Eq. 20) and has to stop the gradient for the same reason.

Source: LeJEPA, arXiv 2511.08544: sketched isotropic Gaussian regularisation with the statistic of Epps and Pulley,
A test for normality based on the empirical characteristic function, Biometrika 70, 1983.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loopwm.data.windows import Windows
from loopwm.model.world_model import WorldModel
from loopwm.train.config import LossConfig
from loopwm.train.losses import LossTerms, PerStepDecoding, observation_errors, task_errors

REACH = 5.0
"""Frequencies of the statistic, in both directions; beyond, its weight exp(-t^2 / 2) leaves nothing."""


class EmbeddingAlignment(PerStepDecoding):
    """Windows are unrolled as where every step is decoded; a latent is held to the embedding of what it stands for.

    The observation head learns as a probe: from latents that it cannot change, so that errors can still be read.
    """

    def __init__(self, config: LossConfig, reward_std: float) -> None:
        super().__init__(config, reward_std)
        self._draws: torch.Generator | None = None

    def unroll(
        self, model: WorldModel, windows: Windows, num_loops: Tensor | int | None, draws: torch.Generator
    ) -> Tensor:
        """As `PerStepDecoding.unroll`; the directions of the terms that follow come from `draws` too."""
        self._draws = draws
        return super().unroll(model, windows, num_loops, draws)

    def terms(self, model: WorldModel, windows: Windows, latents: Tensor) -> LossTerms:
        """The terms above; that of the probe is called `observation`, and no weight but the head's depends on it."""
        embed = self.config.embed
        embeddings = model.encode(windows.observations)
        alignment = (model.summary(latents) - embeddings[:, 1:]).square().mean()
        # One embedding is all tokens of one observation: each token alone could still repeat its neighbours.
        samples = embeddings.flatten(-2).flatten(0, 1)
        gaussian = sigreg(samples, directions(samples.shape[1], embed.slices, self._draws).to(samples), embed.knots)
        probe = observation_errors(model, latents.detach(), windows.observations[:, 1:]).mean()
        errors = task_errors(model, latents, windows.rewards, windows.continues, self.reward_std)
        reward, continues = (error.mean() for error in errors)
        total = alignment + embed.gaussian * gaussian + probe
        total = total + self.config.reward * reward + self.config.continues * continues
        further = {
            "alignment": alignment,
            "gaussian": gaussian,
            "embedding_spread": samples.detach().std(0).square().mean().sqrt(),
        }
        return LossTerms(total, probe, reward, continues, further)


def directions(size: int, slices: int, draws: torch.Generator | None) -> Tensor:
    """Unit vectors, evenly over all directions, as columns: (size, slices)."""
    drawn = torch.randn(size, slices, generator=draws)
    return drawn / drawn.norm(dim=0)


def sigreg(samples: Tensor, along: Tensor, knots: int) -> Tensor:
    """How far samples (n, I) are from N(0, I): the mean of `epps_pulley` over the directions `along` (I, M)."""
    return epps_pulley(samples.float() @ along.float(), knots).mean()


def epps_pulley(x: Tensor, knots: int) -> Tensor:
    """Integral of |phi_n(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) over t from -5 to 5, of each column of x (n, M): (M,).

    phi_n is the characteristic function of the n numbers. 0 only for N(0, 1); about 1.06 / n for n samples of it. The
    statistic of the test is n times this. Trapezoidal rule: the integrand is even, so half of the `knots` suffice.
    """
    t = torch.linspace(0.0, REACH, (knots + 1) // 2, dtype=x.dtype, device=x.device)
    window = torch.exp(-t.square() / 2)
    angle = x[..., None] * t
    error = (angle.cos().mean(0) - window).square() + angle.sin().mean(0).square()
    return 2 * torch.trapezoid(error * window, t, dim=-1)
