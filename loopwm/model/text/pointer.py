"""Which of the words that were seen to repeat: those that stand where what has just been written stands before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopwm.model.config import TextConfig
from loopwm.model.text.naming import NAMES, ways

_MISMATCH = 0.5
"""What an agreement further back still counts after each word that differs."""
_CELLS = 2**17
"""Pairs of words that are compared at once, few enough to stay in a processor's cache."""


def agreement(written: Tensor, remembered: Tensor) -> Tensor:
    """How far what stands before a word agrees with what stands before remembered ones: (R, L, C), from 0 to F.

    An agreement counts half as much for every word nearer by that differs, so that a list is followed beyond what
    changed in it.

    Args:
        written: (R, L, F), words before each place, nearest first; 0 is none. remembered: (R, C, F).
    """
    rows, length, _ = written.shape
    total = torch.empty(rows, length, remembered.shape[1], device=written.device)
    # Furthest first, word by word; what is not there is like nothing.
    words = torch.where(written == 0, -1, written).int().movedim(-1, 0).flip(0)
    others = remembered.int().movedim(-1, 0).flip(0)
    step = max(1, _CELLS // max(1, rows * remembered.shape[1]))
    for begin in range(0, length, step):
        part = torch.zeros_like(total[:, begin : begin + step])
        for word, other in zip(words[:, :, begin : begin + step, None], others[:, :, None], strict=True):
            part = torch.where(word == other, part + 1.0, _MISMATCH * part)
        total[:, begin : begin + step] = part
    return total


def headed_alike(heading: Tensor, remembered: Tensor) -> Tensor:
    """Whether the parts that remembered words are from begin as texts do: (R, T, C).

    Args:
        heading: (R, T, P), 0 is none. remembered: (R, C, P).
    """
    alike = (heading != 0).all(-1)[:, :, None].repeat(1, 1, remembered.shape[1])
    for word, other in zip(heading.int().unbind(-1), remembered.int().unbind(-1), strict=True):
        alike &= word[:, :, None] == other[:, None, :]
    return alike


@dataclass(frozen=True)
class Signs:
    """What speaks for and against remembered words, for each of the words that are written; all (R, L or 1, C).

    Attributes:
        readable: which were there when the text began.
        agreed: how far what stands before agrees. alike: whether their parts begin like the text. age: steps since.
        named: in which of the NAMES an action has named it since, as `named_by` says; all 0 where that is not asked.
    """

    readable: Tensor
    agreed: Tensor
    alike: Tensor
    age: Tensor
    named: Tensor

    @property
    def furthest(self) -> Tensor:
        """(R, L): of the agreements with what is readable."""
        return self.agreed.masked_fill(~self.readable, 0.0).amax(-1)


class Pointer(nn.Module):
    """Which of the words that were seen to repeat, and whether to.

    Source: arXiv 1704.04368, Eq. 8-9; that copying goes on where it is, as in arXiv 1603.06393, Section 3.3.
    """

    def __init__(self, width: int, config: TextConfig) -> None:
        super().__init__()
        self.reach, self.heading = config.follow, config.heading
        self.query, self.key = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.sharpness = nn.Parameter(torch.tensor(10.0))
        self.nothing = nn.Parameter(torch.zeros(1))
        self.copy = nn.Linear(width, 1)
        if self.reach:
            self.follow = positive(width, 1.0)
        self.forget = positive(width, 1.0) if config.recency else None
        self.trust = unlearned(width, 2) if config.trust else None
        self.touched = unlearned(width, len(NAMES)) if config.touched else None
        # About as much as agrees, at most, with another room than the one that is written about.
        self.belong = positive(width, 10.0) if self.heading else None

    def queries(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., D)."""
        return functional.normalize(self.query(x).float(), dim=-1) * self.sharpness

    def keys(self, states: Tensor) -> Tensor:
        """Of remembered words (..., D)."""
        return functional.normalize(self.key(states).float(), dim=-1)

    def follows(self, x: Tensor) -> Tensor:
        """What an agreement counts at states x (..., D): (..., 1); 1 in the beginning."""
        return functional.softplus(self.follow(x).float()) if self.reach else x[..., :1].float()

    def preference(self, x: Tensor, signs: Signs) -> Tensor:
        """Of states x (R, L, D) for what agrees with what was written, for parts that begin like it, against what is
        old, and for or against what actions have named since: (R, L, C)."""
        preferred = self.follows(x) * signs.agreed
        if self.touched is not None:
            worth = self.touched(x).float() @ ways(x.device)
            preferred = preferred + worth.gather(-1, signs.named.long().expand_as(preferred))
        if self.belong is not None:
            preferred = preferred + functional.softplus(self.belong(x).float()) * signs.alike
        if self.forget is None:
            return preferred
        return preferred - functional.softplus(self.forget(x).float()) * signs.age.float().log1p()

    def share(self, x: Tensor, best: Tensor, most: Tensor) -> Tensor:
        """How much of the probability at states x (..., D) may be copied: (..., 1).

        States tell what usually comes here. Whether it was seen, they hardly know; how far it agrees, does.

        Args:
            best: (..., 1), the furthest agreement with anything that may be read. most: (..., 1), if all words agreed.
        """
        logit = self.copy(x).float()
        if self.trust is not None:
            agrees, differs = self.trust(x).float().split(1, dim=-1)
            logit = logit + agrees * best.log1p() - differs * (most - best).log1p()
        return logit.sigmoid()

    def weights(self, x: Tensor, k: Tensor, signs: Signs) -> Tensor:
        """Attention (R, L, C) of states x (R, L, D) to k (R, C, D), and to what is preferred; what is missing to 1
        points at nothing."""
        scores = self.queries(x) @ k.transpose(1, 2) + self.preference(x, signs)
        return shares(scores, signs.readable, self.nothing)


def unlearned(width: int, many: int) -> nn.Linear:
    """So many numbers for every state, all 0 before anything is learned."""
    layer = nn.Linear(width, many)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def positive(width: int, at_first: float) -> nn.Linear:
    """A number for every state, whose softplus is `at_first` before anything is learned."""
    layer = nn.Linear(width, 1)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, math.log(math.expm1(at_first)))
    return layer


def shares(scores: Tensor, readable: Tensor, nothing: Tensor) -> Tensor:
    """Of what is `readable` (R, L or 1, C) by its scores (R, L, C); the rest to 1 is for `nothing` (1,)."""
    scores = scores.masked_fill(~readable, -torch.inf)
    return torch.cat([nothing.expand(*scores.shape[:-1], 1), scores], -1).softmax(-1)[..., 1:]


class Expectation(nn.Module):
    """What would come next if what was seen were gone on with, told to a word before it is chosen: so that it can be
    another one, where something has been taken from a list or put into it.

    An attention head that finds what follows on the same words before, as language models learn them: arXiv 2209.11895.
    """

    def __init__(self, width: int, config: TextConfig) -> None:
        super().__init__()
        # A part that begins alike counts as much as agrees, at most, with another one.
        begun = 1.0, float(config.follow), 1.0
        self.agree, self.belong, self.forget = (nn.Parameter(torch.tensor(one)) for one in begun)
        self.nothing = nn.Parameter(torch.zeros(1))
        self.told = nn.Linear(width, width, bias=False)
        self.named = nn.Linear(len(NAMES), width, bias=False) if config.touched else None

    def forward(self, states: Tensor, signs: Signs) -> Tensor:
        """Of remembered words with states (R, C, D), for each of the words that are written: (R, L, D)."""
        scores = self.agree * signs.agreed + self.belong * signs.alike - self.forget * signs.age.float().log1p()
        weights = shares(scores, signs.readable, self.nothing)
        told = self.told(weights.to(states.dtype) @ states)
        if self.named is None:
            return told
        digits = ways(states.device)
        share = weights.new_zeros(*weights.shape[:-1], digits.shape[1])
        share = share.scatter_add(-1, signs.named.long().expand_as(weights), weights)
        return told + self.named((share @ digits.T).to(states.dtype))
