"""What an embedding says in environment units, so that a person can read the summary of a latent."""

from __future__ import annotations

import torch
from torch import Tensor

from loopwm.errors import UserError
from loopwm.model.encoders import EntityEncoder
from loopwm.model.images import ConvEncoder, PatchEncoder
from loopwm.model.text.encoders import TextEncoder
from loopwm.model.world_model import WorldModel


class Readout:
    """The least-squares inverse of E, taken from its weights: no data, no training, one small matrix.

    The encoders are affine, e = W o + b, so W^+ (e - b) gives back the observation an embedding was made from, exactly.
    Of a summary g_w(h_k) it gives the observation whose embedding is nearest. Whether that is near the truth depends on
    the model; `surprise` says so once the truth has been seen, and `strangeness` hints at it before.

    Raises:
        UserError: E maps different observations onto one embedding, as it does with images.
    """

    def __init__(self, model: WorldModel) -> None:
        self.model, self.per_token = model, isinstance(model.encoder, EntityEncoder)
        if isinstance(model.encoder, ConvEncoder | PatchEncoder | TextEncoder):
            raise UserError(
                f"An embedding holds far fewer numbers than the {model.observation.kind} it was made from, so it "
                "cannot be read back; use decode."
            )
        weight, self.offset = (part.detach().double() for part in model.encoder.affine())
        if int(torch.linalg.matrix_rank(weight)) < weight.shape[1]:
            raise UserError(
                f"The encoder puts {weight.shape[1]} features into an embedding that does not keep them apart, so "
                "embeddings cannot be read back; use decode, or train a wider model."
            )
        self.weight, self.inverse = weight, torch.linalg.pinv(weight)

    def observation(self, embedding: Tensor) -> Tensor:
        """E(o) or g_w(h_k), (..., N, D) -> the observation (..., *S) in environment units."""
        read = (self._centred(embedding) @ self.inverse.T).to(embedding.dtype)
        read = read if self.per_token else read.unflatten(-1, self.model.observation.shape)
        return read * self.model.observation_std + self.model.observation_mean

    def strangeness(self, embedding: Tensor) -> Tensor:
        """How far an embedding (..., N, D) is from that of any observation, (...), as a share of its own size.

        0 for an embedding of something; near 1 where it resembles nothing that could be observed.
        """
        centred = self._centred(embedding)
        beside = centred - centred @ self.inverse.T @ self.weight.T
        axes = (-2, -1) if self.per_token else (-1,)
        return (beside.square().sum(axes) / centred.square().sum(axes)).sqrt().to(embedding.dtype)

    def surprise(self, embedding: Tensor, observation: Tensor) -> Tensor:
        """How far a summary g_w(h_k) (..., N, D) was from o_{k+1} (..., *S) as it was then seen, (...).

        Root mean square over the features that change, in standard deviations of the training data: guessing their mean
        every time comes to about 1.
        """
        model = self.model
        error = model.normalise(self.observation(embedding)) - model.normalise(observation)
        axes = tuple(range(-len(model.observation.shape), 0))
        return error[..., model.observation_changes].square().mean(axes).sqrt()

    def _centred(self, embedding: Tensor) -> Tensor:
        """e - b in float64: (..., N, D) where E treats tokens alike, (..., N D) where it spreads one vector."""
        return (embedding if self.per_token else embedding.flatten(-2)).double() - self.offset
