"""E and U: observations and actions onto latent tokens, all in normalised units."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopwm.model.accounting import linear_flops
from loopwm.model.config import ModelConfig
from loopwm.model.images import ConvEncoder, PatchEncoder
from loopwm.model.text.encoders import TextActionEncoder, TextEncoder
from loopwm.spaces import ActionSpec, ObservationSpec


class EntityEncoder(nn.Module):
    """A set of entities, one token each: (B, M, F) -> (B, N, D) with N = M. Permutation-equivariant."""

    def __init__(self, config: ModelConfig, spec: ObservationSpec) -> None:
        super().__init__()
        self.tokens = spec.shape[0]
        self.embed = nn.Linear(spec.num_features, config.width)

    def forward(self, observation: Tensor) -> Tensor:
        return self.embed(observation)

    def flops(self) -> int:
        """Operations of one observation."""
        return linear_flops(self.embed, self.tokens)

    def affine(self) -> tuple[Tensor, Tensor]:
        """W (D, F) and b (D,) of e = W o + b, for every token alike."""
        return self.embed.weight, self.embed.bias


class VectorEncoder(nn.Module):
    """All numbers spread over N tokens, each with a learned position: (B, S), or entities (B, M, F), -> (B, N, D)."""

    def __init__(self, config: ModelConfig, spec: ObservationSpec) -> None:
        super().__init__()
        self.tokens, self.axes = config.tokens, len(spec.shape)
        self.embed = nn.Linear(spec.size, config.tokens * config.width)
        self.position = nn.Parameter(torch.randn(config.tokens, config.width) / config.width**0.5)

    def forward(self, observation: Tensor) -> Tensor:
        return self.embed(observation.flatten(-self.axes)).unflatten(-1, (self.tokens, -1)) + self.position

    def flops(self) -> int:
        """Operations of one observation."""
        return linear_flops(self.embed, 1)

    def affine(self) -> tuple[Tensor, Tensor]:
        """W (N D, S) and b (N D,) of e = W o + b, for all tokens together; S is M F of entities."""
        return self.embed.weight, self.embed.bias + self.position.flatten()


ObservationEncoder = EntityEncoder | VectorEncoder | ConvEncoder | PatchEncoder | TextEncoder


def observation_encoder(config: ModelConfig, spec: ObservationSpec) -> ObservationEncoder:
    """The encoder for this kind of observation.

    Raises:
        UserError: an image that cannot be divided among the tokens.
    """
    if spec.kind == "text":
        return TextEncoder(config, spec)
    if spec.kind == "image":
        return ConvEncoder(config, spec) if config.image_encoder == "conv" else PatchEncoder(config, spec)
    own = spec.kind == "entities" and config.entity_tokens == "each"
    return EntityEncoder(config, spec) if own else VectorEncoder(config, spec)


class ActionEncoder(nn.Module):
    """u = U(a), the same for every token: (B, A) -> (B, 1, D).

    Which entity an action moves is for the latent to know: an entity's features say whether it is the controlled one.
    """

    def __init__(self, config: ModelConfig, spec: ActionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embed = nn.Linear(spec.size, config.width, bias=False)

    def forward(self, action: Tensor) -> Tensor:
        if self.spec.choices:
            parts = zip(action.long().unbind(-1), self.spec.choices, strict=True)
            action = torch.cat([functional.one_hot(index, count) for index, count in parts], -1)
            action = action.to(self.embed.weight.dtype)
        return self.embed(action)[..., None, :]

    def flops(self) -> int:
        """Operations of one action."""
        return linear_flops(self.embed, 1)


def action_encoder(
    config: ModelConfig, spec: ActionSpec, observation: ObservationSpec
) -> ActionEncoder | TextActionEncoder:
    """The encoder for this kind of action; texts are of the vocabulary of the observations."""
    return (
        TextActionEncoder(config, spec, len(observation.names)) if spec.kind == "text" else ActionEncoder(config, spec)
    )
