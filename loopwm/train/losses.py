"""Eq. 9-10: what a window costs when every step of it is decoded. `deferred.py` has the other way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from loopwm.data.windows import Windows
from loopwm.model.world_model import WorldModel
from loopwm.train.config import LossConfig


@dataclass(frozen=True)
class LossTerms:
    """Eq. 10 and its three terms, each a scalar: `total` = observation + lambda_r reward + lambda_c continue.

    `further`: other terms that `total` has, and numbers worth watching, by their name in the log.
    """

    total: Tensor
    observation: Tensor
    reward: Tensor
    continues: Tensor
    further: dict[str, Tensor] = field(default_factory=dict)

    def detached(self) -> dict[str, float]:
        """The terms as plain numbers, under the names used in the log."""
        names = {"loss": self.total, "observation": self.observation, "reward": self.reward, "continue": self.continues}
        return {name: float(value.detach()) for name, value in (names | self.further).items()}


class Objective(Protocol):
    """How windows are unrolled in training, and what their latents are held to."""

    def unroll(
        self, model: WorldModel, windows: Windows, num_loops: Tensor | int | None, draws: torch.Generator
    ) -> Tensor:
        """h_0 ... h_{K-1} of the windows, (B, K, N, D). All that is random here comes from `draws`."""
        ...

    def terms(self, model: WorldModel, windows: Windows, latents: Tensor) -> LossTerms:
        """The cost of `latents` (B, K, N, D), one per transition of `windows`."""
        ...


class PerStepDecoding:
    """Eq. 9-10: every latent is decoded."""

    def __init__(self, config: LossConfig, reward_std: float) -> None:
        self.config, self.reward_std = config, reward_std

    def unroll(
        self, model: WorldModel, windows: Windows, num_loops: Tensor | int | None, draws: torch.Generator
    ) -> Tensor:
        """With the observations in view that `visible_steps` draws, or with o_0 alone."""
        if self.config.imagined:
            return model.imagine(windows.actions, observation=windows.observations[:, 0], num_loops=num_loops)
        batch, window = windows.rewards.shape
        visible = visible_steps(batch, window, self.config.observed, draws, self.config.shown)
        return unroll(model, windows, visible.to(windows.rewards.device), num_loops)

    def terms(self, model: WorldModel, windows: Windows, latents: Tensor) -> LossTerms:
        """Eq. 10."""
        return window_loss(model, windows, latents, self.config, self.reward_std)


def visible_steps(batch: int, window: int, observed: float, generator: torch.Generator, shown: int = 1) -> Tensor:
    """Which observations of each window the model gets to see, (B, K) bool.

    o_0 always, and with it the `shown` earliest. A share `observed` of the windows is teacher-forced throughout; every
    other window is shown a prefix of random length and must imagine the rest, so that long rollouts are trained for.
    """
    prefix = torch.randint(min(shown, window), window + 1, (batch,), generator=generator)
    forced = torch.rand(batch, generator=generator) < observed
    prefix = torch.where(forced, window, prefix)
    return torch.arange(window)[None, :] < prefix[:, None]


def shown(model: WorldModel, windows: Windows, visible: Tensor) -> Tensor:
    """e_0 ... e_{K-1}, zero where `visible` (B, K) says that the observation is hidden: (B, K, N, D)."""
    embeddings = model.encode(windows.observations[:, :-1])
    return embeddings * visible[..., None, None].to(embeddings)


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
        Squared errors of the features that ever change (..., *S without the others), weighted where some entities are
        not there; squared errors of the reward (...), cross-entropies of the continue flag (...).
    """
    errors = observation_errors(model, latents, observations)
    return errors, *task_errors(model, latents, rewards, continues, reward_std)


def observation_errors(model: WorldModel, latents: Tensor, observations: Tensor) -> Tensor:
    """The leading part of `transition_errors`."""
    target = model.normalise(observations)
    error = (model.normalise(model.decode_observation(latents)) - target)[..., model.observation_changes].square()
    return error if model.observation.presence is None else error * model.observation.weights(observations)


def task_errors(
    model: WorldModel, latents: Tensor, rewards: Tensor, continues: Tensor, reward_std: float
) -> tuple[Tensor, Tensor]:
    """The other two parts of `transition_errors`: of the reward and of the continue flag."""
    reward = ((model.reward_head(latents) - rewards) / reward_std).square()
    logit = model.continue_head(latents)
    return reward, functional.binary_cross_entropy_with_logits(logit, continues.expand_as(logit), reduction="none")


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
