"""A compiled block that computes the same whatever number of rows it is given."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from loopwm.model.core import Held


class Move(Protocol):
    """The type of `LoopedCore.move`."""

    def __call__(self, h: Tensor, e: Tensor, held: Held, phase: Tensor | None, size: Tensor | None) -> Tensor: ...


def for_any_batch(move: Move) -> Move:
    """A compiled `LoopedCore.move`, made to treat every number of rows alike.

    Left to itself the compiler fits the code to the numbers of rows it happens to meet, and compiles again for a single
    one. A resumed run meets others, and would differ in the last bits from a run that was never interrupted.
    """
    from torch._dynamo.decorators import mark_unbacked

    def unfitted(h: Tensor, e: Tensor, held: Held, phase: Tensor | None, size: Tensor | None) -> Tensor:
        # What has one row is the same for all: that one is a constant of the shape.
        own = tuple(part for part in (phase, size) if part is not None and len(part) > 1)
        for tensor in (h, e, *held, *own):
            mark_unbacked(tensor, 0)
        return move(h, e, held, phase, size)

    return unfitted
