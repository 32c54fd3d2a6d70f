"""D: what a latent says about the world. Observation, reward, continue; and g_w, its summary in the encoder's terms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loopwm.data.statistics import Statistics
from loopwm.model.accounting import linear_flops
from loopwm.model.config import ModelConfig
from loopwm.model.images import ConvHead, PatchHead
from loopwm.model.text.head import TextHead
from loopwm.spaces import ObservationSpec


@dataclass(frozen=True)
class Prediction:
    """Decoded latents h_k, with the leading axes (...) of the latents.

    Attributes:
        observation: (..., *S) predicted o_{k+1} in environment units. Features that never change within an episode are
            not trained for, and their values mean nothing. Of a text (..., L), its words, padded with 0.
        reward: (...) predicted r_k.
        continue_logit: (...) logit of c_k, the episode going on after transition k.
    """

    observation: Tensor
    reward: Tensor
    continue_logit: Tensor

    @property
    def continue_probability(self) -> Tensor:
        """(...) probability that the episode goes on."""
        return self.continue_logit.sigmoid()


class ObservationHead(nn.Module):
    """(..., N, D) -> (..., *S) in normalised units: token by token for entities with a token each, otherwise from all
    tokens together."""

    def __init__(self, config: ModelConfig, spec: ObservationSpec) -> None:
        super().__init__()
        self.per_entity = spec.kind == "entities" and config.entity_tokens == "each"
        self.entities, self.shape = spec.shape[0], spec.shape
        inputs = config.width if self.per_entity else config.tokens * config.width
        self.read = nn.Linear(inputs, spec.num_features if self.per_entity else spec.size)

    def forward(self, h: Tensor) -> Tensor:
        return self.read(h) if self.per_entity else self.read(h.flatten(-2)).unflatten(-1, self.shape)

    def flops(self) -> int:
        """Operations of one observation."""
        return linear_flops(self.read, self.entities if self.per_entity else 1)


def observation_head(config: ModelConfig, spec: ObservationSpec) -> ObservationHead | ConvHead | PatchHead | TextHead:
    """The decoder for this kind of observation; of an image, the counterpart of its encoder."""
    if spec.kind == "text":
        return TextHead(config, spec)
    if spec.kind == "image":
        return ConvHead(config, spec) if config.image_encoder == "conv" else PatchHead(config, spec)
    return ObservationHead(config, spec)


class ScalarHead(nn.Module):
    """(..., N, D) -> (...): a linear reading of the mean token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.read = nn.Linear(config.width, 1)

    def forward(self, h: Tensor) -> Tensor:
        return self.read(h.mean(-2))[..., 0]


class RewardHead(ScalarHead):
    """The same in standard deviations of the training rewards, given back in the world's own unit.

    Its errors are measured in them too. If it read out rewards as they are, where all but a few are alike, the noise of
    a young reading would be dozens of them large, and nothing else would be learned.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__(config)
        self.register_buffer("mean", torch.tensor(statistics.reward_mean))
        self.register_buffer("std", torch.tensor(statistics.reward_std))

    def forward(self, h: Tensor) -> Tensor:
        reward = super().forward(h)
        return reward if self.mean is None or self.std is None else self.mean + self.std * reward

    def forget_units(self) -> None:
        """Read out rewards as they are, as heads did before they knew units; then the weights are all there is."""
        self.mean = self.std = None


class SummaryHead(nn.Module):
    """g_w: h_k -> what E(o_{k+1}) would be, both (..., N, D). One linear map per token, as a summary has to be cheap.

    Source: arXiv 2606.18208, Eq. 20.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.read = nn.Linear(config.width, config.width)

    def forward(self, h: Tensor) -> Tensor:
        return self.read(h)
