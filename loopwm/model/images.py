"""Images onto latent tokens and back, in normalised units: as patches, or through convolutions.

Both ways lay the N tokens out as a grid over the image, so that a token stands for a place. All shapes (..., H, W, C).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopwm.errors import UserError
from loopwm.model.config import ModelConfig
from loopwm.spaces import ObservationSpec


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tokens over an image, such that all patches are alike and as square as can be.

    Raises:
        UserError: no such grid.
    """
    grids = [
        (rows, tokens // rows)
        for rows in range(1, tokens + 1)
        if tokens % rows == 0 and height % rows == 0 and width % (tokens // rows) == 0
    ]
    if not grids:
        raise UserError(
            f"model.tokens = {tokens} cannot be laid out as a grid of equal patches over an image of {height} by "
            f"{width} pixels; choose another number, such as 16 for 64 by 64."
        )
    return min(grids, key=lambda grid: abs(height // grid[0] - width // grid[1]))


def halvings(tokens: int, height: int, width: int) -> list[tuple[int, int]]:
    """Strides, 1 or 2 along each axis, of the convolutions that lead from an image to its grid of tokens.

    Raises:
        UserError: a patch is not a power of two high and wide.
    """
    rows, columns = token_grid(tokens, height, width)
    patch = height // rows, width // columns
    if any(side & (side - 1) for side in patch):
        raise UserError(
            f"model.image_encoder 'conv' halves the image until {rows} by {columns} tokens are left, and patches of "
            f"{patch[0]} by {patch[1]} pixels are not powers of two; record images of 64 by 64, or take 'patch'."
        )
    stages = max(side.bit_length() - 1 for side in patch)
    return [(2 if patch[0] >> (i + 1) else 1, 2 if patch[1] >> (i + 1) else 1) for i in range(stages)]


class PatchEncoder(nn.Module):
    """Every patch through the same linear map, each with a learned position: (..., H, W, C) -> (..., N, D).

    Source: the embedding of a vision transformer, arXiv 2010.11929.
    """

    def __init__(self, config: ModelConfig, spec: ObservationSpec) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.grid = token_grid(config.tokens, *spec.shape[:2])
        self.embed = nn.Linear(spec.size // config.tokens, config.width)
        self.position = nn.Parameter(torch.randn(config.tokens, config.width) / config.width**0.5)

    def forward(self, observation: Tensor) -> Tensor:
        return self.embed(patches(observation, self.grid)) + self.position

    def flops(self) -> int:
        """Operations of one image."""
        return 2 * self.tokens * self.embed.weight.numel()


class PatchHead(nn.Module):
    """Every token through the same linear map onto its patch: (..., N, D) -> (..., H, W, C)."""

    def __init__(self, config: ModelConfig, spec: ObservationSpec) -> None:
        super().__init__()
        self.tokens, self.shape = config.tokens, spec.shape
        self.grid = token_grid(config.tokens, *spec.shape[:2])
        self.read = nn.Linear(config.width, spec.size // config.tokens)

    def forward(self, h: Tensor) -> Tensor:
        return joined(self.read(h), self.grid, self.shape)

    def flops(self) -> int:
        """Operations of one image."""
        return 2 * self.tokens * self.read.weight.numel()


class ConvEncoder(nn.Module):
    """Strided convolutions down to the grid of tokens, then a linear map: (..., H, W, C) -> (..., N, D).

    Neighbouring patches see each other's edges, and what is found is found everywhere alike.
    """

    def __init__(self, config: ModelConfig, spec: ObservationSpec) -> None:
        super().__init__()
        self.tokens, self.shape = config.tokens, spec.shape
        strides = halvings(config.tokens, *spec.shape[:2])
        channels = [spec.num_features, *stage_channels(len(strides), config.width)]
        self.stages = nn.ModuleList(
            nn.Conv2d(before, after, kernel(stride), stride, padding=1)
            for (before, after), stride in zip(pairwise(channels), strides, strict=True)
        )
        for stage in self.stages:
            start_evenly(stage)
        self.embed = nn.Linear(channels[-1], config.width)
        self.position = nn.Parameter(torch.randn(config.tokens, config.width) / config.width**0.5)

    def forward(self, observation: Tensor) -> Tensor:
        """Images (..., H, W, C) -> (..., N, D)."""
        lead = observation.shape[:-3]
        # Channels stay last in memory, which is how convolutions on a CPU like them best.
        x = observation.reshape(-1, *self.shape).permute(0, 3, 1, 2)
        for stage in self.stages:
            x = functional.gelu(stage(x))
        # (n, channels, rows, columns) -> (n, N, channels)
        return (self.embed(x.flatten(2).mT) + self.position).unflatten(0, lead)

    def flops(self) -> int:
        """Operations of one image."""
        height, width, total = *self.shape[:2], 2 * self.tokens * self.embed.weight.numel()
        for stage in self.stages:
            assert isinstance(stage, nn.Conv2d)
            height, width = height // stage.stride[0], width // stage.stride[1]
            total += 2 * stage.weight.numel() * height * width
        return total


class ConvHead(nn.Module):
    """The way of `ConvEncoder` back, with transposed convolutions: (..., N, D) -> (..., H, W, C)."""

    def __init__(self, config: ModelConfig, spec: ObservationSpec) -> None:
        super().__init__()
        self.tokens, self.grid = config.tokens, token_grid(config.tokens, *spec.shape[:2])
        strides = halvings(config.tokens, *spec.shape[:2])
        channels = [spec.num_features, *stage_channels(len(strides), config.width)]
        self.read = nn.Linear(config.width, channels[-1])
        self.stages = nn.ModuleList(
            nn.ConvTranspose2d(after, before, kernel(stride), stride, padding=1)
            for (before, after), stride in reversed(list(zip(pairwise(channels), strides, strict=True)))
        )
        for stage in self.stages:
            start_evenly(stage)

    def forward(self, h: Tensor) -> Tensor:
        """Latents (..., N, D) -> images (..., H, W, C)."""
        lead = h.shape[:-2]
        # (n, N, D) -> (n, channels, rows, columns)
        x = self.read(h.reshape(-1, *h.shape[-2:])).unflatten(1, self.grid).permute(0, 3, 1, 2)
        for stage in self.stages:
            x = stage(functional.gelu(x))
        return x.permute(0, 2, 3, 1).unflatten(0, lead)

    def flops(self) -> int:
        """Operations of one image."""
        (height, width), total = self.grid, 2 * self.tokens * self.read.weight.numel()
        for stage in self.stages:
            assert isinstance(stage, nn.ConvTranspose2d)
            total += 2 * stage.weight.numel() * height * width
            height, width = height * stage.stride[0], width * stage.stride[1]
        return total


def start_evenly(stage: nn.Module) -> None:
    """Weights with which a signal is as large after the nonlinearity and the convolution as before, bias 0.

    With the usual start a signal loses two thirds in every stage, and an untrained encoder tells images hardly apart.

    Source: He initialisation, arXiv 1502.01852.
    """
    assert isinstance(stage, nn.Conv2d | nn.ConvTranspose2d) and stage.bias is not None
    terms = stage.in_channels * stage.weight[0, 0].numel()
    if isinstance(stage, nn.ConvTranspose2d):
        # Between the pixels that are spread out, an output sees only a part of the kernel.
        terms //= stage.stride[0] * stage.stride[1]
    nn.init.normal_(stage.weight, std=(2 / terms) ** 0.5)
    nn.init.zeros_(stage.bias)


def stage_channels(stages: int, width: int) -> list[int]:
    """Channels after each convolution: doubling, up to D, and never fewer than 8."""
    return [max(min(8, width), width >> (stages - 1 - i)) for i in range(stages)]


def kernel(stride: tuple[int, int]) -> tuple[int, int]:
    """Of a convolution that divides each axis by just its stride, when it is padded by 1."""
    return 2 + stride[0], 2 + stride[1]


def patches(image: Tensor, grid: tuple[int, int]) -> Tensor:
    """(..., H, W, C) -> (..., N, P), N = rows x columns of the grid, row by row, P numbers of a patch."""
    rows, columns = grid
    split = image.unflatten(-2, (columns, -1)).unflatten(-4, (rows, -1))  # (..., rows, h, columns, w, C)
    return split.transpose(-4, -3).flatten(-5, -4).flatten(-3)


def joined(parts: Tensor, grid: tuple[int, int], shape: tuple[int, ...]) -> Tensor:
    """The inverse of `patches`: (..., N, P) -> (..., *shape) with shape (H, W, C)."""
    rows, columns = grid
    height, width, channels = shape
    split = parts.unflatten(-1, (height // rows, width // columns, channels)).unflatten(-4, grid)
    return split.transpose(-4, -3).flatten(-5, -4).flatten(-3, -2)
