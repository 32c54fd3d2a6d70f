"""One transformer layer over the latent tokens: pre-norm, QK-norm with a learnable gain, no biases."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

QK_GAIN = 10.0
"""Start of the gain. Trained from 3, the coda's grew to 10 and beyond; one short comparison favoured starting there."""


class Attention(nn.Module):
    """Self-attention among N tokens, queries and keys normalised per head, with a learnable gain per head.

    Without the gain, normalised queries and keys cannot make attention sharp.
    The products are written out: for the 6 to 32 tokens of a latent state the fused kernel is slower on a CPU, and it
    has no second derivative there.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gain = nn.Parameter(torch.full((heads, 1, 1), QK_GAIN))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, N, D) -> (B, N, D)."""
        batch, tokens, width = x.shape
        # (B, N, 3D) -> 3 x (B, H, N, D/H)
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k = functional.normalize(q, dim=-1) * self.gain, functional.normalize(k, dim=-1)
        weights = (q @ k.transpose(-1, -2)).softmax(-1).to(v.dtype)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """x + Attention(Norm(x)), then x + MLP(Norm(x)). Permutation-equivariant in the tokens.

    Every branch reads a normalised state: that, not the retention, is what keeps the loop bounded.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_attention = nn.RMSNorm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.RMSNorm(width)
        self.mlp_in = nn.Linear(width, hidden, bias=False)
        self.mlp_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, phase: Tensor | None = None) -> Tensor:
        """x (B, N, D) -> (B, N, D).

        Args:
            phase: (B or 1, 3, 1, D), marks of this loop: added to the gains of both norms and to what the MLP reads.
        """
        if phase is None:
            x = x + self.attention(self.norm_attention(x))
            return x + self.mlp_out(functional.gelu(self.mlp_in(self.norm_mlp(x))))
        gain_attention, gain_mlp, shift = phase.unbind(1)
        x = x + self.attention(normalised(x) * (self.norm_attention.weight * (1 + gain_attention)))
        y = normalised(x) * (self.norm_mlp.weight * (1 + gain_mlp)) + shift
        return x + self.mlp_out(functional.gelu(self.mlp_in(y)))


def normalised(x: Tensor) -> Tensor:
    """x over its root mean square. Gains are multiplied with each other before x: far less work, there and backward."""
    return functional.rms_norm(x, x.shape[-1:])


class Layers(nn.Module):
    """`depth` blocks in a row."""

    def __init__(self, depth: int, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.width = width
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))

    def forward(self, x: Tensor, phase: Tensor | None = None) -> Tensor:
        """x (B, N, D) -> (B, N, D); phase (B or 1, depth, 3, 1, D)."""
        for i, block in enumerate(self.blocks):
            x = block(x, None if phase is None else phase[:, i])
        return x
