"""Which remembered words actions have named since: what was taken, opened or moved is no longer as it was seen."""

from __future__ import annotations

import torch
from torch import Tensor

from loopwm.model.text.encoders import AFTER, Memory

NAMES = tuple((begin, count) for begin in range(AFTER) for count in range(1, AFTER + 1))
"""Where names begin, counted from a remembered word, and how many words they have: an article stands before the thing,
and is as outdated as this is."""
NEVER = 2**31 - 1
"""The step of what does not happen."""


def first_named(memory: Memory) -> Tensor:
    """The step of the action that names what begins at a remembered word next, after that was read: (C, NAMES)."""
    words = torch.cat([memory.tokens[:, None], memory.after], 1)
    return torch.stack([_next(memory, words, begin, count) for begin, count in NAMES], 1)


def _next(memory: Memory, words: Tensor, begin: int, count: int) -> Tensor:
    """Of names of `count` words, `begin` words after every one: (C,)."""
    window = torch.arange(len(memory.window), device=words.device).repeat_interleave(memory.window)
    # An action comes after the observation of its step.
    when = 2 * memory.step + memory.done
    ways, times = int(words.max()) + 1, int(when.max()) + 1

    def coded(first: int) -> tuple[Tensor, Tensor]:
        """Window and name as one number, and that with the time, for which names are in order."""
        code = window
        for place in range(first, first + count):
            code = code * ways + words[:, place]
        return code, code * times + when

    own = coded(0)[1][memory.done & (words[:, :count] != 0).all(1)].sort().values
    code, now = coded(begin)
    found = torch.cat([own, own.new_tensor([-1])])[torch.searchsorted(own, now, right=True)]
    named = (found // times == code) & (words[:, begin : begin + count] != 0).all(1)
    return torch.where(named, (found % times) // 2, NEVER)
