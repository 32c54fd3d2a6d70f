"""Attention among words, and between words and latents; places and steps are told by rotation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopwm.model.block import QK_GAIN
from loopwm.model.text.packing import Layout


class WordAttention(nn.Module):
    """Multi-head attention, QK-norm with a gain per head, no biases.

    Something to attend to is always there: a learned sink, so that a query that may look at nothing gives nothing.
    The products are written out: in bfloat16 on a CPU, learning through the fused kernel takes three times as long.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gain = nn.Parameter(torch.full((heads, 1), QK_GAIN))
        self.sink = nn.Parameter(torch.randn(heads, width // heads))

    def queries(self, x: Tensor, turn: Tensor | None = None) -> Tensor:
        """x (..., D) -> (..., H, D/H), turned by the angles `turn` (..., D/2H)."""
        q = self.query(x)
        unit = functional.normalize(q.float().unflatten(-1, (self.heads, -1)), dim=-1)
        return (turned(unit, turn) * self.gain).to(q.dtype)

    def keys(self, y: Tensor, turn: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values of y (..., D), both (..., H, D/H)."""
        k, v = self.key_value(y).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        return turned(functional.normalize(k.float(), dim=-1), turn).to(v.dtype), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """q (R, L, H, D/H) to k, v (R, C, H, D/H) where `mask` (R, L or 1, C) allows it -> (R, L, D), before `out`."""
        return self.attend_to(q, *self.lined_up(k, v), mask)

    def lined_up(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (R, C, H, D/H) as they are attended to, after the sink: (R H, 1 + C, D/H)."""
        sink = functional.normalize(self.sink.float(), dim=-1).to(k.dtype).expand(len(k), 1, -1, -1)
        return by_head(torch.cat([sink, k], 1)), by_head(torch.cat([torch.zeros_like(sink), v], 1))

    def attend_to(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `attend`, of what is `lined_up`, all of which is allowed when there is no mask."""
        rows, q = q.shape[:2], by_head(q)
        if mask is None:
            scores = torch.bmm(q, k.transpose(1, 2))
        else:
            allowed = functional.pad(mask, (1, 0), value=True)
            hidden = torch.zeros_like(allowed, dtype=q.dtype).masked_fill(~allowed, -torch.inf)
            bias = hidden[:, None].expand(-1, self.heads, q.shape[1], -1).flatten(0, 1)
            scores = torch.baddbmm(bias, q, k.transpose(1, 2))
        y = torch.bmm(scores.softmax(-1).to(v.dtype), v)
        return y.unflatten(0, (rows[0], self.heads)).transpose(1, 2).flatten(-2)

    def among(self, x: Tensor, layout: Layout, turn: Tensor, causal: bool) -> Tensor:
        """Words (M, D) that look at the words of their own text, or with `causal` at those up to them: (M, D)."""
        if not layout.groups:
            return x
        q, (k, v) = self.queries(x, turn), self.keys(x, turn)
        found = []
        for group in layout.groups:
            mask = group.valid[:, None, :]
            if causal:
                mask = mask & torch.ones(2 * (mask.shape[-1],), dtype=torch.bool, device=x.device).tril()
            found.append(self.attend(q[group.index], k[group.index], v[group.index], mask))
        return self.out(layout.join(found))

    def across(self, x: Tensor, layout: Layout, y: Tensor) -> Tensor:
        """Words (M, D) that look at the N tokens y (T, N, D) of their text: (M, D)."""
        if not layout.groups:
            return x
        k, v = self.keys(y)
        q, mask = self.queries(x), torch.ones(1, 1, y.shape[1], dtype=torch.bool, device=x.device)
        found = [self.attend(q[g.index], k[g.rows], v[g.rows], mask.expand(len(g.rows), -1, -1)) for g in layout.groups]
        return self.out(layout.join(found))

    def gathered(self, readers: Tensor, x: Tensor, layout: Layout) -> Tensor:
        """Readers (N, D) of every text, each looking at all of its words x (M, D): (T, N, D); 0 where it has none."""
        texts = len(layout.length)
        if not layout.groups:
            return x.new_zeros(texts, *readers.shape)
        q, (k, v) = self.queries(readers), self.keys(x)
        found = [
            self.attend(q.expand(len(g.rows), -1, -1, -1), k[g.index], v[g.index], g.valid[:, None, :])
            for g in layout.groups
        ]
        rows = torch.cat([group.rows for group in layout.groups])
        read = self.out(torch.cat(found))
        return read.new_zeros(texts, *read.shape[1:]).index_copy(0, rows, read)


def by_head(x: Tensor) -> Tensor:
    """(R, L, H, D/H) -> (R H, L, D/H)."""
    return x.transpose(1, 2).flatten(0, 1)


class FeedForward(nn.Module):
    """x + MLP(Norm(x))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.inner = nn.Linear(width, hidden, bias=False)
        self.outer = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(functional.gelu(self.inner(self.norm(x))))


class WordBlock(nn.Module):
    """x + Attention(Norm(x)) among the words of a text, then x + MLP(Norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.attention = WordAttention(width, heads)
        self.mlp = FeedForward(width, hidden)

    def forward(self, x: Tensor, layout: Layout, turn: Tensor) -> Tensor:
        """x (M, D) -> (M, D); turn (M, D/2H)."""
        return self.mlp(x + self.attention.among(self.norm(x), layout, turn, causal=False))


def angles(place: Tensor, half: int, longest: float = 512.0) -> Tensor:
    """Angles (..., half) of places (...), from one radian a place to one every `longest` places.

    Source: rotary position embedding, arXiv 2104.09864.
    """
    rate = longest ** (-torch.arange(half, device=place.device) / half)
    return place[..., None].float() * rate


def turned(x: Tensor, turn: Tensor | None) -> Tensor:
    """Pairs of x (..., H, D/H), its two halves, rotated by `turn` (..., D/2H)."""
    if turn is None:
        return x
    cos, sin = turn.cos()[..., None, :], turn.sin()[..., None, :]
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
