"""What number a digit is part of: digits are tokens of their own, but what happens to a number happens to its value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from loopwm.model.text.packing import Texts
from loopwm.text.vocabulary import SPACE

PERIODS = (10.0, 100.0, 1000.0)
"""Values are told apart up to the longest of them; longer numbers by what is left after division by it."""


def digits(words: Sequence[str]) -> Tensor:
    """(V, 2): the value of every word that is a digit, or -1; and whether it begins a word, 1 or 0."""
    rows = [
        (int(word[-1]) if len(bare := word.removeprefix(SPACE)) == 1 and bare in "0123456789" else -1, word != bare)
        for word in words
    ]
    return torch.tensor(rows, dtype=torch.long)


def values(texts: Texts, table: Tensor) -> tuple[Tensor, Tensor]:
    """Of every word (M,): the value of the number of which it is a digit, modulo the longest period, 0 elsewhere; and
    whether it is one."""
    digit, opens = table[texts.tokens].unbind(-1)
    known = digit >= 0
    first = texts.place == 0
    goes_on = known & known.roll(1) & ~first & (opens == 0)
    number = (known & ~goes_on).cumsum(0) * known
    # The ones are the last digit of a number, so that places are counted from its end.
    count = torch.zeros(int(number.max()) + 1 if len(number) else 1, dtype=torch.long, device=digit.device)
    count.index_add_(0, number, torch.ones_like(number))
    passed = torch.arange(len(number), device=digit.device)
    start = (passed * ~goes_on).cummax(0).values if len(number) else passed
    power = (count[number] - 1 - (passed - start)) * known
    small = power < math.log10(PERIODS[-1])
    worth = torch.where(known & small, digit * 10 ** power.clamp(0, 9), 0)
    return torch.zeros_like(count).index_add(0, number, worth)[number] * known, known


class NumberValues(nn.Module):
    """Adds to the digits of a number phases of its value, so that going on by so much is a rotation.

    Source: arXiv 2502.09741.
    """

    def __init__(self, words: Sequence[str], width: int) -> None:
        super().__init__()
        self.table: Tensor
        self.register_buffer("table", digits(words), persistent=False)
        self.out = nn.Linear(2 * len(PERIODS), width, bias=False)
        nn.init.normal_(self.out.weight, std=width**-0.5)

    def forward(self, texts: Texts) -> Tensor:
        """(M, D), 0 at words that are not digits."""
        value, known = values(texts, self.table)
        angle = value[:, None] * (2 * math.pi / torch.tensor(PERIODS, device=value.device))
        phases = torch.cat([angle.cos(), angle.sin()], -1) * known[:, None]
        return self.out(phases.to(self.out.weight.dtype))
