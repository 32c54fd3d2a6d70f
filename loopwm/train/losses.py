"""Eq. 9-10: what a window costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from loopwm.data.windows import Windows
from loopwm.model.world_model import WorldModel
from loopwm.train.config import LossConfig


@dataclass(frozen=True)
class LossTerms:
    """Eq. 10 and its three terms, each a scalar: `total` = observation + lambda_r reward + lambda_c continue.

    A gate trained together with the core adds `halting` to the total.
    """

    total: Tensor
    observation: Tensor
    reward: Tensor
    continues: Tensor
    halting: Tensor | None = None

    def detached(self) -> dict[str, float]:
        """The terms as plain numbers, under the names used in the log."""
        names = {"loss": self.total, "observation": self.observation, "reward": self.reward, "continue": self.continues}
        if self.halting is not None:
            names["halting"] = self.halting
        return {name: float(value.detach()) for name, value in names.items()}


def visible_steps(batch: int, window: int, observed: float, generator: torch.Generator) -> Tensor:
    """Which observations of each window the model gets to see, (B, K) bool.

    o_0 always. A share `observed` of the windows is teacher-forced throughout; every other window is shown a prefix of
    random length and must imagine the rest, so that long rollouts are trained for.
    """
    prefix = torch.randint(1, window + 1, (batch,), generator=generator)
    forced = torch.rand(batch, generator=generator) < observed
    prefix = torch.where(forced, window, prefix)
    return torch.arange(window)[None, :] < prefix[:, None]


def shown(model: WorldModel, windows: Windows, visible: Tensor) -> Tensor:
    """e_0 ... e_{K-1}, zero where `visible` (B, K) says that the observation is hidden: (B, K, N, D)."""
    return model.encode(windows.observations[:, :-1]) * visible[..., None, None].to(windows.observations)


def unroll(model: WorldModel, windows: Windows, visible: Tensor, num_loops: Tensor | int | None) -> Tensor:
    """h_0 ... h_{K-1} of a window in which only the `visible` observations are given: (B, K, N, D)."""
    embeddings = shown(model, windows, visible)
    h = model.initial(len(visible))
    latents = []
    for k in range(visible.shape[1]):
        h = model.step(h, windows.actions[:, k], embeddings[:, k], num_loops=num_loops)
        latents.append(h)
    return torch.stack(latents, dim=1)


def transition_errors(
    model: WorldModel, latents: Tensor, observations: Tensor, rewards: Tensor, continues: Tensor, reward_std: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What every prediction costs, before any averaging.

    Args:
        latents: (..., N, D).
        observations, rewards, continues: what they should predict, (..., *S), (...) and (...); their axes may lack
            leading ones of the latents.
        reward_std: standard deviation of the training rewards; the reward error is measured in it.

    Returns:
        Squared errors of the features that ever change (..., *S without the others), squared errors of the reward
        (...), cross-entropies of the continue flag (...).
    """
    prediction = model.decode(latents)
    target = model.normalise(observations)
    error = (model.normalise(prediction.observation) - target)[..., model.observation_changes]
    reward = ((prediction.reward - rewards) / reward_std).square()
    flags = continues.expand_as(prediction.continue_logit)
    cross_entropy = functional.binary_cross_entropy_with_logits(prediction.continue_logit, flags, reduction="none")
    return error.square(), reward, cross_entropy


def window_loss(
    model: WorldModel, windows: Windows, latents: Tensor, config: LossConfig, reward_std: float
) -> LossTerms:
    """Eq. 10, averaged over windows, steps and the features that ever change, which are those that are scored.

    Args:
        latents: (B, K, N, D), one per transition of `windows`.
        reward_std: as in `transition_errors`.
    """
    truth = windows.observations[:, 1:], windows.rewards, windows.continues
    observation, reward, continues = (error.mean() for error in transition_errors(model, latents, *truth, reward_std))
    total = observation + config.reward * reward + config.continues * continues
    return LossTerms(total, observation, reward, continues)
