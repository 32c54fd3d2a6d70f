"""Which remembered words actions have named since: what was taken, opened or moved is no longer as it was seen."""

from __future__ import annotations

import torch
from torch import Tensor

from loopwm.model.text.encoders import Memory

NAMES = ((-1, 2), (0, 1), (0, 2), (1, 1), (1, 2))
"""Where names begin, counted from a remembered word, and how many words they have: an article before a thing is as
outdated as this is, and of two things alike the number tells which was named."""
NEVER = 2**31 - 1
"""The step of what does not happen."""


def first_named(memory: Memory) -> Tensor:
    """The step of the action that names what begins at a remembered word next, after that was read: (C, NAMES)."""
    return torch.stack([_next(memory, begin, count) for begin, count in NAMES], 1)


def named_by(first: Tensor, step: Tensor) -> Tensor:
    """In which of the ways names were named by `step` (...), as one number (...): a binary digit for each of NAMES.

    Args:
        first: (..., NAMES), as `first_named` has them.
    """
    worth = 2 ** torch.arange(len(NAMES), device=first.device)
    return ((first <= step[..., None]) * worth).sum(-1)


def ways(device: torch.device) -> Tensor:
    """(NAMES, 2^NAMES): the digits of every such number."""
    place = torch.arange(len(NAMES), device=device)
    return (torch.arange(2 ** len(NAMES), device=device) >> place[:, None] & 1).float()


def _next(memory: Memory, begin: int, count: int) -> Tensor:
    """Of names of `count` words, `begin` words after every one: (C,)."""
    words = torch.cat([memory.near[:, :1], memory.tokens[:, None], memory.near[:, 1:]], 1)
    window = torch.arange(len(memory.window), device=words.device).repeat_interleave(memory.window)
    # An action comes after the observation of its step.
    when = 2 * memory.step + memory.done
    size, times = int(words.max()) + 1, int(when.max()) + 1

    def coded(first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Window and name as one number, that with the time, so that names are in order, and where there is a name."""
        name, code = words[:, 1 + first : 1 + first + count], window
        for word in name.unbind(1):
            code = code * size + word
        return code, code * times + when, (name != 0).all(1)

    _, own, whole = coded(0)
    own = own[memory.done & whole].sort().values
    code, now, known = coded(begin)
    found = torch.cat([own, own.new_tensor([-1])])[torch.searchsorted(own, now, right=True)]
    named = (found // times == code) & known
    return torch.where(named, (found % times) // 2, NEVER)
